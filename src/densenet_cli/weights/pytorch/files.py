"""The files of ``torch.save``: zip archives, and the stream that PyTorch wrote before version 1.6. PyTorch is not used.

An archive contains ``NAME/data.pkl``, the pickle of the object, and ``NAME/data/KEY``, the storages of its arrays. In a
stream, five pickles are followed by the storages: a magic number, a version, properties of the system, the object, and
the keys of the storages. An array refers to a part of a storage by offset, shape, and strides.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple
from zlib import crc32

import numpy as np

from densenet_cli.errors import CheckpointError
from densenet_cli.weights import zip_archives
from densenet_cli.weights.contents import CheckpointContents, StoredArray, damaged_file_error
from densenet_cli.weights.pytorch import names as torch_names
from densenet_cli.weights.pytorch import pickles
from densenet_cli.weights.pytorch.other_arrays import Tensors
from densenet_cli.weights.pytorch.pickles import Global, Instance
from densenet_cli.weights.pytorch.state import StateDict, Storage, Tensor, find_state_dict

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray

MAGIC_NUMBER, STREAM_VERSION = 0x1950A86A20F9469CFC6C, 1001

MAX_AXES = 8
MAX_SPAN_RATIO = 4
"""How many times the size of the file may be read for arrays that are views with gaps."""

# Name of a storage class -> numpy's name of the element type, and its size in bytes.
ELEMENT_TYPES = {
    "FloatStorage": ("float32", 4),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "DoubleStorage": ("float64", 8),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
    "UntypedStorage": ("bytes", 1),
    "ComplexFloatStorage": ("complex64", 8),
    "ComplexDoubleStorage": ("complex128", 16),
}


class Block(NamedTuple):
    """The position of a storage in the file.

    Attributes:
        position: The first byte.
        size: The number of bytes.
        checksum: The CRC-32 of the bytes, or 0 if there is none.
    """

    position: int
    size: int
    checksum: int = 0


class TorchFile(NamedTuple):
    """The contents of a file.

    Attributes:
        root: The object.
        blocks: Key of a storage -> its position.
        byte_order: ``<`` or ``>``.
    """

    root: Any
    blocks: dict[str, Block]
    byte_order: Literal["<", ">"] = "<"


@contextmanager
def open_contents(path: Path) -> Iterator[CheckpointContents]:
    """Open a file of ``torch.save``. Raises ``CheckpointError`` if it is invalid or contains no DenseNet."""
    with open_tensors(path) as (tensors, state):
        yield torch_names.contents(tensors, path.stat().st_size, state.notes, state.classes)


@contextmanager
def open_tensors(path: Path, is_shard: bool = False) -> Iterator[tuple[Tensors, StateDict]]:
    """Open a file, and return the arrays of its state dict and the state dict itself. See ``find_state_dict``."""
    with path.open("rb") as file:
        is_archive = file.read(2) == b"PK"
        file.seek(0)
        contents = _read_archive(path, file) if is_archive else _read_stream(file)
        state = find_state_dict(contents.root, is_shard)
        file_size = os.fstat(file.fileno()).st_size
        tensors = {name: _stored(file, tensor, contents) for name, tensor in state.tensors.items()}
        _check_spans(state.tensors, file_size)
        yield tensors, state


def _read_archive(path: Path, file: BinaryIO) -> TorchFile:
    with zip_archives.open_archive(path) as archive:
        members = archive.infolist()
    roots = {member.filename.partition("/")[0] for member in members}
    records = {member.filename.partition("/")[2]: member for member in members}
    if "constants.pkl" in records or any(name.startswith("code/") for name in records):
        raise CheckpointError("It is a TorchScript archive, which contains code. Save the state dict of the model.")
    if zip_archives.is_exported_program(member.filename for member in members):
        raise CheckpointError(
            "It is a program of torch.export (.pt2), which contains code. Save the state dict of the model."
        )
    if len(roots) != 1 or len(records) != len(members) or "data.pkl" not in records:
        raise CheckpointError("It is not an archive of torch.save, which has one folder with a data.pkl.")

    def locate(name: str) -> Block:
        member = records[name]
        if member.compress_type or member.flag_bits & 1 or member.compress_size != member.file_size:
            raise CheckpointError(f"{name!r:.100} is compressed or encrypted, unlike in files of torch.save.")
        position = _data_position(file, member.header_offset)
        return Block(position, member.file_size, member.CRC)

    storages: dict[str, Storage] = {}
    if records["data.pkl"].file_size > pickles.MAX_STRING_BYTES:
        raise CheckpointError(f"The pickle has more than {pickles.MAX_STRING_BYTES:,} bytes.")
    root = _load_object(BytesIO(_read_block(file, locate("data.pkl"))), storages)
    byte_order: Literal["<", ">"] = "<"
    if "byteorder" in records and _read_block(file, locate("byteorder"), size=3) == b"big":
        byte_order = ">"
    blocks = {}
    for key in storages:
        if f"data/{key}" not in records:
            raise damaged_file_error(f"storage {key!r:.40} is missing")
        blocks[key] = locate(f"data/{key}")
    return TorchFile(root, blocks, byte_order)


def _data_position(file: BinaryIO, header_position: int) -> int:
    """Return the position of a member's data, which follows its local header with two fields of variable length."""
    file.seek(header_position)
    header = file.read(30)
    if len(header) != 30 or not header.startswith(b"PK\3\4"):
        raise damaged_file_error("a member of the archive is missing")
    return header_position + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")


def _read_stream(file: BinaryIO) -> TorchFile:
    if pickles.load(file) != MAGIC_NUMBER:
        raise CheckpointError(
            "It is a pickle, but not a file of torch.save. Save the model's state dict with torch.save."
        )
    if pickles.load(file) != STREAM_VERSION:
        raise damaged_file_error("unknown version of the format")
    pickles.load(file)
    storages: dict[str, Storage] = {}
    root = _load_object(file, storages)
    keys = pickles.load(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
        raise damaged_file_error("the list of storages is invalid")
    blocks: dict[str, Block] = {}
    for key in keys:
        storage = storages[key]
        count = int.from_bytes(file.read(8), "little", signed=True)
        if count != storage.size:
            raise damaged_file_error(f"storage {key!r:.40} has {count:,} items, expected {storage.size:,}")
        blocks[key] = Block(file.tell(), count * _element_type(storage)[1])
        file.seek(blocks[key].size, os.SEEK_CUR)
    return TorchFile(root, blocks)


def _load_object(file: BinaryIO, storages: dict[str, Storage]) -> Any:
    """Read the pickle of the object, and collect its storages by key."""

    def load_persistent(identifier: Any) -> Any:
        kind, *values = identifier
        if kind == "module":  # the class of a model, with its source code
            return values[0]
        if kind != "storage":
            raise ValueError("unknown kind of persistent object")
        type_, key, _device, size, *views = values
        if not isinstance(type_, Global) or not isinstance(key, str) or not _is_size(size):
            raise ValueError("invalid storage")
        storage = Storage(type_.name.rpartition(".")[2], key, size)
        if storages.setdefault(key, storage).size != size:
            raise ValueError("one storage has two sizes")
        if views and views[0] is not None:
            _, offset, size = views[0]
            if not _is_size(offset) or not _is_size(size) or offset + size > storage.size:
                raise ValueError("invalid view of a storage")
            storage = storage._replace(offset=offset, size=size)
        return storage

    return pickles.load(file, FUNCTIONS, load_persistent)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _rebuild_tensor(args: tuple[Any, ...]) -> Tensor:
    storage, offset, shape, strides = args[:4]
    if not (isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)):
        raise TypeError("invalid arguments of an array")
    if len(shape) > MAX_AXES or len(shape) != len(strides) or not all(map(_is_size, (offset, *shape, *strides))):
        raise ValueError("invalid shape or strides")
    return Tensor(storage, offset, shape, strides)


def _rebuild_parameter(args: tuple[Any, ...]) -> Any:
    return args[0]


def _rebuild_from_type(args: tuple[Any, ...]) -> Any:
    """Return an instance of a subclass of ``Tensor``: function, class, arguments, attributes."""
    function = args[0]
    if isinstance(function, Global) and function.name in ARRAY_FUNCTIONS and isinstance(args[2], tuple):
        return ARRAY_FUNCTIONS[function.name](args[2])
    return Instance(function, args[2])


def _size(args: tuple[Any, ...]) -> tuple[Any, ...]:
    (shape,) = args
    if not isinstance(shape, tuple | list) or len(shape) > MAX_AXES:
        raise TypeError("invalid size")
    return tuple(shape)


ARRAY_FUNCTIONS = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
}
FUNCTIONS = {**ARRAY_FUNCTIONS, "torch._tensor._rebuild_from_type_v2": _rebuild_from_type, "torch.Size": _size}
"""The functions in pickles that are implemented. They describe arrays and read nothing."""


def _element_type(storage: Storage) -> tuple[str, int]:
    if storage.type_name not in ELEMENT_TYPES:
        raise CheckpointError(f"The storage type {storage.type_name!r:.80} is not supported.")
    return ELEMENT_TYPES[storage.type_name]


def _span(tensor: Tensor) -> int:
    """Return the number of items from the first to the last one of an array."""
    if 0 in tensor.shape:
        return 0
    return 1 + sum((count - 1) * stride for count, stride in zip(tensor.shape, tensor.strides, strict=True))


def _stored(file: BinaryIO, tensor: Tensor, contents: TorchFile) -> StoredArray:
    storage = tensor.storage
    dtype, item_size = _element_type(storage)
    block = contents.blocks.get(storage.key)
    end = tensor.offset + _span(tensor)
    if block is None or end > storage.size or (storage.offset + end) * item_size > block.size:
        raise damaged_file_error(f"an array of shape {tensor.shape} exceeds its storage")
    return StoredArray(tensor.shape, dtype, partial(_read_tensor, file, tensor, block, contents.byte_order))


def _check_spans(state: dict[str, Tensor], file_size: int) -> None:
    size = sum(_span(tensor) * _element_type(tensor.storage)[1] for tensor in state.values())
    if size > MAX_SPAN_RATIO * file_size:
        raise CheckpointError(f"The arrays are views of {size:,} bytes, more than the file contains.")


def _read_tensor(file: BinaryIO, tensor: Tensor, block: Block, byte_order: Literal["<", ">"]) -> FloatArray:
    dtype, item_size = _element_type(tensor.storage)
    stored_dtype = np.dtype("uint16" if dtype == "bfloat16" else dtype).newbyteorder(byte_order)
    start = (tensor.storage.offset + tensor.offset) * item_size
    data = _read_block(file, block, start, _span(tensor) * item_size)
    strides = [stride * item_size for stride in tensor.strides]
    values = (
        np.ndarray(tensor.shape, stored_dtype, data, strides=strides) if prod(tensor.shape) else np.zeros(tensor.shape)
    )
    if dtype == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def _read_block(file: BinaryIO, block: Block, start: int = 0, size: int | None = None) -> bytes:
    """Read a part of a storage, and verify the checksum of a whole one."""
    size = block.size if size is None else size
    file.seek(block.position + start)
    data = file.read(size)
    if len(data) != size:
        raise damaged_file_error("the file is too short")
    if size == block.size and block.checksum and crc32(data) != block.checksum:
        raise damaged_file_error("a checksum is wrong")
    return data
