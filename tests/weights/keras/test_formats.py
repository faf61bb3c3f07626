"""Compatibility with Keras: we read what it writes, and it reads what the writers of the tests write."""

from __future__ import annotations

import zipfile

import h5py
import numpy as np
import pytest

from densenet_cli import variants
from densenet_cli.topology import DenseNetConfig
from densenet_cli.weights import checkpoint
from tests.support import checkpoints as support
from tests.support.keras_files import extract
from tests.support.networks import unscaled_arrays

CONFIG = DenseNetConfig((2, 3), growth_rate=4, stem_width=6, classes=5)

SAVERS = {
    "x.h5": lambda model, path: model.save(path),
    "x.keras": lambda model, path: model.save(path),
    "x.weights.h5": lambda model, path: model.save_weights(path),
}


@pytest.fixture(scope="module")
def keras_ops(keras):
    from densenet_cli.engines import keras_ops

    return keras_ops


@pytest.fixture(scope="module")
def small(keras, keras_ops):
    """A Keras model with random arrays and an optimizer that has state, and the arrays."""
    arrays = unscaled_arrays(CONFIG)
    model = keras_ops.build_model(CONFIG)
    keras_ops.set_arrays(model, arrays)
    model.compile(keras.optimizers.SGD(0.0, momentum=0.9), "categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    return model, arrays


def dataset_shapes(path, prefix="") -> dict[str, tuple[int, ...]]:
    """Return the shape of every dataset with at least one axis whose path starts with ``prefix``."""
    shapes = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: shapes.update({name: getattr(item, "shape", ())}))
    return {name: shape for name, shape in shapes.items() if shape and name.startswith(prefix)}


def remove_names(path) -> None:
    """Remove the layer names, which Keras 3.0 to 3.3 did not write."""
    with h5py.File(path, "a") as file:
        for group in file["layers"].values():
            group["vars"].attrs.pop("name", None)


@pytest.mark.parametrize("name", SAVERS)
def test_files_written_by_keras(tmp_path, small, name):
    model, arrays = small
    SAVERS[name](model, tmp_path / name)
    support.assert_same(checkpoint.read(tmp_path / name).arrays, arrays, CONFIG)


def test_file_without_layer_names(tmp_path, small):
    model, arrays = small
    path = tmp_path / "x.weights.h5"
    model.save_weights(path)
    remove_names(path)
    support.assert_same(checkpoint.read(path).arrays, arrays, CONFIG)


@pytest.fixture(scope="module")
def published(keras, keras_ops):
    """``keras.applications``' own DenseNet-121 with random arrays, the arrays and the configuration."""
    config = variants.get("121").config.with_classes(3)
    model = keras.applications.densenet.DenseNet121(weights=None, classes=3)
    arrays = unscaled_arrays(config)
    keras_ops.set_arrays(model, arrays)
    return model, arrays, config


@pytest.mark.parametrize("name", SAVERS)
def test_keras_applications(tmp_path, published, name):
    model, arrays, config = published
    SAVERS[name](model, tmp_path / name)
    loaded = checkpoint.read(tmp_path / name)
    assert (loaded.variant, loaded.config) == ("121", config)
    support.assert_same(loaded.arrays, arrays, config)


def test_keras_applications_without_layer_names(tmp_path, published):
    model, arrays, config = published
    path = tmp_path / "x.weights.h5"
    model.save_weights(path)
    remove_names(path)
    loaded = checkpoint.read(path)
    assert loaded.variant == "121"
    support.assert_same(loaded.arrays, arrays, config)


def test_keras_reads_the_legacy_format_of_the_tests(tmp_path, published, keras_ops):
    model, _, config = published
    arrays = unscaled_arrays(config, seed=1)
    support.write_legacy_h5(tmp_path / "x.h5", arrays, config)
    model.load_weights(tmp_path / "x.h5")
    support.assert_same(keras_ops.get_arrays(model), arrays, config)
    keras_ops.set_arrays(model, published[1])


def test_writers_of_the_tests_use_the_dataset_paths_of_keras(tmp_path, small):
    model, arrays = small
    model.save_weights(tmp_path / "keras.weights.h5")
    support.write_numbered_h5(tmp_path / "tests.weights.h5", arrays, CONFIG)
    assert dataset_shapes(tmp_path / "keras.weights.h5", "layers") == dataset_shapes(tmp_path / "tests.weights.h5")
    model.save(tmp_path / "keras.h5")
    support.write_legacy_h5(tmp_path / "tests.h5", arrays, CONFIG, False, below="model_weights", suffix="")
    assert dataset_shapes(tmp_path / "keras.h5", "model_weights") == dataset_shapes(tmp_path / "tests.h5")


def test_bfloat16_as_keras_stores_it(tmp_path, keras, keras_ops):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("bfloat16")
    try:
        model = keras_ops.build_model(CONFIG)
    finally:
        keras.config.set_dtype_policy(before)
    for name in SAVERS:
        SAVERS[name](model, tmp_path / name)
        kernel = checkpoint.read(tmp_path / name).arrays["conv1_conv"]["kernel"]
        expected = model.get_layer("conv1_conv").get_weights()[0].astype(np.float32)
        np.testing.assert_array_equal(kernel, expected)
        assert np.ptp(kernel) > 0


def test_model_without_its_head(tmp_path, keras):
    model = keras.applications.densenet.DenseNet121(weights=None, include_top=False)
    for name in ("x.h5", "x.weights.h5"):
        SAVERS[name](model, tmp_path / name)
        assert checkpoint.read(tmp_path / name).config == DenseNetConfig((6, 12, 24, 16), classes=0)


def test_other_architecture_is_rejected(tmp_path, keras):
    model = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3))
    for name in SAVERS:
        SAVERS[name](model, tmp_path / name)
        with pytest.raises(checkpoint.CheckpointError, match="not a DenseNet"):
            checkpoint.read(tmp_path / name)


def test_subclassed_model_is_rejected(tmp_path, keras):
    class Network(keras.Model):
        def __init__(self):
            super().__init__()
            self.classify = keras.layers.Dense(2)

        def call(self, x):
            return self.classify(x)

    model = Network()
    model(np.zeros((1, 3), np.float32))
    for name in ("x.keras", "x.h5"):
        model.save(tmp_path / name)
        with pytest.raises(checkpoint.CheckpointError, match="class Network"):
            checkpoint.read(tmp_path / name)


@pytest.mark.parametrize("config", [b"null", b"[]", b"{}", b"0", b'"model"'])
def test_archive_whose_configuration_is_no_model_is_damaged(tmp_path, config):
    """Its weights alone would be read in another way, without the activation, for example."""
    with zipfile.ZipFile(extract("nested.keras", tmp_path)) as archive, zipfile.ZipFile(tmp_path / "x.keras", "w") as x:
        x.writestr("config.json", config)
        x.writestr("model.weights.h5", archive.read("model.weights.h5"))
    assert "damaged" in support.error_message(tmp_path / "x.keras")


def test_weights_in_several_files(tmp_path, small):
    """Shards are refused. A single one contains everything."""
    model, arrays = small
    for folder, gigabytes in (("one", 1), ("several", 1e-5)):
        (tmp_path / folder).mkdir()
        model.save_weights(tmp_path / folder / "x.weights.json", max_shard_size=gigabytes)
    shards = sorted((tmp_path / "several").glob("*.h5"))
    assert len(shards) > 1
    for path in (*shards, tmp_path / "several" / "x.weights.json"):
        assert "max_shard_size" in support.error_message(path)
    loaded = checkpoint.read(tmp_path / "one" / "x_00000.weights.h5")
    support.assert_same(loaded.arrays, arrays, CONFIG)


def test_network_with_similar_layer_names_is_rejected(tmp_path, keras):
    """Keras' ResNets have layers of the same names, but no concatenations."""
    x = keras.Input((32, 32, 3))
    y = keras.layers.Conv2D(4, 7, strides=2, use_bias=True, name="conv1_conv")(x)
    y = keras.layers.Conv2D(4, 1, name="conv2_block1_1_conv")(y)
    y = keras.layers.GlobalAveragePooling2D()(y)
    keras.Model(x, keras.layers.Dense(2, activation="softmax")(y)).save(tmp_path / "x.keras")
    with pytest.raises(checkpoint.CheckpointError, match="not a DenseNet"):
        checkpoint.read(tmp_path / "x.keras")
