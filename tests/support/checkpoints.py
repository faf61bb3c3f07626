"""Writers of every layout in which a checkpoint is met, made from arrays under our names.

They write what the real tools write, so that tests need neither TensorFlow nor torch nor a download;
``test_keras_writes.py`` holds them against files that Keras itself writes.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
from safetensors.numpy import save_file

from densenet_cli.layers import array_shapes, list_layers
from densenet_cli.topology import BN_EPSILON, DenseNetConfig
from densenet_cli.weights.safetensors import HEAD_ARRAYS, NORM_ARRAYS, TORCH_EPSILON, torchvision_names

Arrays = dict[str, dict[str, np.ndarray]]

OLD_NAMES = {"conv1_conv": "conv1/conv", "conv1_bn": "conv1/bn", "predictions": "fc1000"}


def shuffled(arrays: Arrays) -> Arrays:
    """The same arrays with layers and names in another order: what a reader must not depend on."""
    return {layer: dict(reversed(arrays[layer].items())) for layer in sorted(arrays, reverse=True)}


def write_legacy_h5(
    path: Path | str,
    arrays: Arrays,
    config: DenseNetConfig,
    old_names: bool = True,
    below: str | None = None,
    suffix: str = ":0",
    dtype: str = "float32",
) -> None:
    """The published layout. ``below="model_weights"`` with ``suffix=""`` gives that of Keras 3's ``save("x.h5")``."""
    with h5py.File(path, "w") as file:
        root = file.create_group(below) if below else file
        names = ["input_1", *dict.fromkeys(layer.name for layer in list_layers(config)), *arrays]
        stored = [OLD_NAMES.get(name, name) if old_names else name for name in dict.fromkeys(names)]
        root.attrs["layer_names"] = np.array([name.encode() for name in stored])
        root.attrs["backend"] = b"tensorflow"
        root.attrs["keras_version"] = b"2.1.5"
        for name, layer in zip(stored, dict.fromkeys(names), strict=True):
            group = root.create_group(name)
            held = arrays.get(layer, {})
            group.attrs["weight_names"] = np.array([f"{name}/{part}{suffix}".encode() for part in held])
            for part, values in held.items():
                group.create_dataset(f"{name}/{part}{suffix}", data=values.astype(dtype))


def write_numbered_h5(
    path: Path | str | io.BytesIO,
    arrays: Arrays,
    config: DenseNetConfig,
    names: bool = True,
    container: str = "layers",
    dtype: str = "float32",
) -> None:
    """``.weights.h5`` as Keras 3 writes it; without ``names`` as 3.0 to 3.3 did."""
    kinds = {"Conv2D": "conv2d", "BatchNormalization": "batch_normalization", "Dense": "dense"}
    counts = dict.fromkeys(kinds.values(), 0)
    with h5py.File(path, "w") as file:
        for layer in list_layers(config):
            if layer.class_name not in kinds or layer.name not in arrays:
                continue
            kind = kinds[layer.class_name]
            group = file.create_group(f"{container}/{kind}_{counts[kind]}" if counts[kind] else f"{container}/{kind}")
            counts[kind] += 1
            stored = group.create_group("vars")
            if names:
                stored.attrs["name"] = layer.name
            for number, values in enumerate(arrays[layer.name].values()):
                stored[str(number)] = values.astype(dtype)


def write_keras_archive(
    path: Path | str,
    arrays: Arrays,
    config: DenseNetConfig,
    names: bool = True,
    compression: int = zipfile.ZIP_STORED,
    configuration: str = "{}",
) -> None:
    """A ``.keras`` archive; ``configuration`` is the text of its ``config.json``."""
    weights = io.BytesIO()
    write_numbered_h5(weights, arrays, config, names)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("config.json", configuration)
        archive.writestr("model.weights.h5", weights.getvalue())


def write_torchvision(path: Path | str, arrays: Arrays, config: DenseNetConfig, dtype: str = "float32") -> None:
    """Safetensors as timm publishes it: variances for torch's epsilon, ``num_batches_tracked``, no word of ours."""
    tensors = {}
    for layer, torch_layer in torchvision_names(config).items():
        held = arrays[layer]
        names = NORM_ARRAYS if "gamma" in held else HEAD_ARRAYS
        for torch_name, name in names.items():
            if name not in held:
                continue
            values = held[name].astype(np.float64)
            if name == "moving_variance":
                values = np.maximum(values + BN_EPSILON - TORCH_EPSILON, 0)
            if values.ndim == 4:
                values = np.moveaxis(values, (3, 2), (0, 1))
            tensors[f"{torch_layer}.{torch_name}"] = np.ascontiguousarray(
                values.T if values.ndim == 2 else values, dtype
            )
        if "gamma" in held:
            tensors[f"{torch_layer}.num_batches_tracked"] = np.array(7, np.int64)
    save_file(tensors, str(path), {"format": "pt"})


def without(arrays: Arrays, *names: str) -> Arrays:
    """``arrays`` without the layers of these names."""
    return {layer: held for layer, held in arrays.items() if layer not in names}


def shapes_of(arrays: Arrays) -> dict[str, dict[str, tuple[int, ...]]]:
    return {layer: {name: values.shape for name, values in held.items()} for layer, held in arrays.items()}


def assert_same(got: Arrays, expected: Arrays, config: DenseNetConfig) -> None:
    """Exactly the layers, shapes and bits of ``expected``, as float32."""
    assert shapes_of(got) == array_shapes(config)
    for layer, held in expected.items():
        for name, values in held.items():
            assert got[layer][name].dtype == np.float32
            np.testing.assert_array_equal(got[layer][name], values, err_msg=f"{layer} {name}")
