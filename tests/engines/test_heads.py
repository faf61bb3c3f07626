"""Heads, poolings, stems, and inputs other than the paper's: the ONNX graph compared with Keras' own layers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from densenet_cli import Classifier, engines
from densenet_cli.engines import keras_ops
from densenet_cli.errors import CheckpointError, UsageError
from densenet_cli.layers import array_shapes, list_layers
from densenet_cli.topology import ACTIVATIONS, DenseNetConfig, HeadLayer, Resize
from densenet_cli.weights import checkpoint, safetensors
from tests.conftest import SAMPLES
from tests.support.networks import onnx_outputs, random_arrays

BASE = DenseNetConfig((1, 2), growth_rate=4, stem_width=8, classes=5, input_size=64)
HIDDEN = (HeadLayer("dense", 7), HeadLayer("batch_norm"), HeadLayer("relu"), HeadLayer("dense", 5))

NETWORKS = {
    "plain": BASE,
    "max": replace(BASE, pooling="max"),
    "flatten": replace(BASE, pooling="flatten"),
    "flatten-hidden": replace(BASE, pooling="flatten", head=HIDDEN),
    "hidden": replace(BASE, head=HIDDEN),
    "norm-last": replace(BASE, head=(HeadLayer("dense", 5), HeadLayer("batch_norm"))),
    "norm-first": replace(BASE, head=(HeadLayer("batch_norm"), HeadLayer("dense", 5))),
    "multi-label": replace(BASE, activation="sigmoid"),
    "gray": replace(BASE, channels=1),
    "deep": replace(BASE, stem="deep"),
    "deep-blur": replace(BASE, stem="deep-blur"),
    "smaller": replace(BASE, resize=Resize(41)),
    "larger": replace(BASE, resize=Resize(96)),
    "nearest": replace(BASE, resize=Resize(49, "nearest")),
    **{
        name: replace(BASE, head=(HeadLayer("dense", 7), HeadLayer(name, alpha=0.3), HeadLayer("dense", 5)))
        for name in ACTIVATIONS
    },
}


def random_batch(config: DenseNetConfig) -> np.ndarray:
    shape = (2, config.input_size, config.input_size, config.channels)
    return np.random.default_rng(3).normal(0, 1, shape).astype(np.float32)


@pytest.mark.parametrize("name", NETWORKS)
def test_graph_equals_the_keras_model(keras, name):
    config = NETWORKS[name]
    batch = random_batch(config)
    arrays = random_arrays(config, image=batch[:1])
    model = keras_ops.build_model(config, engines.OUTPUTS)
    keras_ops.set_arrays(model, arrays)
    expected = {output: keras.ops.convert_to_numpy(values) for output, values in model(batch, training=False).items()}
    assert np.ptp(expected["logits"], axis=1).min() > 0.5
    for output in ("probabilities", "logits"):
        actual = onnx_outputs(arrays, config, batch, output)
        np.testing.assert_allclose(actual, expected[output], rtol=0, atol=1e-5 * max(1, np.abs(expected[output]).max()))
    total = {"softmax": 1, "sigmoid": None}[config.activation]
    assert total is None or np.allclose(expected["probabilities"].sum(axis=1), total)


MISTAKES = {
    "max": {"pooling": "avg"},
    "multi-label": {"activation": "softmax"},
    "deep-blur": {"stem": "deep"},
    "smaller": {"resize": None},
    "larger": {"resize": Resize(96, "nearest")},
    "nearest": {"resize": Resize(49)},
    "norm-last": {"head": ()},
    **{name: {"head": (HeadLayer("dense", 7), HeadLayer("dense", 5))} for name in ACTIVATIONS},
}
"""Network -> a wrong reading of its checkpoint, which has the same arrays."""


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_reading_gives_other_outputs(name):
    config = NETWORKS[name]
    batch = random_batch(config)
    arrays = random_arrays(config, image=batch[:1])
    wrong = replace(config, **MISTAKES[name])
    outputs = [onnx_outputs(arrays, network, batch, "probabilities") for network in (wrong, config)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3


@pytest.mark.parametrize("name", ["flatten", "max", "multi-label", "gray", "smaller"])
def test_checkpoint_of_this_package_keeps_the_network(tmp_path, name):
    config = NETWORKS[name]
    arrays = random_arrays(config, image=random_batch(config)[:1])
    path = tmp_path / "model.safetensors"
    safetensors.write(path, arrays, config)
    contents = checkpoint.read(path)
    assert contents.config == config
    for layer, values in arrays.items():
        for array, expected in values.items():
            np.testing.assert_array_equal(contents.arrays[layer][array], expected)


def test_single_sigmoid_is_two_classes(tmp_path):
    config = replace(BASE, classes=1, activation="sigmoid")
    batch = random_batch(config)
    arrays = random_arrays(BASE, image=batch[:1])
    arrays["predictions"] = {name: values[..., :1] for name, values in arrays["predictions"].items()}
    path = tmp_path / "model.safetensors"
    safetensors.write(path, arrays, config)
    contents = checkpoint.read(path)
    assert (contents.config.classes, contents.config.activation) == (2, "softmax")
    positive = 1 / (1 + np.exp(-onnx_outputs(arrays, config, batch, "logits")))
    actual = onnx_outputs(contents.arrays, contents.config, batch, "probabilities")
    np.testing.assert_allclose(actual, np.hstack([1 - positive, positive]), atol=1e-6)
    with Classifier(weights=path) as classifier:
        assert {score.label for score in classifier.predict(SAMPLES / "cat.jpg").scores} == {"class 0", "class 1"}
        first, second = classifier.explain(SAMPLES / "cat.jpg", classes=[0, 1]).maps
        np.testing.assert_allclose(first.values, -second.values)
        assert np.ptp(first.values) > 0


def test_activation_option(tmp_path):
    stated = tmp_path / "stated.safetensors"
    safetensors.write(stated, random_arrays(BASE), BASE)
    with pytest.raises(UsageError, match=r"sigmoid.*softmax"):
        checkpoint.read(stated, activation="sigmoid")
    with pytest.raises(UsageError, match="tanh"):
        checkpoint.read(stated, activation="tanh")


def test_fixed_input_size():
    for name in ("flatten", "smaller"):
        with pytest.raises(UsageError, match="fixed: 64x64"):
            list_layers(NETWORKS[name], 96)
    assert list_layers(BASE, 96)


def test_file_without_a_head(tmp_path):
    config = replace(BASE, classes=0)
    arrays = {layer: values for layer, values in random_arrays(BASE).items() if layer != "predictions"}
    assert array_shapes(config).keys() == arrays.keys()
    path = tmp_path / "backbone.safetensors"
    safetensors.write(path, arrays, config)
    for engine in engines.ENGINES:
        with Classifier(weights=path, engine=engine) as classifier:
            vector = classifier.embed(SAMPLES / "cat.jpg").vector
            assert vector.shape == (8 + 4 * 3 - 6,) and np.ptp(vector) > 0
            with pytest.raises(CheckpointError, match="without a head"):
                classifier.predict(SAMPLES / "cat.jpg")


def test_embedding_is_what_the_head_receives(tmp_path):
    """The maximum for a head on maxima, otherwise the mean."""
    arrays = random_arrays(BASE)
    vectors = {}
    for pooling in ("avg", "max"):
        safetensors.write(tmp_path / f"{pooling}.safetensors", arrays, replace(BASE, pooling=pooling))
        with Classifier(weights=tmp_path / f"{pooling}.safetensors") as classifier:
            vectors[pooling] = classifier.embed(SAMPLES / "cat.jpg").vector
    assert (vectors["max"] > vectors["avg"]).any() and (vectors["max"] >= vectors["avg"]).all()
