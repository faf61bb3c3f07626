"""A safe subset of HDF5: arrays and strings that are stored in the file itself, uncompressed and contiguously.

h5py finds the objects. Only hard links are followed, because soft and external links can lead to other files. A dataset
is accepted only if its bytes are one block of the file, without filters, external storage, or fill values. These bytes
are then read directly. So no other file is read, and memory use is limited by the size of the file.

String attributes are parsed from the bytes of the file. libhdf5 1.14, which h5py 3 contains, trusts the length of a
variable-length string: it allocates and fills up to 4 GiB, and loops forever on a heap with an object of length zero.
Keras stores layer names in such strings. The constants are from version 3 of the HDF5 file format specification:
object headers in IV.A.1, attributes in IV.A.2.m, global heaps in III.E.

The low-level interface of h5py is used because it is twice as fast for a checkpoint's 600 small arrays.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from h5py import h5a, h5d, h5f, h5fd, h5g, h5l, h5o, h5p

from densenet_cli.errors import CheckpointError
from densenet_cli.weights.contents import StoredArray, damaged_file_error

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray

FileBytes = bytes | mmap.mmap

MAX_OBJECTS = 50_000
"""Groups and datasets that are opened in one file. The largest network has 4,000."""
MAX_DEPTH = 10
MAX_MESSAGES = 1000
"""Messages in one object header. Keras writes a handful."""
MAX_NAME_LENGTH = 1024
"""Bytes of a string attribute for which no other limit is given."""
MAX_HEAP_OBJECTS = 1 << 16

ATTRIBUTE_MESSAGE, CONTINUATION_MESSAGE = 0x0C, 0x10
FIXED_STRING_TYPE, VARIABLE_LENGTH_TYPE = 3, 9

H5PY_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    NotImplementedError,
)
"""What h5py raises for a damaged file."""


@contextmanager
def open_file(source: Path | bytes) -> Iterator[Group]:
    """Open an HDF5 file, given its path or its bytes, and yield the root group."""
    access = h5p.create(h5p.FILE_ACCESS)
    # Closing the file closes its objects, even if a traceback refers to them.
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    with ExitStack() as stack:
        data: FileBytes
        if isinstance(source, bytes):
            name, data = b"archive", source
            access.set_fileobj_driver(h5fd.fileobj_driver, stack.enter_context(BytesIO(source)))
        else:
            name = os.fsencode(source)
            file = stack.enter_context(source.open("rb"))
            data = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            # The file is only read, and some file systems have no locks.
            access.set_file_locking(False, True)
        with _damage_errors():
            handle = h5f.open(name, h5f.ACC_RDONLY, fapl=access)
        stack.callback(handle.close)
        yield Group(handle, "", _File(data))


@contextmanager
def _damage_errors() -> Iterator[None]:
    try:
        yield
    except H5PY_ERRORS as error:
        raise damaged_file_error(error) from error


@dataclass
class _File:
    """The bytes of an open file, and the number of objects opened in it."""

    data: FileBytes
    objects: int = 0


def _check_object_count(objects: int) -> None:
    if objects > MAX_OBJECTS:
        raise CheckpointError(f"The file has more than {MAX_OBJECTS:,} groups and datasets.")


class Group:
    """A group in an open file. Every method raises ``CheckpointError`` if the file is damaged or malicious."""

    def __init__(self, handle: Any, path: str, file: _File) -> None:
        self.path = path
        self._handle = handle
        self._file = file

    @property
    def file_size(self) -> int:
        """Size of the whole file in bytes."""
        return len(self._file.data)

    def members(self) -> Iterator[tuple[str, Group | StoredArray]]:
        """Yield the name of each group and dataset in this group, and the group or dataset."""
        with _damage_errors():
            _check_object_count(self._handle.get_num_objs())
            names = [name.decode() for name in self._handle]
        for name in names:
            yield name, self.get(name)

    def arrays(self) -> dict[str, StoredArray]:
        """Return every dataset in this group and its subgroups, by relative path."""
        arrays: dict[str, StoredArray] = {}
        for name, member in self.members():
            if isinstance(member, StoredArray):
                arrays[name] = member
            else:
                arrays |= {f"{name}/{path}": array for path, array in member.arrays().items()}
        return arrays

    def has(self, name: str) -> bool:
        """Return whether the group has a member ``name``."""
        with _damage_errors():
            return bool(self._handle.links.exists(name.encode()))

    def group(self, name: str) -> Group:
        """Return the subgroup ``name``."""
        member = self.get(name)
        if isinstance(member, StoredArray):
            raise CheckpointError(f"The HDF5 object {self._member_path(name)} is not a group.")
        return member

    def get(self, name: str) -> Group | StoredArray:
        """Return the member ``name``."""
        self._file.objects += 1
        _check_object_count(self._file.objects)  # A group can contain itself.
        path = self._member_path(name)
        with _damage_errors():
            if self._handle.links.get_info(name.encode()).type != h5l.TYPE_HARD:
                raise CheckpointError(f"The HDF5 object {path} is a soft or external link. These are not followed.")
            member = h5o.open(self._handle, name.encode())
            if isinstance(member, h5d.DatasetID):
                return self._array(member, path)
        if not isinstance(member, h5g.GroupID):
            raise CheckpointError(f"The HDF5 object {path} is neither a group nor a dataset.")
        if path.count("/") > MAX_DEPTH:
            raise CheckpointError(f"The HDF5 object {path} is more than {MAX_DEPTH} levels deep.")
        return Group(member, path, self._file)

    def has_attribute(self, name: str) -> bool:
        """Return whether the group has an attribute ``name``, without reading its value."""
        with _damage_errors():
            return bool(h5a.exists(self._handle, name.encode()))

    def string_attribute(self, name: str, max_length: int = MAX_NAME_LENGTH) -> str:
        """Return the value of the string attribute ``name``, which has at most ``max_length`` bytes."""
        with _damage_errors():
            return read_string_attribute(self._file.data, h5o.get_info(self._handle).addr, name, max_length)

    def _array(self, dataset: Any, path: str) -> StoredArray:
        shape, dtype, offset = dataset.shape, dataset.dtype, dataset.get_offset()
        if offset is None or offset + math.prod(shape) * dtype.itemsize > self.file_size:
            raise CheckpointError(
                f"The HDF5 dataset {path} of shape {shape} is not stored in the file as one uncompressed block."
            )
        # HDF5 has no bfloat16. Keras writes its bytes as an opaque type.
        name = "bfloat16" if dtype.name == "void16" else dtype.name
        return StoredArray(shape, name, partial(_read_array, self._file.data, offset, shape, dtype))

    def _member_path(self, name: str) -> str:
        return f"{self.path}/{name}" if self.path else name


def _read_array(data: FileBytes, offset: int, shape: tuple[int, ...], dtype: Any) -> FloatArray:
    values: Any = np.frombuffer(data, dtype, math.prod(shape), offset).reshape(shape)
    if dtype.name == "void16":
        # bfloat16 is the upper half of a float32.
        values = (values.view("<u2").astype(np.uint32) << 16).view(np.float32)
    # A copy, because the memory map is closed with the file.
    result: FloatArray = values.astype(np.float32)
    return result


def read_string_attribute(data: FileBytes, header: int, name: str, max_length: int = MAX_NAME_LENGTH) -> str:
    """Parse a string attribute from the bytes of a file.

    Args:
        data: The file.
        header: The offset of the object header. Version 2, which h5py writes only on request, is not supported.
        name: The name of the attribute.
        max_length: The maximum length of the value in bytes.

    Raises:
        ValueError: The attribute does not exist, is too long, or is malformed.
    """
    for message in _attribute_messages(data, header):
        if message[:1] not in (b"\1", b"\2", b"\3"):
            continue
        # Version 1 pads the name, type, and shape to multiples of 8 bytes. Version 3 adds the encoding of the name.
        alignment = 8 if message[0] == 1 else 1
        sizes = [-(-_number(message, offset, 2) // alignment) * alignment for offset in (2, 4, 6)]
        start = 9 if message[0] == 3 else 8
        if message[start : start + _number(message, 2, 2)].rstrip(b"\0") != name.encode():
            continue
        datatype = message[start + sizes[0] :]
        value = message[start + sum(sizes) :]
        if datatype[0] & 15 == VARIABLE_LENGTH_TYPE:
            length, collection, index = _number(value, 0, 4), _number(value, 4, 8), _number(value, 12, 4)
            if length > max_length:
                raise ValueError(f"a string of {length:,} bytes")
            value = _heap_object(data, collection, index, length)
        elif datatype[0] & 15 == FIXED_STRING_TYPE:
            value = _slice(value, 0, min(_number(datatype, 4, 4), max_length))
        else:
            raise ValueError(f"attribute {name} is not a string")
        return value.rstrip(b"\0").decode()
    raise ValueError(f"attribute {name} not found")


def _attribute_messages(data: FileBytes, header: int) -> Iterator[bytes]:
    """Yield the attribute messages of an object header of version 1."""
    if _slice(data, header, 1) != b"\1":
        raise ValueError("unsupported version of an object header")
    blocks = [(header + 16, _number(data, header + 8, 4))]
    for _ in range(MAX_MESSAGES):
        while blocks and blocks[-1][1] < 8:
            blocks.pop()
        if not blocks:
            return
        start, remaining = blocks.pop()
        kind, size = _number(data, start, 2), _number(data, start + 2, 2)
        blocks.append((start + 8 + size, remaining - 8 - size))
        if kind == ATTRIBUTE_MESSAGE:
            yield _slice(data, start + 8, size)
        elif kind == CONTINUATION_MESSAGE:
            blocks.append((_number(data, start + 8, 8), _number(data, start + 16, 8)))
    raise ValueError("too many messages in an object header")


def _heap_object(data: FileBytes, collection: int, index: int, length: int) -> bytes:
    """Return ``length`` bytes of object ``index`` in the global heap collection at offset ``collection``."""
    if _slice(data, collection, 5) != b"GCOL\1":
        raise ValueError("a string is not in a global heap")
    end = collection + _number(data, collection + 8, 8)
    offset = collection + 16
    for _ in range(MAX_HEAP_OBJECTS):
        if offset + 16 > end:
            break
        object_index, size = _number(data, offset, 2), _number(data, offset + 8, 8)
        if object_index == index and length <= size:
            return _slice(data, offset + 16, length)
        offset += 16 + -(-size // 8) * 8 if object_index else max(size, 16)
    raise ValueError("a string is missing in the global heap")


def _number(data: FileBytes, start: int, size: int) -> int:
    return int.from_bytes(_slice(data, start, size), "little")


def _slice(data: FileBytes, start: int, size: int) -> bytes:
    piece = data[start : start + size]
    if len(piece) != size:
        raise ValueError("a string extends beyond the end of the file")
    return piece
