"""Keras models whose head is not supported: they give embeddings and start training, and cannot classify."""

from __future__ import annotations

import json

import numpy as np
import pytest

from densenet_cli import Classifier
from densenet_cli.errors import CheckpointError, UsageError
from densenet_cli.images.normalization import normalize
from densenet_cli.weights import checkpoint
from tests.conftest import SAMPLES
from tests.support import keras_models
from tests.support.checkpoints import assert_same
from tests.support.command import densenet
from tests.support.keras_files import edit_archive, extract
from tests.weights.keras.test_models import FILES, photographs

SIZE = keras_models.SIZE


def two_poolings(keras, base):
    pooled = [
        layers()(base.output) for layers in (keras.layers.GlobalMaxPooling2D, keras.layers.GlobalAveragePooling2D)
    ]
    return keras.layers.Dense(3, "softmax")(keras.layers.Concatenate()(pooled))


def gate_after_maximum(keras, base):
    x = keras.layers.GlobalMaxPooling2D()(base.output)
    return keras.layers.Multiply()([keras.layers.Dense(4)(x), keras.layers.Dense(4, "sigmoid")(x)])


def convolution_before_pooling(keras, base):
    x = keras.layers.Conv2D(4, 1, activation="relu")(base.output)
    return keras.layers.Dense(3, "softmax")(keras.layers.GlobalAveragePooling2D()(x))


def regression_on_maximum(keras, base):
    return keras.layers.Dense(1)(keras.layers.GlobalMaxPooling2D()(base.output))


def softmax_of_one(keras, base):
    return keras.layers.Dense(1, "softmax")(keras.layers.GlobalAveragePooling2D()(base.output))


HEADS = {
    two_poolings: "mean",
    gate_after_maximum: "max",
    convolution_before_pooling: "mean",
    regression_on_maximum: "max",
    softmax_of_one: "mean",
}
"""Head -> what the pooling that follows the feature maps computes."""


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__)
def test_embeddings_are_those_of_keras(keras, tmp_path, head, file):
    base = keras_models.backbone(keras)
    model = keras_models.randomize(keras.Model(base.input, head(keras, base)))
    keras_models.compiled(model, "mse" if head is regression_on_maximum else "categorical_crossentropy")
    model.save(tmp_path / file)
    images = photographs(SIZE, 3)
    features = keras.ops.convert_to_numpy(base(normalize(images), training=False))
    expected = getattr(features, HEADS[head])(axis=(1, 2))
    with pytest.raises(CheckpointError):
        checkpoint.read(tmp_path / file)
    with Classifier(weights=tmp_path / file, preprocess="squash", threads=1) as classifier:
        actual = np.stack([classifier.embed(image).vector for image in images])
        with pytest.raises(CheckpointError, match="embeddings"):
            classifier.predict(images[0])
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
    assert np.abs(features.max((1, 2)) - features.mean((1, 2))).max() > 0.01


def test_maximum_of_a_network_without_a_head(keras, tmp_path):
    model = keras_models.randomize(keras_models.backbone(keras, pooling="max"))
    model.save(tmp_path / "x.keras")
    images = photographs(SIZE, 3)
    with Classifier(weights=tmp_path / "x.keras", preprocess="squash", threads=1) as classifier:
        actual = np.stack([classifier.embed(image).vector for image in images])
    expected = keras.ops.convert_to_numpy(model(normalize(images), training=False))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


@pytest.fixture
def recorded(tmp_path):
    """A file with a supported head, and the same with a loss for regression."""

    def edit(model):
        model["compile_config"]["loss"] = "mse"

    supported = extract("nested.keras", tmp_path)
    return supported, edit_archive(supported, tmp_path / "regression.keras", edit)


def test_commands(recorded, tmp_path):
    unsupported = recorded[1]
    image = SAMPLES / "cat.jpg"
    vectors = []
    for path in recorded:
        result = densenet("embed", image, "-o", tmp_path / f"{path.stem}.npz", "--weights", path)
        assert result.status == 0, result.err
        vectors.append(np.load(tmp_path / f"{path.stem}.npz")["features"])
    np.testing.assert_array_equal(*vectors)
    summary = densenet("summary", "--weights", unsupported, "--format", "json")
    assert "mse" in json.dumps(json.loads(summary.out)["notes"])
    for command in (
        ["predict", image, "-o", tmp_path / "out.jsonl"],
        ["explain", image, "-o", tmp_path / "maps"],
        ["export", "-o", tmp_path / "model.onnx"],
        ["evaluate", SAMPLES, "-o", tmp_path / "out.json"],
    ):
        result = densenet(*command, "--weights", unsupported)
        assert result.status == 3 and "mse" in result.err and "regression.keras" in result.err
        assert not [*tmp_path.glob("out*"), *tmp_path.glob("maps*"), *tmp_path.glob("model*")]


def test_training_starts_from_the_backbone(recorded):
    supported, unsupported = (checkpoint.read_backbone(path) for path in recorded)
    assert_same(unsupported.arrays, supported.arrays, supported.config)


def test_single_output_without_an_activation(tmp_path):
    """Embeddings do not need it. To classify, it must be given."""

    def edit(model):
        model["compile_config"] = None
        model["config"]["layers"][-1]["config"]["activation"] = "linear"

    supported = extract("flat.keras", tmp_path)
    path = edit_archive(supported, tmp_path / "linear.keras", edit)
    image = SAMPLES / "cat.jpg"
    vectors = [Classifier(weights=file).embed(image).vector for file in (supported, path)]
    np.testing.assert_array_equal(*vectors)
    with pytest.raises(UsageError, match="activation"):
        Classifier(weights=path).predict(image)
    result = densenet("predict", image, "--weights", path)
    assert result.status == 2 and "--activation" in result.err and "linear.keras" in result.err
    assert densenet("predict", image, "--weights", path, "--activation", "sigmoid").status == 0
    summary = json.loads(densenet("summary", "--weights", path, "--format", "json").out)
    assert summary["config"]["classes"] == 2
