"""Exported multi-label models keep their sigmoid, in all formats and in the formats' own runtimes."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load_file, save_file

from densenet_cli import Classifier
from densenet_cli.errors import OutputError
from densenet_cli.export import export
from densenet_cli.export.exporter import EXPORT_FORMATS
from densenet_cli.export.model import ExportedModel
from densenet_cli.images.sources import from_object
from densenet_cli.weights import checkpoint
from tests.support.networks import FINDINGS, multi_label_weights

FILES = {"onnx": "m.onnx", "saved-model": "m", "tflite": "m.tflite", "keras": "m.keras", "safetensors": "m.safetensors"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return multi_label_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def outputs(weights, photographs):
    """The normalized pixels of the photographs, and the sigmoid of their logits, computed in float64."""
    classifier = Classifier(weights=weights, exact=True)
    pixels = np.concatenate([classifier.load(path) for path in photographs])
    results = list(classifier.stream(map(from_object, photographs), ("logits",)))
    logits = np.array([result.outputs["logits"] for result in results], np.float64)
    assert np.ptp(logits, axis=0).max() > 0.5
    return pixels, 1 / (1 + np.exp(-logits))


def test_formats_are_complete():
    assert set(FILES) == set(EXPORT_FORMATS)


@pytest.mark.parametrize(
    "format_", [pytest.param(name, marks=pytest.mark.slow if name == "saved-model" else ()) for name in FILES]
)
def test_the_exported_file_computes_the_sigmoid(weights, outputs, tmp_path, format_):
    pixels, expected = outputs
    path = tmp_path / FILES[format_]
    result = export(Classifier(weights=weights), path, format_)
    assert result.max_difference < 1e-5
    if format_ == "onnx":
        (actual,) = onnxruntime.InferenceSession(path).run(["probabilities"], {"pixels": pixels.transpose(0, 3, 1, 2)})
    elif format_ == "safetensors":
        actual = Classifier(weights=path).run(pixels)["probabilities"]
    elif format_ == "keras":
        import keras

        network = keras.saving.load_model(path)
        assert network.layers[-1].get_config()["activation"] == "sigmoid"
        actual = network.predict(pixels, verbose=0)
        classifier = Classifier(weights=path)
        assert classifier.config.is_multi_label
        np.testing.assert_allclose(classifier.run(pixels)["probabilities"], expected, atol=1e-5)
    elif format_ == "saved-model":
        import tensorflow as tf

        serve = tf.saved_model.load(str(path)).signatures["serving_default"]
        actual = serve(pixels=tf.constant(pixels))["probabilities"].numpy()
    else:
        from ai_edge_litert.interpreter import Interpreter

        actual = Interpreter(str(path)).get_signature_runner()(pixels=pixels)["probabilities"]
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("format_", ["onnx", "safetensors", "keras"])
def test_a_file_with_a_softmax_is_not_kept(weights, tmp_path, monkeypatch, format_):
    """The check after an export compares with the sigmoid."""
    exporter = type(EXPORT_FORMATS[format_].make_exporter())
    write = exporter.write

    def write_softmax(self, model: ExportedModel, path):
        from dataclasses import replace

        contents = model.checkpoint
        config = replace(contents.config, activation="softmax")
        metadata = replace(contents.metadata, activation="softmax")
        write(self, replace(model, checkpoint=contents._replace(config=config, metadata=metadata)), path)

    monkeypatch.setattr(exporter, "write", write_softmax)
    path = tmp_path / FILES[format_]
    with pytest.raises(OutputError, match="differ"):
        export(Classifier(weights=weights), path, format_)
    assert not path.exists()


def test_descriptions_state_the_activation(weights, tmp_path):
    export(Classifier(weights=weights), tmp_path / "m.onnx")
    metadata = onnxruntime.InferenceSession(tmp_path / "m.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(metadata["config"])["activation"] == "sigmoid"
    assert json.loads(metadata["labels"]) == list(FINDINGS)


def test_an_exported_checkpoint_is_a_multi_label_model(weights, tmp_path):
    export(Classifier(weights=weights), tmp_path / "m.safetensors")
    contents = checkpoint.read(tmp_path / "m.safetensors")
    assert contents.config.is_multi_label and contents.metadata.activation == "sigmoid"


def test_a_given_activation_is_stated_by_the_exported_file(weights, outputs, tmp_path):
    """A state dict does not state its activation."""
    pixels, expected = outputs
    exported = tmp_path / "m.safetensors"
    export(Classifier(weights=weights), exported)
    save_file(load_file(exported), tmp_path / "state_dict.safetensors")
    given = Classifier(weights=tmp_path / "state_dict.safetensors", activation="sigmoid")
    np.testing.assert_allclose(given.run(pixels)["probabilities"], expected, atol=1e-5)
    assert not Classifier(weights=tmp_path / "state_dict.safetensors").config.is_multi_label
    export(given, exported, overwrite=True)
    again = Classifier(weights=exported)
    assert again.config.is_multi_label
    np.testing.assert_allclose(again.run(pixels)["probabilities"], expected, atol=1e-5)
