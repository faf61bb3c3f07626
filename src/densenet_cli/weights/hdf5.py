"""HDF5 as far as checkpoints need it, and no further: what lies in the file itself, whole and as it is.

h5py finds things. A link is followed only where it is a hard one (soft and external links lead elsewhere), and a
dataset is taken only where its bytes lie in the file in one piece: no filters to unpack, no other files, no values made
up by the library. Those bytes are then taken from the file as they are. So nothing is read from another file, and
nothing larger than the file comes into memory.

The low-level interface of h5py is used because it is twice as fast on some six hundred small arrays.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densenet_cli.errors import CheckpointError
from densenet_cli.weights import hdf5_attributes
from densenet_cli.weights.contents import StoredArray

if TYPE_CHECKING:
    from densenet_cli.weights.contents import Array
    from densenet_cli.weights.hdf5_attributes import Bytes

MAX_OBJECTS = 50_000
"""Groups and datasets that are looked at in one file; the largest network has four thousand."""
MAX_DEPTH = 10

FAILURES = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    NotImplementedError,
)
"""What h5py raises on a damaged file."""


@contextmanager
def open_file(source: Path | bytes) -> Iterator[Group]:
    """The root group of an HDF5 file, or of the bytes of one, while the ``with`` block lasts."""
    if isinstance(source, bytes):
        with _opened(BytesIO(source)) as handle:
            yield Group(handle, "", _File(source))
    else:
        with (
            source.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            _opened(source) as handle,
        ):
            yield Group(handle, "", _File(data))


@contextmanager
def _opened(source: Path | BytesIO) -> Iterator[Any]:
    from h5py import h5f, h5fd, h5p

    access = h5p.create(h5p.FILE_ACCESS)
    # Closing it closes what was opened in it, even while a traceback holds some of that.
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    if isinstance(source, BytesIO):
        access.set_fileobj_driver(h5fd.fileobj_driver, source)
    else:
        # It is only read, and a lock can't be had on every file system.
        access.set_file_locking(False, True)
    try:
        name = b"archive" if isinstance(source, BytesIO) else os.fsencode(source)
        handle = h5f.open(name, h5f.ACC_RDONLY, fapl=access)
    except FAILURES as error:
        raise _damaged(error) from error
    try:
        yield handle
    finally:
        handle.close()


class _File:
    """An open file's bytes, and how much of it has been looked at."""

    def __init__(self, data: Bytes) -> None:
        self.data = data
        self.objects = 0

    def count(self) -> None:
        """One more object. Raises ``CheckpointError`` where that is too many (a group can hold itself)."""
        self.objects += 1
        if self.objects > MAX_OBJECTS:
            raise CheckpointError(f"it has more than {MAX_OBJECTS} groups and datasets")


class Group:
    """A group in an open file.

    Every method raises ``CheckpointError`` where the file is damaged or hostile.
    """

    def __init__(self, handle: Any, path: str, file: _File) -> None:
        self.path = path
        self._handle = handle
        self._file = file

    @property
    def file_size(self) -> int:
        """Bytes of the whole file."""
        return len(self._file.data)

    def members(self) -> Iterator[tuple[str, Group | StoredArray]]:
        """The groups and datasets in this group by name."""
        try:
            if self._handle.get_num_objs() > MAX_OBJECTS:
                raise CheckpointError(f"it has more than {MAX_OBJECTS} groups and datasets")
            names = [name.decode() for name in self._handle]
        except FAILURES as error:
            raise _damaged(error) from error
        for name in names:
            yield name, self.get(name)

    def arrays(self) -> dict[str, StoredArray]:
        """Every dataset in this group and below it, by its path from here."""
        found: dict[str, StoredArray] = {}
        for name, member in self.members():
            if isinstance(member, StoredArray):
                found[name] = member
            else:
                found |= {f"{name}/{path}": array for path, array in member.arrays().items()}
        return found

    def has(self, name: str) -> bool:
        """Whether something is called ``name`` here."""
        try:
            return bool(self._handle.links.exists(name.encode()))
        except FAILURES as error:
            raise _damaged(error) from error

    def group(self, name: str) -> Group:
        """The group called ``name`` here."""
        found = self.get(name)
        if isinstance(found, StoredArray):
            raise CheckpointError(f"{self._below(name)} is no group")
        return found

    def get(self, name: str) -> Group | StoredArray:
        """What is called ``name`` here."""
        from h5py import h5d, h5g, h5l, h5o

        self._file.count()
        path = self._below(name)
        try:
            if self._handle.links.get_info(name.encode()).type != h5l.TYPE_HARD:
                raise CheckpointError(f"{path} is a link to elsewhere, and those are not followed")
            found = h5o.open(self._handle, name.encode())
            if isinstance(found, h5d.DatasetID):
                return self._array(found, path)
        except FAILURES as error:
            raise _damaged(error) from error
        if not isinstance(found, h5g.GroupID) or path.count("/") > MAX_DEPTH:
            raise CheckpointError(f"{path} is neither a group nor a dataset of a checkpoint")
        return Group(found, path, self._file)

    def has_attribute(self, name: str) -> bool:
        """Whether there is an attribute called ``name``; its value is not looked at."""
        from h5py import h5a

        try:
            return bool(h5a.exists(self._handle, name.encode()))
        except FAILURES as error:
            raise _damaged(error) from error

    def string(self, name: str) -> str:
        """The string in attribute ``name``."""
        from h5py import h5o

        try:
            return hdf5_attributes.string(self._file.data, h5o.get_info(self._handle).addr, name)
        except FAILURES as error:
            raise _damaged(error) from error

    def _array(self, dataset: Any, path: str) -> StoredArray:
        shape, dtype, offset = dataset.shape, dataset.dtype, dataset.get_offset()
        if offset is None or offset + math.prod(shape) * dtype.itemsize > self.file_size:
            raise CheckpointError(f"dataset {path} of shape {shape} does not lie in the file in one uncompressed piece")
        # HDF5 has no bfloat16: Keras writes its bytes as an opaque type.
        name = dtype.name
        return StoredArray(
            shape, "bfloat16" if name == "void16" else name, partial(_read, self._file.data, offset, shape, dtype)
        )

    def _below(self, name: str) -> str:
        return f"{self.path}/{name}" if self.path else name


def _read(data: Bytes, offset: int, shape: tuple[int, ...], dtype: Any) -> Array:
    import numpy as np

    values: Any = np.frombuffer(data, dtype, math.prod(shape), offset).reshape(shape)
    if dtype.name == "void16":
        # bfloat16 is the upper half of a float32.
        values = (values.view("<u2").astype(np.uint32) << 16).view(np.float32)
    # A copy, since the bytes are let go with the file.
    result: Array = values.astype(np.float32)
    return result


def _damaged(error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return CheckpointError(f"it is damaged or cut short ({reason})")
