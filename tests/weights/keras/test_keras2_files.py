"""Files of Keras 2, recorded with tf_keras (see ``tests/data/make_keras.py``), give its results."""

from __future__ import annotations

import json
import tracemalloc
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from densenet_cli.errors import UsageError
from densenet_cli.images.normalization import MEAN, STD
from densenet_cli.topology import HeadLayer
from densenet_cli.weights import checkpoint
from tests.support.keras_files import ARCHIVE, edit_h5
from tests.weights.keras.test_models import TOLERANCE, outputs_of, run, with_config, with_epsilon, with_metadata

MODELS = ("nested.h5", "nested.keras", "sequential.h5", "sequential.keras", "flat.h5", "flat.keras", "arithmetic.keras")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("keras2")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def recorded(folder) -> dict[str, np.ndarray]:
    """The images, and the probabilities of each model."""
    with np.load(folder / "outputs.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("engine", ["onnx", "tensorflow"])
@pytest.mark.parametrize("file", MODELS)
def test_results_equal_those_of_keras_2(folder, recorded, file, engine):
    expected = recorded[file.partition(".")[0]]
    assert np.ptp(expected, axis=0).max() > 0.01
    actual = outputs_of(folder / file, recorded["images"], engine)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE)


def test_facts_in_the_files(folder):
    loaded = checkpoint.read(folder / "nested.h5")
    assert (loaded.metadata.mean, loaded.metadata.std, loaded.metadata.input_size) == (MEAN, STD, 64)
    assert loaded.config.pooling == "max"
    assert loaded.config.head == (HeadLayer("batch_norm"), HeadLayer("dense", 5))
    assert loaded.metadata.activation == "softmax"
    assert checkpoint.read(folder / "flat.keras").metadata.activation == "sigmoid"
    assert checkpoint.read(folder / "arithmetic.keras").config.is_multi_label


@pytest.mark.parametrize(
    ("misread", "difference"),
    [
        (with_epsilon("head_1", 1.001e-5 - 1e-3), 2e-4),
        (with_config(pooling="avg"), 1e-2),
        (with_config(activation="sigmoid"), 1e-2),
        (with_metadata(mean=(0.5,) * 3, std=(0.5,) * 3), 1e-3),
    ],
)
def test_other_readings_differ(folder, recorded, misread, difference):
    actual = misread(checkpoint.read(folder / "nested.h5"), recorded["images"])
    assert np.abs(actual - recorded["nested"]).max() > difference


@pytest.mark.parametrize("file", ["nested.weights.h5", "nested-legacy.h5"])
def test_weights_without_a_configuration(folder, recorded, file):
    loaded = checkpoint.read(folder / file)
    assert (loaded.metadata.activation, loaded.metadata.mean, loaded.metadata.input_size) == (None, None, None)
    assert loaded.config.pooling == "max"
    assert any("epsilon" in note for note in loaded.metadata.notes)
    np.testing.assert_allclose(run(loaded, recorded["images"]), recorded["nested"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("file", ["flat.weights.h5", "flat-legacy.h5"])
def test_single_output_without_a_configuration(folder, recorded, file):
    with pytest.raises(UsageError, match="activation"):
        checkpoint.read(folder / file)
    loaded = checkpoint.read(folder / file, activation="sigmoid")
    assert (loaded.config.pooling, loaded.config.input_size) == ("flatten", 64)


def test_model_class_of_tensorflow_before_2_3(folder, recorded, tmp_path):
    """Functional models were of the class Model, and weights are found by the same names."""

    def edit(model):
        text = json.dumps(model).replace('"class_name": "Functional"', '"class_name": "Model"')
        text = text.replace('"class_name": "BatchNormalization"', '"class_name": "BatchNormalizationV2"')
        assert text.count('"class_name": "Model"') == 2
        return json.loads(text)

    path = edit_h5(folder / "nested.h5", tmp_path / "x.h5", edit)
    np.testing.assert_allclose(outputs_of(path, recorded["images"]), recorded["nested"], rtol=0, atol=TOLERANCE)


def test_list_as_the_configuration_of_a_sequential_model(folder, recorded, tmp_path):
    """Keras before 2.2.3 wrote a list of layers."""

    def edit(model):
        model["config"] = model["config"]["layers"]

    path = edit_h5(folder / "sequential.h5", tmp_path / "x.h5", edit)
    np.testing.assert_allclose(outputs_of(path, recorded["images"]), recorded["sequential"], rtol=0, atol=TOLERANCE)


def test_configuration_of_fixed_length(folder, recorded, tmp_path):
    """Strings of fixed length are stored in the object header instead of a heap."""
    path = tmp_path / "x.h5"
    path.write_bytes((folder / "nested.h5").read_bytes())
    with h5py.File(path, "a") as file:
        model, training = (file.attrs.pop(name) for name in ("model_config", "training_config"))
        file.attrs["model_config"] = np.bytes_(json.dumps(json.loads(model), separators=(",", ":")))
        file.attrs["training_config"] = np.bytes_(training)
        assert file.attrs.get_id("model_config").dtype.kind == "S"
    np.testing.assert_allclose(outputs_of(path, recorded["images"]), recorded["nested"], rtol=0, atol=TOLERANCE)


def test_training_true_is_refused(folder, tmp_path):
    def edit(model):
        return json.loads(json.dumps(model).replace('{"training": false}', '{"training": true}'))

    with pytest.raises(checkpoint.CheckpointError, match="training=True"):
        checkpoint.read(edit_h5(folder / "nested.h5", tmp_path / "x.h5", edit))


@pytest.mark.parametrize(
    ("loss", "activation"),
    [
        ("sparse_categorical_crossentropy", "softmax"),
        ({"dense": "categorical_crossentropy"}, "softmax"),
        ({"class_name": "CategoricalCrossentropy", "config": {"from_logits": True}}, "softmax"),
        ({"class_name": "BinaryCrossentropy", "config": {"from_logits": True}}, "sigmoid"),
        ({"class_name": "BinaryCrossentropy", "config": {"from_logits": False}}, None),
        ("binary_crossentropy", None),
        ("my_loss", None),
        (None, None),
    ],
)
def test_activation_of_logits_follows_from_the_loss(folder, tmp_path, loss, activation):
    path = edit_h5(folder / "nested.h5", tmp_path / "x.h5", lambda _: {"loss": loss}, "training_config")
    metadata = checkpoint.read(path).metadata
    assert (metadata.activation, metadata.lacks_activation) == (activation, activation is None)
    assert bool(metadata.notes) == (activation is None or (isinstance(loss, str | dict) and "config" not in loss))


@pytest.mark.parametrize("loss", ["mse", {"class_name": "MeanAbsoluteError", "config": {}}, "Huber"])
def test_regression_is_refused(folder, tmp_path, loss):
    path = edit_h5(folder / "nested.h5", tmp_path / "x.h5", lambda _: {"loss": loss}, "training_config")
    with pytest.raises(checkpoint.CheckpointError, match="not a classifier"):
        checkpoint.read(path)


def test_optimizer_without_a_model_is_refused(folder, tmp_path):
    with h5py.File(folder / "nested.h5") as source, h5py.File(tmp_path / "x.h5", "w") as file:
        source.copy("optimizer_weights", file)
    with pytest.raises(checkpoint.CheckpointError, match="optimizer without a model"):
        checkpoint.read(tmp_path / "x.h5")


def test_links_in_the_path_of_a_layer_are_not_followed(folder, tmp_path):
    """The name conv1/conv is a path, in which a group could be a link."""
    path = tmp_path / "x.h5"
    path.write_bytes((folder / "flat.h5").read_bytes())
    with h5py.File(path, "a") as file:
        file.move("model_weights/conv1", "elsewhere")
        file["model_weights/conv1"] = h5py.SoftLink("/elsewhere")
    with pytest.raises(checkpoint.CheckpointError, match="soft or external link"):
        checkpoint.read(path)


def test_arrays_of_a_layer_that_are_missing_or_ambiguous(folder, tmp_path):
    for change, text in (("del", "found 0 arrays named kernel"), ("copy", "found 2 arrays named kernel")):
        path = tmp_path / f"{change}.h5"
        path.write_bytes((folder / "nested.h5").read_bytes())
        with h5py.File(path, "a") as file:
            group = file["model_weights/densenet"]
            kernel = group["conv2_block1_1_conv/kernel:0"]
            for name in ("a", "b"):
                if change == "copy":
                    group[f"{name}/conv2_block1_1_conv/kernel:0"] = kernel[()]
            del group["conv2_block1_1_conv"]
        with pytest.raises(checkpoint.CheckpointError, match=text):
            checkpoint.read(path)


@pytest.mark.parametrize(
    "text", ["[" * (1 << 20), "[" + "[]," * (1 << 20) + "0]", '{"a":' * (1 << 19), "x" * (5 << 20)]
)
def test_huge_configuration_needs_little_memory(folder, tmp_path, text):
    path = tmp_path / "x.h5"
    path.write_bytes((folder / "nested.h5").read_bytes())
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = text
    tracemalloc.start()
    with pytest.raises(checkpoint.CheckpointError) as caught:
        checkpoint.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6 and len(str(caught.value)) < 600
