"""HDF5 as far as checkpoints need it, and no further: what lies in the file itself, whole and as it is.

A link is followed only where it is a hard one (soft and external links lead elsewhere), and a dataset is taken only
where its bytes lie in the file in one piece: no filters to unpack, no other files, no values made up by the library.
So nothing is read from another file, and nothing larger than the file comes into memory.

The low-level interface of h5py is used because it is twice as fast on some six hundred small arrays.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densenet_cli.errors import CheckpointError
from densenet_cli.weights.contents import StoredArray

if TYPE_CHECKING:
    from densenet_cli.weights.contents import Array

MAX_NAMES = 20_000
"""Entries that a list of names or a group may have; the largest network has a thousand."""

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
    from h5py import h5f, h5fd, h5p

    access = h5p.create(h5p.FILE_ACCESS)
    # Closing it closes what was opened in it, even while a traceback holds some of that.
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    if isinstance(source, bytes):
        size, name = len(source), b"archive"
        access.set_fileobj_driver(h5fd.fileobj_driver, BytesIO(source))
    else:
        size, name = source.stat().st_size, os.fsencode(source)
        # It is only read, and a lock can't be had on every file system.
        access.set_file_locking(False, True)
    try:
        file = h5f.open(name, h5f.ACC_RDONLY, fapl=access)
    except FAILURES as error:
        raise _damaged(error) from error
    try:
        yield Group(file, "", size)
    finally:
        file.close()


class Group:
    """A group in an open file of ``file_size`` bytes.

    Every method raises ``CheckpointError`` where the file is damaged or hostile.
    """

    def __init__(self, handle: Any, path: str, file_size: int) -> None:
        self._handle = handle
        self._path = path
        self.file_size = file_size

    def has(self, name: str) -> bool:
        """Whether something is linked here as ``name``, which is no path."""
        try:
            return bool(self._handle.links.exists(name.encode()))
        except FAILURES as error:
            raise _damaged(error) from error

    def names(self) -> list[str]:
        """What is linked here, in the file's order."""
        try:
            if self._handle.get_num_objs() > MAX_NAMES:
                raise CheckpointError(f"{self._path or 'its root'} has more than {MAX_NAMES} members")
            return [name.decode() for name in self._handle]
        except FAILURES as error:
            raise _damaged(error) from error

    def group(self, path: str) -> Group:
        """The group at ``path``, names joined by slashes."""
        from h5py import h5g

        found = self._find(path)
        if not isinstance(found, h5g.GroupID):
            raise CheckpointError(f"{self._below(path)} is no group")
        return Group(found, self._below(path), self.file_size)

    def array(self, path: str) -> StoredArray:
        """The dataset at ``path``, whose bytes lie inside the file in one piece."""
        from h5py import h5d

        found = self._find(path)
        if not isinstance(found, h5d.DatasetID):
            raise CheckpointError(f"{self._below(path)} is no dataset")
        try:
            shape, dtype, offset = found.shape, found.dtype, found.get_offset()
        except FAILURES as error:
            raise _damaged(error) from error
        count = 1
        for length in shape:
            count *= length
        if offset is None or offset + count * dtype.itemsize > self.file_size:
            raise CheckpointError(
                f"dataset {self._below(path)} of shape {shape} does not lie in the file in one uncompressed piece"
            )
        # HDF5 has no bfloat16: Keras writes its bytes as an opaque type.
        name = "bfloat16" if dtype.name == "void16" else dtype.name
        return StoredArray(shape, name, partial(_read, found, shape, name))

    def strings(self, name: str) -> list[str] | None:
        """The list of strings in attribute ``name``, or in ``name0``, ``name1``... as Keras splits a long one.

        None where there is no such attribute.
        """
        whole = self.attribute(name)
        if whole is not None:
            return whole
        parts: list[str] = []
        for number in range(MAX_NAMES):
            part = self.attribute(f"{name}{number}")
            if part is None:
                break
            parts += part
        return parts or None

    def attribute(self, name: str) -> list[str] | None:
        """The string or strings in attribute ``name``, None where there is no such attribute."""
        import numpy as np
        from h5py import h5a

        try:
            if not h5a.exists(self._handle, name.encode()):
                return None
            attribute = h5a.open(self._handle, name.encode())
            shape, dtype = attribute.shape, attribute.dtype
            if len(shape) > 1 or sum(shape) > MAX_NAMES or dtype.itemsize > self.file_size // max(1, sum(shape)):
                raise CheckpointError(f"attribute {name} of {self._path or 'its root'} has no list of names")
            if shape == (0,):
                return []
            values = np.empty(shape, dtype)
            attribute.read(values)
            return [value.decode() if isinstance(value, bytes) else str(value) for value in values.ravel().tolist()]
        except FAILURES as error:
            raise _damaged(error) from error

    def _below(self, path: str) -> str:
        return f"{self._path}/{path}" if self._path else path

    def _find(self, path: str) -> Any:
        from h5py import h5l, h5o

        found = self._handle
        try:
            for name in path.encode().split(b"/"):
                if found.links.get_info(name).type != h5l.TYPE_HARD:
                    raise CheckpointError(f"{self._below(path)} is a link to elsewhere, and those are not followed")
                found = h5o.open(found, name)
        except (*FAILURES, AttributeError) as error:
            # A dataset has no links: AttributeError.
            raise CheckpointError(f"it has no {self._below(path)}") from error
        return found


def _read(dataset: Any, shape: tuple[int, ...], dtype: str) -> Array:
    import numpy as np
    from h5py import h5s

    values: Any = np.empty(shape, "V2" if dtype == "bfloat16" else dtype)
    try:
        dataset.read(h5s.ALL, h5s.ALL, values)
    except FAILURES as error:
        raise _damaged(error) from error
    if dtype == "bfloat16":
        # The upper half of a float32.
        values = (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    result: Array = values.astype(np.float32, copy=False)
    return result


def _damaged(error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return CheckpointError(f"it is damaged or cut short ({reason})")
