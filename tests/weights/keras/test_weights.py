"""Keras weights without a configuration: what the names of groups reveal."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from densenet_cli import Classifier
from densenet_cli.errors import CheckpointError
from densenet_cli.images.normalization import normalize
from densenet_cli.weights import checkpoint
from tests.support import keras_models
from tests.weights.keras.test_models import photographs

SIZE = keras_models.SIZE


def save_legacy_weights(model, path):
    """Write the weights in the legacy format, which Keras 3 only writes with a configuration."""
    model.save(path)
    with h5py.File(path, "a") as file:
        for name in ("model_config", "training_config"):
            file.attrs.pop(name, None)
    return path


def save_weights(model, path):
    model.save_weights(path.with_suffix(".weights.h5"))
    return path.with_suffix(".weights.h5")


@pytest.mark.parametrize("save", [save_legacy_weights, save_weights])
@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_the_pooling_of_keras_applications(keras, tmp_path, save, pooling):
    """Its layer is called ``avg_pool`` or ``max_pool``."""
    base = keras_models.backbone(keras, pooling=pooling)
    model = keras.Model(base.input, keras.layers.Dense(3)(base.output))
    for network, name in ((base, "backbone.h5"), (model, "model.h5")):
        loaded = checkpoint.read(save(network, tmp_path / name))
        assert loaded.config.pooling == pooling
        assert not any("pooling" in note for note in loaded.metadata.notes)


@pytest.mark.parametrize("save", [save_legacy_weights, save_weights])
def test_a_backbone_without_a_pooling(keras, tmp_path, save):
    loaded = checkpoint.read(save(keras_models.backbone(keras), tmp_path / "x.h5"))
    assert loaded.config.pooling == "avg"
    assert "pooling" in loaded.metadata.notes[0]


@pytest.mark.parametrize(("save", "classes"), [(save_weights, 0), (save_legacy_weights, 3)])
def test_several_poolings(keras, tmp_path, save, classes):
    base = keras_models.backbone(keras)
    poolings = [keras.layers.GlobalAveragePooling2D(), keras.layers.GlobalMaxPooling2D()]
    x = keras.layers.Concatenate()([layer(base.output) for layer in poolings])
    path = save(keras.Model(base.input, keras.layers.Dense(classes)(x) if classes else x), tmp_path / "x.h5")
    with pytest.raises(CheckpointError, match="poolings"):
        checkpoint.read(path)
    loaded = checkpoint.read(path, allow_unsupported_head=True)
    assert (loaded.config.classes, loaded.config.pooling) == (0, "avg")


@pytest.mark.parametrize(
    ("layer", "save", "classes"),
    [
        ("Resizing", save_weights, 0),
        ("Resizing", save_legacy_weights, 3),
        ("CenterCrop", save_weights, 3),
        ("RandomCrop", save_legacy_weights, 0),
    ],
)
def test_layers_that_change_images_are_noted(keras, tmp_path, save, layer, classes):
    inputs = keras.Input((2 * SIZE, 2 * SIZE, 3))
    x = getattr(keras.layers, layer)(SIZE, SIZE)(inputs)
    x = keras_models.backbone(keras, pooling="avg")(x)
    model = keras.Model(inputs, keras.layers.Dense(classes)(x) if classes else x)
    name = layer.replace("Crop", "_crop").lower()
    notes = checkpoint.read(save(model, tmp_path / "x.h5")).metadata.notes
    assert any(f"the layer {name}," in note for note in notes)


def test_embeddings_of_a_file_of_weights(keras, tmp_path):
    model = keras_models.randomize(keras_models.backbone(keras, pooling="max"))
    images = photographs(SIZE, 3)
    path = save_weights(model, tmp_path / "x")
    with Classifier(weights=path, preprocess="squash", input_size=SIZE, threads=1) as classifier:
        actual = np.stack([classifier.embed(image).vector for image in images])
    expected = keras.ops.convert_to_numpy(model(normalize(images), training=False))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
