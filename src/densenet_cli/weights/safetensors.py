"""The ``.safetensors`` format with torchvision's layer names, as timm publishes it and ``densenet train`` writes it.

torchvision's layout of kernels is (out, in, height, width), and it adds 1e-5 to variances. Both are converted to Keras'
conventions. Files that this package writes have the metadata key ``densenet``: JSON with the configuration, labels,
preprocessing, epsilon of the variances, training settings, and measured accuracy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from densenet_cli.errors import CheckpointError, UsageError
from densenet_cli.images.normalization import MEAN, STD, check_normalization
from densenet_cli.images.preprocessing import INTERPOLATIONS, MIN_CROP_RATIO
from densenet_cli.labels import ClassLabel, Labels, is_valid
from densenet_cli.layers import array_shapes
from densenet_cli.output.atomic import write_file
from densenet_cli.topology import BN_EPSILON, DenseNetConfig
from densenet_cli.weights.contents import (
    Arrays,
    CheckpointContents,
    ModelMetadata,
    StoredArray,
    StoredLayers,
    damaged_file_error,
)

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray

METADATA_KEY = "densenet"
TORCH_EPSILON = 1e-5
MAX_HEADER_SIZE = 8 << 20
"""Bytes of JSON before the arrays. The largest network needs 200 kB."""
MAX_INPUT_SIZE = 4096
"""Pixels. The largest side length that the metadata can state."""

NORM_ARRAYS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
HEAD_ARRAYS = {"weight": "kernel", "bias": "bias"}
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64", "I64": "int64"}

# torchvision's layer names -> Keras' layer names. Keras counts the stem as the first stage.
FIXED_NAMES = {
    "features.conv0": "conv1_conv",
    "features.norm0": "conv1_bn",
    "features.norm5": "bn",
    "classifier": "predictions",
}
DENSE_LAYER = re.compile(r"features\.denseblock(\d{1,4})\.denselayer(\d{1,4})\.(norm1|conv1|norm2|conv2)")
DENSE_PARTS = {"norm1": "0_bn", "conv1": "1_conv", "norm2": "1_bn", "conv2": "2_conv"}
TRANSITION = re.compile(r"features\.transition(\d{1,4})\.(norm|conv)")
TRANSITION_PARTS = {"norm": "bn", "conv": "conv"}


def keras_name(layer: str) -> str | None:
    """Return Keras' name of a torchvision layer, or None if it is not part of a DenseNet."""
    if match := DENSE_LAYER.fullmatch(layer):
        return f"conv{int(match[1]) + 1}_block{int(match[2])}_{DENSE_PARTS[match[3]]}"
    if match := TRANSITION.fullmatch(layer):
        return f"pool{int(match[1]) + 1}_{TRANSITION_PARTS[match[2]]}"
    return FIXED_NAMES.get(layer)


def torchvision_names(config: DenseNetConfig) -> dict[str, str]:
    """Return Keras' name -> torchvision's name of every layer of ``config`` that has arrays."""
    names = {keras_name: torch_name for torch_name, keras_name in FIXED_NAMES.items()}
    for stage, layers in enumerate(config.blocks, start=1):
        for layer in range(1, layers + 1):
            for torch_part, keras_part in DENSE_PARTS.items():
                torch_name = f"features.denseblock{stage}.denselayer{layer}.{torch_part}"
                names[f"conv{stage + 1}_block{layer}_{keras_part}"] = torch_name
        for torch_part, keras_part in TRANSITION_PARTS.items():
            names[f"pool{stage + 1}_{keras_part}"] = f"features.transition{stage}.{torch_part}"
    return {layer: names[layer] for layer in array_shapes(config)}


@contextmanager
def open_contents(path: Path) -> Iterator[CheckpointContents]:
    """Open a ``.safetensors`` checkpoint. Raises ``CheckpointError`` if it is invalid."""
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
    if header_size > MAX_HEADER_SIZE:
        raise CheckpointError(f"The header declares {header_size:,} bytes; the limit is {MAX_HEADER_SIZE:,}.")
    try:
        with safe_open(path, framework="numpy") as file:
            fields = _parse_metadata((file.metadata() or {}).get(METADATA_KEY))
            yield CheckpointContents(_layers(file), path.stat().st_size, **fields)
    except SafetensorError as error:
        raise damaged_file_error(error) from error


def _layers(file: Any) -> StoredLayers:
    layers: StoredLayers = {}
    for name in file.keys():  # noqa: SIM118  (not a mapping)
        torch_layer, _, array = name.rpartition(".")
        if array == "num_batches_tracked":
            continue
        tensor = file.get_slice(name)
        shape, dtype = tuple(tensor.get_shape()), tensor.get_dtype()
        layer = keras_name(torch_layer)
        keras_array = (HEAD_ARRAYS if len(shape) != 1 or layer == "predictions" else NORM_ARRAYS).get(array)
        if layer is None or keras_array is None:
            raise CheckpointError(f"Array {name!r} is not part of a torchvision DenseNet.")
        layers.setdefault(layer, {})[keras_array] = StoredArray(
            _keras_layout(shape), DTYPES.get(dtype, dtype), partial(_read, file, name, dtype)
        )
    return layers


def _keras_layout(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Convert (out, in, height, width) to (height, width, in, out), and (out, in) to (in, out)."""
    return (*shape[2:], shape[1], shape[0]) if len(shape) > 1 else shape


def _read(file: Any, name: str, dtype: str) -> FloatArray:
    if dtype == "BF16":
        import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy)
    values: FloatArray = file.get_tensor(name).astype(np.float32, copy=False)
    return values.transpose(2, 3, 1, 0) if values.ndim == 4 else values.T


def _parse_metadata(text: str | None) -> dict[str, Any]:
    """Parse the value of ``METADATA_KEY`` to fields of ``CheckpointContents``. Raises ``CheckpointError``."""
    if text is None:
        return {"bn_epsilon": TORCH_EPSILON}
    try:
        values = json.loads(text)
        config = DenseNetConfig.from_dict(values["config"])
        epsilon = float(values["bn_epsilon"])
        if not 0 < epsilon < 1:
            raise ValueError(f"bn_epsilon is {epsilon}")
        metadata = ModelMetadata(
            _parse_labels(values["labels"], config.classes),
            _check_type(values["preprocess"], str),
            _check_type(values["input_size"], int) or config.input_size,
            _check_type(values["training"], dict) or {},
            _check_type(values["accuracy"], dict) or {},
            config.activation,
            **_parse_preprocessing(values, config.channels),
        )
        for size in (config.growth_rate, config.stem_width, config.classes, config.input_size, *config.blocks):
            _check_type(size, int)
        for size in (config.input_size, metadata.input_size or 1):
            if not 1 <= size <= MAX_INPUT_SIZE:
                raise ValueError(f"input_size is {size}")
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError, UsageError) as error:
        raise CheckpointError(f"The metadata is malformed ({type(error).__name__}: {error}).") from error
    return {"config": config, "metadata": metadata, "bn_epsilon": epsilon}


def _parse_preprocessing(values: dict[str, Any], channels: int) -> dict[str, Any]:
    """Return ``mean``, ``std``, ``interpolation``, and ``crop_ratio``. Files of older versions state none of them."""
    interpolation = values.get("interpolation") or ("nearest" if values["preprocess"] == "keras" else "bilinear")
    crop_ratio = values.get("crop_ratio")
    defaults = {"mean": MEAN, "std": STD} if channels == 3 else {}
    numbers: dict[str, Any] = {name: values.get(name) or defaults.get(name) for name in ("mean", "std")}
    if None not in numbers.values():
        numbers = {name: tuple(map(float, value)) for name, value in numbers.items()}
        check_normalization(numbers["mean"], numbers["std"])
    if interpolation not in INTERPOLATIONS or not MIN_CROP_RATIO <= (1 if crop_ratio is None else crop_ratio) <= 1:
        raise ValueError(f"interpolation is {interpolation!r}, crop_ratio is {crop_ratio!r}")
    return {**numbers, "interpolation": interpolation, "crop_ratio": crop_ratio}


def _check_type(value: Any, expected: type) -> Any:
    """Return ``value``. Raises ``TypeError`` if it is neither None nor of exactly the expected type."""
    if value is not None and type(value) is not expected:
        raise TypeError(f"expected {expected.__name__}, found {value!r:.60}")
    return value


def _parse_labels(values: list[Any] | None, classes: int) -> Labels | None:
    if values is None:
        return None
    if len(values) != classes:
        raise ValueError(f"{len(values)} labels for {classes} classes")
    labels = tuple(ClassLabel(index, wordnet_id, name) for index, wordnet_id, name in values)
    for label in labels:
        if type(label.index) is not int or label.index < 0 or not is_valid(label.name) or not is_valid(label.id or "-"):
            raise ValueError(f"{label!r:.100}")
    return labels


def write(
    path: str | Path,
    arrays: Arrays,
    config: DenseNetConfig,
    metadata: ModelMetadata | None = None,
    dtype: str = "float32",
) -> None:
    """Write a checkpoint atomically. See ``serialize`` for the arguments. Raises ``OutputError`` if it fails."""
    write_file(path, serialize(arrays, config, metadata, dtype))


def serialize(
    arrays: Arrays,
    config: DenseNetConfig,
    metadata: ModelMetadata | None = None,
    dtype: str = "float32",
    *,
    for_torch: bool = False,
    properties: Mapping[str, str] | None = None,
) -> bytes:
    """Return the bytes of a checkpoint. The same arguments give the same bytes.

    Args:
        arrays: The values in Keras' layout.
        config: The configuration of the network.
        metadata: What to store besides it.
        dtype: The element type of the kernels, "float32" or "float16". Vectors are always float32: they are a few
            percent of the bytes, and variances near epsilon would lose most of their digits.
        for_torch: Adapt the variances to torchvision's epsilon, so that variance + epsilon stays the same, and add the
            counters of a PyTorch ``state_dict``.
        properties: More entries for the metadata of the file.

    Raises:
        ValueError: The arrays do not match ``config``, or are not finite in ``dtype``.
    """
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype must be float32 or float16, not {dtype!r}")
    shapes = {layer: {name: values.shape for name, values in named.items()} for layer, named in arrays.items()}
    if shapes != array_shapes(config):
        raise ValueError("the arrays do not match the configuration")
    tensors: dict[str, Any] = {}
    for layer, torch_layer in torchvision_names(config).items():
        torch_arrays = HEAD_ARRAYS if "kernel" in shapes[layer] else NORM_ARRAYS
        for torch_array, name in torch_arrays.items():
            if name not in shapes[layer]:
                continue
            values: Any = arrays[layer][name]
            if for_torch and name == "moving_variance":
                values = values.astype(np.float64) + (BN_EPSILON - TORCH_EPSILON)
            with np.errstate(over="ignore"):
                values = values.astype(dtype if values.ndim > 1 else "float32")
            if not np.isfinite(values).all():
                raise ValueError(f"{name} of layer {layer} has values that are not finite in {dtype}")
            values = values.transpose(3, 2, 0, 1) if values.ndim == 4 else values.T
            tensors[f"{torch_layer}.{torch_array}"] = np.ascontiguousarray(values)
        if for_torch and "gamma" in shapes[layer]:
            tensors[f"{torch_layer}.num_batches_tracked"] = np.zeros((), np.int64)
    text = _metadata_json(config, metadata or ModelMetadata(), TORCH_EPSILON if for_torch else BN_EPSILON)
    data: bytes = save(tensors, {**(properties or {}), METADATA_KEY: text})
    return data


def _metadata_json(config: DenseNetConfig, metadata: ModelMetadata, bn_epsilon: float) -> str:
    values = {
        "config": config.to_dict(),
        "labels": metadata.to_dict()["labels"],
        "preprocess": metadata.preprocess,
        "input_size": metadata.input_size,
        "bn_epsilon": bn_epsilon,
        "training": metadata.training,
        "accuracy": metadata.accuracy,
    }
    for name in ("mean", "std", "interpolation", "crop_ratio"):
        if (value := getattr(metadata, name)) is not None:
            values[name] = value
    return json.dumps(values, ensure_ascii=False, allow_nan=False)
