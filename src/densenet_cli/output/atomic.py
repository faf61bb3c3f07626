"""Files that are whole or not there: written aside, stored, then renamed; and one writer at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}
"""What a file system answers that has no fsync or no locks: no reason to lose a run."""


def write_all(file: BinaryIO, data: bytes) -> None:
    """Write to an unbuffered file, which may take less than all at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def write_aside(path: Path, chunks: Iterable[bytes], mode: int | None = None) -> BinaryIO:
    """Put a new file in the place of ``path`` when it is whole and stored; nothing changes if that fails.

    Args:
        path: the file's final name; meanwhile it is ``path`` with ``.part`` behind it.
        chunks: its contents.
        mode: its permissions, None for the usual ones.

    Returns the file, open and locked, at its end. Raises OSError.
    """

    def fill(file: BinaryIO) -> None:
        for chunk in chunks:
            write_all(file, chunk)

    return fill_aside(path, fill, mode)


def fill_aside(path: Path, fill: Callable[[BinaryIO], None], mode: int | None = None) -> BinaryIO:
    """``write_aside`` for what is not written from its beginning to its end: ``fill`` gets the unbuffered file."""
    aside = path.with_name(f"{path.name}.part")
    file: BinaryIO = open(aside, "w+b", buffering=0)  # noqa: SIM115 (it goes to the caller)
    try:
        lock(file)
        fill(file)
        if mode is not None:
            aside.chmod(mode)
        sync(file)
        aside.replace(path)
    except BaseException:
        file.close()
        with contextlib.suppress(OSError):
            aside.unlink()
        raise
    sync_folder(path.parent)
    return file


def lock(file: BinaryIO) -> None:
    """Keep other processes from locking the file while this one has it open; a forked worker doesn't inherit that.

    Raises OSError if one holds it. A file system without locks, and Windows, do without.
    """
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise OSError(error.errno, "another run is writing it") from None
        if error.errno not in _UNSUPPORTED:
            raise


def sync(file: BinaryIO | int) -> None:
    """Wait until the file is on the disk, where the file system can say so."""
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def sync_path(path: Path) -> None:
    """Wait until a file that somebody else wrote and closed is on the disk, or a folder's names are."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until the folder's names are on the disk."""
    if sys.platform != "win32":
        sync_path(folder)
