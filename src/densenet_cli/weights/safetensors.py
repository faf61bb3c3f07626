"""The ``.safetensors`` format with torchvision's layer names, as timm publishes it and ``densenet train`` writes it.

Files that this package writes have the metadata key ``densenet`` (see ``metadata``). All others are state dicts (see
``pytorch.names``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from densenet_cli.errors import CheckpointError
from densenet_cli.layers import array_shapes
from densenet_cli.output.atomic import write_file
from densenet_cli.topology import BN_EPSILON, DenseNetConfig
from densenet_cli.weights.contents import (
    Arrays,
    CheckpointContents,
    ModelMetadata,
    StoredArray,
    damaged_file_error,
)
from densenet_cli.weights.metadata import METADATA_KEY, dump, parse
from densenet_cli.weights.pytorch import names as torch_names
from densenet_cli.weights.pytorch.names import (
    HEAD_ARRAYS,
    NORM_ARRAYS,
    TORCH_EPSILON,
    torchvision_names,
)
from densenet_cli.weights.pytorch.other_arrays import Tensors

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray

MAX_HEADER_SIZE = 8 << 20
"""Bytes of JSON before the arrays. The largest network needs 200 kB."""

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64"}


@contextmanager
def open_contents(path: Path) -> Iterator[CheckpointContents]:
    """Open a ``.safetensors`` checkpoint. Raises ``CheckpointError`` if it is invalid."""
    with open_tensors(path) as (tensors, text):
        if text is None:
            yield torch_names.contents(tensors, path.stat().st_size)
        else:
            yield CheckpointContents(torch_names.own_layers(tensors), path.stat().st_size, **parse(text))


@contextmanager
def open_tensors(path: Path) -> Iterator[tuple[Tensors, str | None]]:
    """Open a file, and return its arrays and the metadata that this package wrote, if any."""
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
    if header_size > MAX_HEADER_SIZE:
        raise CheckpointError(f"The header declares {header_size:,} bytes; the limit is {MAX_HEADER_SIZE:,}.")
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: _stored(file, name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
            yield tensors, (file.metadata() or {}).get(METADATA_KEY)
    except SafetensorError as error:
        raise damaged_file_error(error) from error


def replace_metadata(path: Path, config: DenseNetConfig, metadata: ModelMetadata) -> bytes | None:
    """Return the bytes of a checkpoint with other metadata and the same arrays, bit for bit.

    The result is None if this package did not write the file, or contains another network than
    ``config``, whose input size does not matter. It must then be converted.

    Raises:
        CheckpointError: The file is damaged.
    """
    with open_tensors(path) as (_, text):
        values = {} if text is None else parse(text)
    stored: DenseNetConfig | None = values.get("config")
    if stored is None or replace(stored, input_size=config.input_size) != config:
        return None
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"][METADATA_KEY] = dump(stored, metadata, values["bn_epsilon"])
    encoded = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # arrays are aligned to 8 bytes
    return len(encoded).to_bytes(8, "little") + encoded + content[8 + size :]


def _stored(file: Any, name: str) -> StoredArray:
    tensor = file.get_slice(name)
    dtype = tensor.get_dtype()
    return StoredArray(tuple(tensor.get_shape()), DTYPES.get(dtype, dtype), partial(_read, file, name, dtype))


def _read(file: Any, name: str, dtype: str) -> FloatArray:
    if dtype == "BF16":
        import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy)
    values: FloatArray = file.get_tensor(name).astype(np.float32, copy=False)
    return values


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
    text = dump(config, metadata or ModelMetadata(), TORCH_EPSILON if for_torch else BN_EPSILON)
    data: bytes = save(tensors, {**(properties or {}), METADATA_KEY: text})
    return data
