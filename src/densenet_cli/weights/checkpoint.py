"""Read a checkpoint of any known format, and check every layer, shape and value before anything is made of it.

Formats are told from the first bytes, not from the name. Each one's reader lists what the file holds; only what is
found to be the network's is then read, so a hostile file costs no more memory than its own size. Nothing in a
checkpoint is ever run: pickles, which torch.save makes, are refused.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from densenet_cli import layers
from densenet_cli.errors import CheckpointError
from densenet_cli.layers import ArrayShapes
from densenet_cli.topology import BN_EPSILON, DenseNetConfig
from densenet_cli.weights import naming, recognition
from densenet_cli.weights.contents import Arrays, Checkpoint, Contents, ModelMetadata, StoredLayers

__all__ = ["Arrays", "Checkpoint", "ModelMetadata", "read"]

MAX_BYTES = 2 << 30
"""Of a file: an optimizer's state beside the largest network stays below a quarter of it."""
MAX_ARRAYS = 20_000

ITEM_SIZE = {"float32": 4, "float16": 2, "bfloat16": 2}
"""The element types that are read, all as float32 -> bytes of one."""


def read(path: str | Path, config: DenseNetConfig | None = None) -> Checkpoint:
    """The checkpoint in the file ``path``, whole and checked.

    With ``config`` every layer, shape and element type has to be that network's, whatever the number of classes: the
    file's head decides it, and the result's ``config`` has it. Without, the network is told from the layers.

    Raises ``CheckpointError``, one sentence with the file's name: what it is instead of a checkpoint, or which layer is
    missing or has which shape instead of which.
    """
    try:
        with _open(Path(path)) as contents:
            return _checkpoint(contents, config)
    except CheckpointError as error:
        raise CheckpointError(f"Can't use the checkpoint {path}: {error}.") from error
    except OSError as error:
        raise CheckpointError(f"Can't read the checkpoint {path}: {error.strerror or error}.") from error
    except (MemoryError, RecursionError) as error:
        raise CheckpointError(f"Can't use the checkpoint {path}: it asks for more memory than there is.") from error


def _open(path: Path) -> AbstractContextManager[Contents]:
    # Imported when a file of their kind is met: h5py alone takes 35 ms.
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError("it is no file")
    if status.st_size > MAX_BYTES:
        raise CheckpointError(f"it has {status.st_size} bytes, more than any DenseNet needs")
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return _hdf5(path)
    if head.startswith(b"PK"):
        from densenet_cli.weights import keras_archive

        return keras_archive.open_contents(path)
    if head[8:9] == b"{":
        from densenet_cli.weights import safetensors

        return safetensors.open_contents(path)
    if path.suffix in (".pth", ".pt", ".pkl", ".bin") or head[:1] == b"\x80":
        from densenet_cli.weights.keras_archive import PICKLE

        raise CheckpointError(PICKLE)
    raise CheckpointError("it is neither HDF5 (.h5, .weights.h5) nor a .keras archive nor .safetensors")


@contextmanager
def _hdf5(path: Path) -> Iterator[Contents]:
    from densenet_cli.weights import hdf5, keras_formats

    with hdf5.open_file(path) as root:
        yield keras_formats.contents(root)


def _checkpoint(contents: Contents, config: DenseNetConfig | None) -> Checkpoint:
    layers = contents.layers
    _check_size(layers, contents.size)
    if not contents.named:
        layers = naming.by_order(layers)
    shapes = {layer: {name: stored.shape for name, stored in held.items()} for layer, held in layers.items()}
    if config is None:
        config = recognition.recognize(shapes, contents.config)
    else:
        recognition.check_kind(shapes)
        config = config.with_classes(recognition.head_width(shapes))
        said = contents.config
        if said is not None and said.stem != config.stem:
            raise CheckpointError(f"its metadata say that its stem is {said.stem!r} instead of {config.stem!r}")
    _check_shapes(shapes, _expected(config, contents.metadata))
    arrays = _read(layers, contents.bn_epsilon)
    return Checkpoint(arrays, config, contents.metadata, recognition.variant_of(config))


def _check_size(layers: StoredLayers, available: int) -> None:
    """Every array has an element type that is read, and all of them have room in the file."""
    count = size = 0
    for layer, held in layers.items():
        for name, stored in held.items():
            if stored.dtype not in ITEM_SIZE:
                raise CheckpointError(
                    f"layer {layer} has {name} of type {stored.dtype} instead of {' or '.join(ITEM_SIZE)}"
                )
            count += 1
            size += math.prod(stored.shape) * ITEM_SIZE[stored.dtype]
    if count > MAX_ARRAYS or size > available:
        raise CheckpointError(f"it claims {count} arrays of {size} bytes together, more than lie in it")


def _expected(config: DenseNetConfig, metadata: ModelMetadata) -> dict[str, ArrayShapes]:
    """What the file has to hold, if images of the size that it asks for go through the network at all."""
    try:
        layers.layers(config, metadata.input_size)
        return layers.array_shapes(config)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def _check_shapes(shapes: dict[str, ArrayShapes], expected: dict[str, ArrayShapes]) -> None:
    for layer, arrays in expected.items():
        if layer not in shapes:
            raise CheckpointError(f"layer {layer} is missing{_what_it_is(shapes, expected)}")
        for name, shape in arrays.items():
            if name not in shapes[layer]:
                raise CheckpointError(f"layer {layer} has no {name}")
            if shapes[layer][name] != shape:
                raise CheckpointError(
                    f"layer {layer} has {name} of shape {shapes[layer][name]} instead of {shape}"
                    f"{_what_it_is(shapes, expected)}"
                )
        for name in shapes[layer]:
            if name not in arrays:
                raise CheckpointError(f"layer {layer} has {name}, which a DenseNet's has not")
    for layer in shapes:
        if layer not in expected:
            raise CheckpointError(f"it has a layer {layer}, which this network has not{_what_it_is(shapes, expected)}")


def _what_it_is(shapes: dict[str, ArrayShapes], expected: dict[str, ArrayShapes]) -> str:
    """For a file of another variant, a hint which."""
    try:
        config = recognition.recognize(shapes, None)
        name = recognition.variant_of(config)
    except CheckpointError:
        return ""
    return f" (these are the layers of variant {name})" if name and layers.array_shapes(config) != expected else ""


def _read(layers: StoredLayers, bn_epsilon: float) -> Arrays:
    """The arrays, their variances meant for our epsilon: the sum of the two is what counts."""
    import numpy as np

    arrays: Arrays = {}
    for layer, held in layers.items():
        arrays[layer] = {}
        for name, stored in held.items():
            values = stored.read()
            if not np.isfinite(values).all():
                raise CheckpointError(f"layer {layer} has {name} with values that are not finite")
            if name == "moving_variance":
                if values.min() < 0:
                    raise CheckpointError(f"layer {layer} has a negative variance")
                if bn_epsilon != BN_EPSILON:
                    values = (values.astype(np.float64) + (bn_epsilon - BN_EPSILON)).astype(np.float32)
            arrays[layer][name] = values
    return arrays
