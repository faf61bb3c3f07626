"""Moves, copies, and links of single files that can be interrupted at any moment, finished later, and undone.

A target is created only where nothing exists. It is first an empty placeholder, which an operation replaces in one
step. Copies are written to a temporary file, synced, and compared with the source before that.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from densenet_cli.output.atomic import sync, write_all

ACTIONS = ("copy", "move", "link")
TEMP_PREFIX = ".densenet-part-"
CHUNK_SIZE = 1 << 20
MTIME_TOLERANCE = 2_000_000_000
"""Nanoseconds. Some file systems store modification times in units of two seconds."""


class ChangedFileError(OSError):
    """A file is not what the journal says, and is left as it is."""


class UnreadableFileError(OSError):
    """A file to place cannot be read. Nothing was changed."""


class Operation(NamedTuple):
    """A file to place.

    Attributes:
        action: One of ``ACTIONS``.
        source: Absolute path of the file.
        target: Absolute path of the new file.
        size: Size of the source in bytes.
        mtime: Modification time of the source in nanoseconds before it was placed, None if unknown.
        image: For a sidecar file, the source of its image. Empty for an image.
    """

    action: str
    source: str
    target: str
    size: int
    mtime: int | None = None
    image: str = ""

    def is_source_unchanged(self) -> bool:
        """Return whether the source still is the file that was copied or linked, by size and modification time."""
        with suppress(OSError):
            return self._matches(os.stat(self.source), self.mtime)
        return False

    def perform(self) -> None:
        """Place the file. If an earlier call was interrupted, finish it.

        Raises:
            FileExistsError: Another file has the target's name.
            UnreadableFileError: The source cannot be read.
            OSError: The file cannot be placed. The source is then unchanged.
        """
        if self.action == "link":
            if not self._is_linked():
                os.symlink(self.source, self.target)
            return
        _remove_leftovers(self.target, self.size)
        if self.action == "copy":
            if not (os.path.lexists(self.target) and same_content(self.source, self.target)):
                _copy(self.source, self.target)
        else:
            move(self.source, self.target)

    def check_placed(self, mtime: int | None) -> None:
        """Check that the target is the file that a finished ``perform`` left, without reading it.

        Args:
            mtime: Modification time of the target in nanoseconds when it was placed, None if unknown.

        Raises:
            ChangedFileError: The target is missing or another file. For a copy, only the size is compared.
        """
        if not os.path.lexists(self.target):
            if self.action == "move" and os.path.lexists(self.source):
                return  # it was moved back
            raise ChangedFileError(errno.ENOENT, "It is missing")
        if self.action == "link":
            is_same = self._is_linked()
        else:
            is_same = self._matches(os.lstat(self.target), mtime if self.action == "move" else None)
        if not is_same:
            raise ChangedFileError(errno.EEXIST, "It was changed or replaced")

    def undo(self) -> None:
        """Restore the state before ``perform``, whether or not it was finished, or partly undone already.

        Raises:
            ChangedFileError: The file was changed, moved, or replaced since then.
            OSError: The file cannot be restored.
        """
        if self.action == "link":
            if self._is_linked():
                os.unlink(self.target)
            elif os.path.lexists(self.target):
                raise ChangedFileError(errno.EEXIST, "It was replaced")
            return
        _remove_leftovers(self.target, self.size)
        if self.action == "copy":
            if os.path.lexists(self.target):
                if not os.path.isfile(self.source):
                    raise ChangedFileError(errno.ENOENT, "Its original is missing")
                if not same_content(self.source, self.target):
                    raise ChangedFileError(errno.EEXIST, "It differs from its original")
                os.unlink(self.target)
                _sync_folder(self.target)
            return
        if os.path.lexists(self.target):
            _remove_leftovers(self.source, self.size)
            if os.path.lexists(self.source) and not same_content(self.source, self.target):
                raise ChangedFileError(errno.EEXIST, "Another file has its original name")
            os.makedirs(os.path.dirname(self.source), exist_ok=True)
            move(self.target, self.source)
        elif not os.path.lexists(self.source):
            raise ChangedFileError(errno.ENOENT, "It is missing")

    def _is_linked(self) -> bool:
        return os.path.islink(self.target) and os.readlink(self.target) == self.source

    def _matches(self, status: os.stat_result, mtime: int | None) -> bool:
        is_same_time = mtime is None or abs(status.st_mtime_ns - mtime) <= MTIME_TOLERANCE
        return stat.S_ISREG(status.st_mode) and status.st_size == self.size and is_same_time


def move(source: str, target: str) -> None:
    """Move a file to a name that no other file has. A finished or interrupted move is completed.

    Across file systems, the file is copied, synced, and compared before the source is deleted.

    Raises:
        FileExistsError: Another file has the name.
    """
    if not os.path.lexists(source):
        if os.path.lexists(target):
            return
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), source)
    if os.path.lexists(target):
        if os.path.samefile(source, target) or not same_content(source, target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
    else:
        try:
            _create_placeholder(target)
            try:
                os.replace(source, target)
            except OSError:
                os.unlink(target)
                raise
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy(source, target)
        else:
            _sync_folder(target)
            _sync_folder(source)
            return
    os.unlink(source)
    _sync_folder(source)


def same_content(first: str, second: str) -> bool:
    """Return whether two regular files have the same bytes."""
    sizes = [os.stat(path) for path in (first, second)]
    if not all(stat.S_ISREG(status.st_mode) for status in sizes) or sizes[0].st_size != sizes[1].st_size:
        return False
    with open(first, "rb") as one, open(second, "rb") as other:
        while True:
            chunk = one.read(CHUNK_SIZE)
            if chunk != other.read(CHUNK_SIZE):
                return False
            if not chunk:
                return True


def check_readable(path: str) -> None:
    """Raise an ``OSError`` if a file cannot be opened for reading."""
    with open(path, "rb"):
        pass


def content_hash(path: str) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy(source: str, target: str) -> None:
    temporary = _temporary_path(target)
    try:
        with open(temporary, "xb", buffering=0) as copy:
            for chunk in _read_chunks(source):
                write_all(copy, chunk)
            with suppress(OSError):  # some file systems have neither times nor permissions
                shutil.copystat(source, temporary)
            sync(copy)
        if not same_content(source, temporary):
            raise OSError(errno.EIO, "The copy differs from its source")
        _create_placeholder(target)
        os.replace(temporary, target)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(target)


def _read_chunks(path: str) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK_SIZE):
                yield chunk
    except OSError as error:
        raise UnreadableFileError(error.errno, error.strerror, path) from error


def _temporary_path(target: str) -> str:
    """Return the path of the unfinished copy. Its name is short, because that of the target can have any length."""
    folder, name = os.path.split(target)
    return os.path.join(folder, TEMP_PREFIX + hashlib.sha256(os.fsencode(name)).hexdigest()[:16])


def _create_placeholder(path: str) -> None:
    """Create an empty file. Raises ``FileExistsError`` if anything has its name."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))


def _remove_leftovers(path: str, size: int) -> None:
    """Remove what an interrupted operation left: a temporary file, and a placeholder for a file of ``size`` bytes."""
    with suppress(FileNotFoundError):
        os.unlink(_temporary_path(path))
    with suppress(FileNotFoundError):
        status = os.lstat(path)
        if size and stat.S_ISREG(status.st_mode) and status.st_size == 0:
            os.unlink(path)


def _sync_folder(path: str) -> None:
    """Flush the names in the folder of a file to disk. Windows cannot."""
    if os.name == "nt":
        return
    with suppress(FileNotFoundError):
        descriptor = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)
