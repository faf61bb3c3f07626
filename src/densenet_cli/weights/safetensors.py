"""``.safetensors`` with torchvision's names: what timm publishes, and what ``densenet train`` writes.

torchvision lays kernels out as (out, in, height, width) and adds 1e-5 to variances; both are brought to Keras' way.
Our own files say more under one metadata key, ``densenet``: JSON with the configuration, labels, preprocessing, the
epsilon of their variances, training settings and measured accuracy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densenet_cli.errors import CheckpointError
from densenet_cli.labels import ClassLabel, Labels, is_valid
from densenet_cli.layers import array_shapes
from densenet_cli.output.atomic import write_file
from densenet_cli.topology import BN_EPSILON, DenseNetConfig
from densenet_cli.weights.contents import Contents, ModelMetadata, StoredArray, StoredLayers

if TYPE_CHECKING:
    from densenet_cli.weights.contents import Array

METADATA_KEY = "densenet"
TORCH_EPSILON = 1e-5
MAX_HEADER = 8 << 20
"""Bytes of JSON before the arrays; the largest network's is 200 kB."""

MAX_SIDE = 4096
"""Pixels a side of the image that a network may ask for."""

NORM_ARRAYS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
HEAD_ARRAYS = {"weight": "kernel", "bias": "bias"}
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64", "I64": "int64"}

# The name that torchvision gives a layer, and Keras' for it. Keras counts the stem as the first stage.
FIXED = {
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
    """Keras' name of torchvision's ``layer``, None where a DenseNet has no such layer."""
    if match := DENSE_LAYER.fullmatch(layer):
        return f"conv{int(match[1]) + 1}_block{int(match[2])}_{DENSE_PARTS[match[3]]}"
    if match := TRANSITION.fullmatch(layer):
        return f"pool{int(match[1]) + 1}_{TRANSITION_PARTS[match[2]]}"
    return FIXED.get(layer)


def torchvision_names(config: DenseNetConfig) -> dict[str, str]:
    """Keras' name -> torchvision's, of every layer of ``config`` that holds arrays."""
    names = {ours: theirs for theirs, ours in FIXED.items()}
    for stage, layers in enumerate(config.blocks, start=1):
        for layer in range(1, layers + 1):
            for theirs, ours in DENSE_PARTS.items():
                names[f"conv{stage + 1}_block{layer}_{ours}"] = f"features.denseblock{stage}.denselayer{layer}.{theirs}"
        for theirs, ours in TRANSITION_PARTS.items():
            names[f"pool{stage + 1}_{ours}"] = f"features.transition{stage}.{theirs}"
    return {layer: names[layer] for layer in array_shapes(config)}


@contextmanager
def open_contents(path: Path) -> Iterator[Contents]:
    """The checkpoint in ``path``, to be read while the ``with`` block lasts. Raises ``CheckpointError``."""
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > MAX_HEADER:
        raise CheckpointError(f"its header claims {header} bytes, more than the {MAX_HEADER} that any DenseNet needs")
    try:
        with safe_open(path, framework="numpy") as file:
            said = _metadata((file.metadata() or {}).get(METADATA_KEY))
            yield Contents(_layers(file), path.stat().st_size, **said)
    except SafetensorError as error:
        raise CheckpointError(f"it is damaged or cut short ({error})") from error


def _layers(file: Any) -> StoredLayers:
    layers: StoredLayers = {}
    for name in file.keys():  # noqa: SIM118  (not a mapping)
        torch_layer, _, array = name.rpartition(".")
        if array == "num_batches_tracked":
            continue
        stored = file.get_slice(name)
        shape, dtype = tuple(stored.get_shape()), stored.get_dtype()
        layer = keras_name(torch_layer)
        renamed = (HEAD_ARRAYS if len(shape) != 1 or layer == "predictions" else NORM_ARRAYS).get(array)
        if layer is None or renamed is None:
            raise CheckpointError(f"it holds {name!r}, which is no array of torchvision's DenseNets")
        layers.setdefault(layer, {})[renamed] = StoredArray(
            _keras_layout(shape), DTYPES.get(dtype, dtype), partial(_read, file, name, dtype)
        )
    return layers


def _keras_layout(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(out, in, height, width) -> (height, width, in, out), and (out, in) -> (in, out)."""
    return (*shape[2:], shape[1], shape[0]) if len(shape) > 1 else shape


def _read(file: Any, name: str, dtype: str) -> Array:
    import numpy as np

    if dtype == "BF16":
        import ml_dtypes  # noqa: F401  (tells numpy of bfloat16)
    values: Array = file.get_tensor(name).astype(np.float32, copy=False)
    return values.transpose(2, 3, 1, 0) if values.ndim == 4 else values.T


def _metadata(text: str | None) -> dict[str, Any]:
    """What our own key says, as fields of ``Contents``. Raises ``CheckpointError`` for anything malformed."""
    if text is None:
        return {"bn_epsilon": TORCH_EPSILON}
    try:
        values = json.loads(text)
        config = DenseNetConfig.from_dict(values["config"])
        epsilon = float(values["bn_epsilon"])
        if not 0 < epsilon < 1:
            raise ValueError(f"bn_epsilon is {epsilon}")
        metadata = ModelMetadata(
            _labels(values["labels"], config.classes),
            _optional(values["preprocess"], str),
            _optional(values["input_size"], int),
            _optional(values["training"], dict) or {},
            _optional(values["accuracy"], dict) or {},
        )
        for size in (config.growth_rate, config.stem_width, config.classes, config.input_size, *config.blocks):
            _optional(size, int)
        for size in (config.input_size, metadata.input_size or 1):
            if not 1 <= size <= MAX_SIDE:
                raise ValueError(f"input_size is {size}")
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"its metadata are malformed ({type(error).__name__}: {error})") from error
    return {"config": config, "metadata": metadata, "bn_epsilon": epsilon}


def _optional(value: Any, kind: type) -> Any:
    if value is not None and type(value) is not kind:
        raise TypeError(f"{value!r:.60} should be {kind.__name__}")
    return value


def _labels(values: list[Any] | None, classes: int) -> Labels | None:
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
    arrays: Mapping[str, Mapping[str, Array]],
    config: DenseNetConfig,
    metadata: ModelMetadata | None = None,
    dtype: str = "float32",
) -> None:
    """Write a checkpoint that ``checkpoint.read`` reads back; at any moment ``path`` is the old file or the new one.

    Arguments are those of ``serialize``. Raises ``OutputError`` where the file can't be written.
    """
    data = serialize(arrays, config, metadata, dtype)
    write_file(path, data)


def serialize(
    arrays: Mapping[str, Mapping[str, Array]],
    config: DenseNetConfig,
    metadata: ModelMetadata | None = None,
    dtype: str = "float32",
    *,
    for_torch: bool = False,
    properties: Mapping[str, str] | None = None,
) -> bytes:
    """A checkpoint's bytes. The same arguments give the same bytes.

    Args:
        arrays: by layer and name, as Keras lays them out.
        config: the network.
        metadata: what our own key says beside it.
        dtype: with "float16" the kernels are halved; vectors stay float32, since they are a few per cent of the bytes
            and variances near epsilon would lose most of their digits.
        for_torch: move the variances to torchvision's epsilon, so that the sum stays the same, and add the counters
            that a ``state_dict`` of torch has.
        properties: further metadata.

    Raises:
        ValueError: the arrays aren't those of ``config``, or aren't finite.
    """
    import numpy as np
    from safetensors.numpy import save

    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype must be float32 or float16, not {dtype!r}")
    shapes = {layer: {name: array.shape for name, array in held.items()} for layer, held in arrays.items()}
    if shapes != array_shapes(config):
        raise ValueError("these arrays are not those of this configuration")
    stored: dict[str, Any] = {}
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
                raise ValueError(f"{layer}'s {name} holds values that are not finite in {dtype}")
            values = values.transpose(3, 2, 0, 1) if values.ndim == 4 else values.T
            stored[f"{torch_layer}.{torch_array}"] = np.ascontiguousarray(values)
        if for_torch and "gamma" in shapes[layer]:
            stored[f"{torch_layer}.num_batches_tracked"] = np.zeros((), np.int64)
    said = _to_json(config, metadata or ModelMetadata(), TORCH_EPSILON if for_torch else BN_EPSILON)
    data: bytes = save(stored, {**(properties or {}), METADATA_KEY: said})
    return data


def _to_json(config: DenseNetConfig, metadata: ModelMetadata, bn_epsilon: float) -> str:
    labels = metadata.labels and [[label.index, label.id, label.name] for label in metadata.labels]
    values = {
        "config": config.to_dict(),
        "labels": labels,
        "preprocess": metadata.preprocess,
        "input_size": metadata.input_size,
        "bn_epsilon": bn_epsilon,
        "training": metadata.training,
        "accuracy": metadata.accuracy,
    }
    return json.dumps(values, ensure_ascii=False, allow_nan=False)
