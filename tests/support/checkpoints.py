"""Writers for every checkpoint format, so that tests need neither TensorFlow nor PyTorch nor a download.

``weights/keras/test_formats.py`` compares their files with those that Keras writes.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

from densenet_cli.errors import CheckpointError
from densenet_cli.layers import array_shapes, list_layers
from densenet_cli.topology import BN_EPSILON, DenseNetConfig
from densenet_cli.weights import checkpoint
from densenet_cli.weights.pytorch.names import HEAD_ARRAYS, NORM_ARRAYS, TORCH_EPSILON, torchvision_names

Arrays = dict[str, dict[str, np.ndarray]]

OLD_NAMES = {"conv1_conv": "conv1/conv", "conv1_bn": "conv1/bn", "predictions": "fc1000"}


def shuffled(arrays: Arrays) -> Arrays:
    """Return the same arrays in another order, on which a reader must not depend."""
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
    """Write the legacy format. ``below="model_weights", suffix=""`` gives that of ``save("x.h5")`` in Keras 3."""
    with h5py.File(path, "w") as file:
        root = file.create_group(below) if below else file
        names = ["input_1", *dict.fromkeys(layer.name for layer in list_layers(config)), *arrays]
        stored = [OLD_NAMES.get(name, name) if old_names else name for name in dict.fromkeys(names)]
        root.attrs["layer_names"] = np.array([name.encode() for name in stored])
        root.attrs["backend"] = b"tensorflow"
        root.attrs["keras_version"] = b"2.1.5"
        for name, layer in zip(stored, dict.fromkeys(names), strict=True):
            group = root.create_group(name)
            layer_arrays = arrays.get(layer, {})
            paths = [f"{name}/{array}{suffix}" for array in layer_arrays]
            group.attrs["weight_names"] = np.array([path.encode() for path in paths])
            for path, values in zip(paths, layer_arrays.values(), strict=True):
                group.create_dataset(path, data=values.astype(dtype))


def write_numbered_h5(
    path: Path | str | io.BytesIO,
    arrays: Arrays,
    config: DenseNetConfig,
    names: bool = True,
    container: str = "layers",
    dtype: str = "float32",
) -> None:
    """Write ``.weights.h5`` as Keras 3 does. Without ``names``, as Keras 3.0 to 3.3 did."""
    group_names = {"Conv2D": "conv2d", "BatchNormalization": "batch_normalization", "Dense": "dense"}
    counts = dict.fromkeys(group_names.values(), 0)
    with h5py.File(path, "w") as file:
        for layer in list_layers(config):
            if layer.class_name not in group_names or layer.name not in arrays:
                continue
            name = group_names[layer.class_name]
            group = file.create_group(f"{container}/{name}_{counts[name]}" if counts[name] else f"{container}/{name}")
            counts[name] += 1
            variables = group.create_group("vars")
            if names:
                variables.attrs["name"] = layer.name
            for number, values in enumerate(arrays[layer.name].values()):
                variables[str(number)] = values.astype(dtype)


def write_keras_archive(
    path: Path | str,
    arrays: Arrays,
    config: DenseNetConfig,
    names: bool = True,
    compression: int = zipfile.ZIP_STORED,
    configuration: str | None = None,
) -> None:
    """Write a ``.keras`` archive. ``configuration`` is the text of its ``config.json``, if it has one."""
    weights = io.BytesIO()
    write_numbered_h5(weights, arrays, config, names)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        if configuration is not None:
            archive.writestr("config.json", configuration)
        archive.writestr("model.weights.h5", weights.getvalue())


def torch_tensors(arrays: Arrays, config: DenseNetConfig, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Return the arrays of torchvision's state dict: other layouts, other variances, and counters."""
    tensors = {}
    for layer, torch_layer in torchvision_names(config).items():
        layer_arrays = arrays[layer]
        names = NORM_ARRAYS if "gamma" in layer_arrays else HEAD_ARRAYS
        for torch_name, name in names.items():
            if name not in layer_arrays:
                continue
            values = layer_arrays[name].astype(np.float64)
            if name == "moving_variance":
                values = np.maximum(values + BN_EPSILON - TORCH_EPSILON, 0)
            if values.ndim == 4:
                values = np.moveaxis(values, (3, 2), (0, 1))
            tensors[f"{torch_layer}.{torch_name}"] = np.ascontiguousarray(
                values.T if values.ndim == 2 else values, dtype
            )
        if "gamma" in layer_arrays:
            tensors[f"{torch_layer}.num_batches_tracked"] = np.array(7, np.int64)
    return tensors


def write_torchvision(path: Path | str, arrays: Arrays, config: DenseNetConfig, dtype: str = "float32") -> None:
    """Write ``.safetensors`` as timm does: without metadata of ours."""
    save_file(torch_tensors(arrays, config, dtype), str(path), {"format": "pt"})


def write_small_variances(path: Path | str, arrays: Arrays, config: DenseNetConfig) -> None:
    """Write torchvision's format with the same outputs, but with variances that are less than the epsilons differ by.

    Channels that are always 0 have such variances.
    """
    tensors = torch_tensors(arrays, config)
    for name, variance in tensors.items():
        if name.endswith("running_var"):
            is_small = variance < 1e-5
            small = np.where(is_small, np.resize(np.float32([1e-12, 0, 9e-9]), variance.shape), variance)
            tensors[name.replace("running_var", "weight")] *= np.sqrt((small + 1e-5) / (variance + 1e-5))
            variance[:] = small
    save_file(tensors, str(path))


def without(arrays: Arrays, *names: str) -> Arrays:
    """Return ``arrays`` without the named layers."""
    return {layer: layer_arrays for layer, layer_arrays in arrays.items() if layer not in names}


def shapes_of(arrays: Arrays) -> dict[str, dict[str, tuple[int, ...]]]:
    return {layer: {name: values.shape for name, values in named.items()} for layer, named in arrays.items()}


def assert_same(actual: Arrays, expected: Arrays, config: DenseNetConfig) -> None:
    """Assert that ``actual`` has the layers, shapes, and bits of ``expected`` as float32."""
    assert shapes_of(actual) == array_shapes(config)
    for layer, layer_arrays in expected.items():
        for name, values in layer_arrays.items():
            assert actual[layer][name].dtype == np.float32
            np.testing.assert_array_equal(actual[layer][name], values, err_msg=f"{layer} {name}")


def error_message(path: Path) -> str:
    """Return the message of the error that reading ``path`` raises: one sentence or more on one line, with the path."""
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and message.endswith(".")
    return message
