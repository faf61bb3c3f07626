"""Zip archives with limits: the container of ``.keras`` files and of PyTorch files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader, FileIO
from pathlib import Path
from zipfile import BadZipFile, ZipFile
from zlib import error as ZlibError

from densenet_cli.errors import CheckpointError
from densenet_cli.weights.contents import damaged_file_error

KERAS_WEIGHTS = "model.weights.h5"
"""The member of a ``.keras`` archive with the arrays."""
TORCH_PICKLE = "/data.pkl"
"""The end of the name of the member of a PyTorch archive that describes the arrays."""
EXPORT_MEMBERS = ("archive_format", "serialized_exported_program.json")
"""The file names of members that only archives of ``torch.export.save`` (.pt2) have, new and old."""
MAX_DIRECTORY_SIZE = 4 << 20
"""Bytes. That of a DenseNet-121 in PyTorch has 43 kB, with an optimizer three times as much."""
MAX_COMPRESSION_RATIO = 4
"""Weights compress by a tenth, so a higher ratio indicates a zip bomb."""
RATIO_TOLERANCE = 4 << 20
"""Bytes added to that limit, because most of a tiny network's file is HDF5 structure, which compresses well."""
MAX_TAIL_SIZE = (1 << 16) + 22
"""Bytes. The longest comment and the last record of an archive, which ``ZipFile`` reads first."""

ARCHIVE_ERRORS = (BadZipFile, ZlibError, EOFError, OSError, RuntimeError, ValueError, LookupError)
"""What ``ZipFile`` raises for a damaged archive. ``RuntimeError`` includes ``NotImplementedError``."""


class _LimitedReader(BufferedReader):
    """A file of which at most ``max_read`` bytes can be read at once, such as the directory of an archive."""

    max_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        rest = os.fstat(self.fileno()).st_size - self.tell()
        if max(0, min(rest, rest if size is None or size < 0 else size)) > self.max_read:
            raise CheckpointError(f"The directory of the zip archive has more than {self.max_read:,} bytes.")
        return super().read(size)


@contextmanager
def open_archive(path: Path, max_directory_size: int = MAX_DIRECTORY_SIZE) -> Iterator[ZipFile]:
    """Open an archive, whose directory ``ZipFile`` reads completely.

    Args:
        path: The file.
        max_directory_size: The maximum size of the directory in bytes. A member needs 46 bytes and its name.

    Raises:
        CheckpointError: The archive is damaged, or its directory is too large. Errors of ``ZipFile`` while the archive
            is open are converted, too.
    """
    try:
        with _LimitedReader(FileIO(path)) as file:
            file.max_read = max(max_directory_size, MAX_TAIL_SIZE)
            with ZipFile(file) as archive:
                if archive.start_dir > path.stat().st_size:
                    raise BadZipFile("the directory is outside the file")
                file.max_read = path.stat().st_size
                yield archive
    except ARCHIVE_ERRORS as error:
        raise damaged_file_error(error) from error


def read_member(archive: ZipFile, name: str, max_size: int | None = None) -> bytes:
    """Return the content of a member.

    Args:
        archive: The open archive.
        name: The name of the member, which exists.
        max_size: The maximum size in bytes. None for a few times the size of the archive.

    Raises:
        CheckpointError: The member is too large, or its size is not the declared one.
    """
    size = archive.getinfo(name).file_size
    if max_size is None:
        assert archive.fp is not None
        max_size = MAX_COMPRESSION_RATIO * os.fstat(archive.fp.fileno()).st_size + RATIO_TOLERANCE
    if size > max_size:
        raise CheckpointError(f"{name} declares {size:,} bytes, too many for an archive of this size.")
    with archive.open(name) as file:
        # One byte more than declared, so that ZipFile reaches the end and compares the checksum.
        data = file.read(size + 1)
    if len(data) != size:
        raise CheckpointError(f"{name} has {len(data):,} bytes, expected {size:,}.")
    return data


def is_torch_archive(path: Path) -> bool:
    """Return whether an archive was written by ``torch.save``, ``torch.jit.save``, or ``torch.export.save``."""
    with open_archive(path) as archive:
        names = archive.namelist()
    return KERAS_WEIGHTS not in names and (
        any(name.endswith(TORCH_PICKLE) for name in names) or is_exported_program(names)
    )


def is_exported_program(names: Iterable[str]) -> bool:
    """Return whether an archive with these members was written by ``torch.export.save``."""
    return any(name.rpartition("/")[2] in EXPORT_MEMBERS for name in names)
