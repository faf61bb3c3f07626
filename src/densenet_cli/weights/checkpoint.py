"""Reading a checkpoint of any supported format, with validation of every layer, shape, and value.

The format is detected from the first bytes, not from the file name. The reader of the format lists the arrays in the
file. They are read only after all names, shapes, and types are valid, so a malicious file needs no more memory than its
own size. No code in a checkpoint is ever run: pickles, which ``torch.save`` writes, are rejected.
"""

from __future__ import annotations

import math
import stat
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from densenet_cli import layers
from densenet_cli.errors import CheckpointError, UsageError
from densenet_cli.layers import ArrayShapes
from densenet_cli.topology import BN_EPSILON, DenseNetConfig
from densenet_cli.weights import recognition
from densenet_cli.weights.contents import Arrays, Checkpoint, CheckpointContents, StoredLayers, pickle_error

MAX_FILE_SIZE = 2 << 30
"""Bytes. The largest network with the state of an optimizer needs less than a quarter."""
MAX_ARRAYS = 20_000

ITEM_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Supported element type -> its size in bytes. All are converted to float32."""


def read(path: str | Path, config: DenseNetConfig | None = None) -> Checkpoint:
    """Read and validate a checkpoint.

    Args:
        path: The file.
        config: The network that the file must contain, with any number of classes. None to infer it from the file.

    Returns:
        The checkpoint. Its ``config`` has the number of classes of the head in the file.

    Raises:
        CheckpointError: The file cannot be read, is not a checkpoint, or has a missing or unexpected layer, shape,
            type, or value. The message is one line and contains the path.
    """
    try:
        with _open(Path(path)) as contents:
            return _validate(contents, config)
    except CheckpointError as error:
        raise CheckpointError(f"Cannot load {path}. {error}") from error
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (MemoryError, RecursionError) as error:
        raise CheckpointError(f"Cannot load {path}. It needs more memory than is available.") from error


def _open(path: Path) -> AbstractContextManager[CheckpointContents]:
    # The readers are imported when they are needed.
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError("It is not a regular file.")
    if status.st_size > MAX_FILE_SIZE:
        raise CheckpointError(f"It has {status.st_size:,} bytes; the limit is {MAX_FILE_SIZE:,}.")
    with path.open("rb") as file:
        head = file.read(16)
    is_hdf5 = head.startswith(b"\x89HDF\r\n\x1a\n")
    if is_hdf5 or head.startswith(b"PK"):
        from densenet_cli.weights import keras_formats

        return keras_formats.open_contents(path if is_hdf5 else keras_formats.read_archive(path))
    if head[8:9] == b"{":
        from densenet_cli.weights import safetensors

        return safetensors.open_contents(path)
    if path.suffix in (".pth", ".pt", ".pkl", ".bin") or head[:1] == b"\x80":
        raise pickle_error()
    raise CheckpointError("The format is not supported. Use HDF5 (.h5, .weights.h5), .keras, or .safetensors.")


def _validate(contents: CheckpointContents, config: DenseNetConfig | None) -> Checkpoint:
    stored = contents.layers
    _check_types_and_size(stored, contents.available_bytes)
    shapes = {layer: {name: array.shape for name, array in arrays.items()} for layer, arrays in stored.items()}
    if config is None:
        config = recognition.infer_config(shapes, contents.config)
    else:
        recognition.check_architecture(shapes)
        config = config.with_classes(recognition.count_classes(shapes))
    try:
        layers.list_layers(config, contents.metadata.input_size)  # checks the input size
        expected = layers.array_shapes(config)
    except UsageError as error:
        raise CheckpointError(f"The configuration is invalid. {error}") from error
    _check_shapes(shapes, expected)
    if contents.config is not None and contents.config.stem != config.stem:  # stems can differ in stride only
        raise CheckpointError(f"Expected stem {config.stem!r}, found {contents.config.stem!r} in the metadata.")
    arrays = _read_arrays(stored, contents.bn_epsilon)
    return Checkpoint(arrays, config, contents.metadata, recognition.find_variant(config))


def _check_types_and_size(stored: StoredLayers, available_bytes: int) -> None:
    count = size = 0
    for layer, arrays in stored.items():
        for name, array in arrays.items():
            if array.dtype not in ITEM_SIZES:
                supported = " or ".join(ITEM_SIZES)
                raise CheckpointError(f"Layer {layer}: expected {name} type {supported}, found {array.dtype}.")
            count += 1
            size += math.prod(array.shape) * ITEM_SIZES[array.dtype]
    if count > MAX_ARRAYS or size > available_bytes:
        raise CheckpointError(f"The file declares {count:,} arrays of {size:,} bytes, more than it contains.")


def _check_shapes(shapes: dict[str, ArrayShapes], expected: dict[str, ArrayShapes]) -> None:
    for layer, expected_arrays in expected.items():
        if layer not in shapes:
            raise CheckpointError(f"Layer {layer} is missing.{_variant_hint(shapes, expected)}")
        for name, shape in expected_arrays.items():
            if name not in shapes[layer]:
                raise CheckpointError(f"Layer {layer}: {name} is missing.")
            if shapes[layer][name] != shape:
                raise CheckpointError(
                    f"Layer {layer}: expected {name} shape {shape}, found {shapes[layer][name]}."
                    f"{_variant_hint(shapes, expected)}"
                )
        for name in shapes[layer]:
            if name not in expected_arrays:
                raise CheckpointError(f"Layer {layer}: unexpected {name}.")
    for layer in shapes:
        if layer not in expected:
            raise CheckpointError(f"Unexpected layer {layer}.{_variant_hint(shapes, expected)}")


def _variant_hint(shapes: dict[str, ArrayShapes], expected: dict[str, ArrayShapes]) -> str:
    """Return a sentence that names the variant in the file, if it is another one than expected, else ""."""
    try:
        config = recognition.infer_config(shapes, None)
    except CheckpointError:
        return ""
    name = recognition.find_variant(config)
    return f" The file contains variant {name}." if name and layers.array_shapes(config) != expected else ""


def _read_arrays(stored: StoredLayers, bn_epsilon: float) -> Arrays:
    """Read and validate the values, and adapt the variances to ``BN_EPSILON``: variance + epsilon stays the same."""
    arrays: Arrays = {}
    for layer, stored_arrays in stored.items():
        arrays[layer] = {}
        for name, array in stored_arrays.items():
            values = array.read()
            if not np.isfinite(values).all():
                raise CheckpointError(f"Layer {layer}: {name} contains NaN or infinite values.")
            if name == "moving_variance":
                if values.min() < 0:
                    raise CheckpointError(f"Layer {layer}: {name} contains negative values.")
                if bn_epsilon != BN_EPSILON:
                    values = (values.astype(np.float64) + (bn_epsilon - BN_EPSILON)).astype(np.float32)
            arrays[layer][name] = values
    return arrays
