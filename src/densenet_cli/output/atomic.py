"""Atomic writes, fsync, and locks: output is complete or absent, and has one writer at a time.

Most functions raise OSError. ``write_file``, ``replace_path``, and the context manager ``output_errors`` turn it into
OutputError, a message for the user.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from densenet_cli.errors import OutputError
from densenet_cli.text import to_unicode

Content = bytes | Iterable[bytes] | Callable[[BinaryIO], object]
"""What a file is to contain: data, chunks of data, or a function that writes to an unbuffered file."""

_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}
"""Errors of file systems without fsync or locks. They do not end a run."""
_POLL_INTERVAL = 0.1
"""Seconds between two attempts to get a lock."""

if sys.platform == "win32":
    import msvcrt

    _LOCKED_BYTE = 0x7FFF_FFFE
    """Locks are mandatory on Windows, so this byte lies beyond what anybody reads."""

    def _lock(descriptor: int) -> None:
        position = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(descriptor, position, os.SEEK_SET)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def output_errors(path: str | os.PathLike[str], hint: str = "") -> Iterator[None]:
    """Turn an OSError in the block into an OutputError.

    Args:
        path: The file or folder that the message names.
        hint: A sentence that tells the user what is kept or what to do.

    Raises:
        OutputError: The block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        message = f"Cannot write {to_unicode(os.fspath(path))}: {error.strerror or error}."
        raise OutputError(f"{message} {hint}".rstrip()) from error


def write_file(path: str | os.PathLike[str], content: Content) -> None:
    """Create or replace a file, completely or not at all. A symbolic link is followed.

    Raises:
        OutputError: The file cannot be written.
    """
    with output_errors(path):
        replace_file(Path(os.path.realpath(path)), content).close()


def replace_file(path: Path, content: Content, mode: int | None = None) -> BinaryIO:
    """Create or replace a file, completely or not at all, and keep it open.

    Args:
        path: The file. Until it is complete it is called ``path`` with the suffix ``.part``.
        content: What to write.
        mode: Permissions, None for the default.

    Returns:
        The new file, open and locked.

    Raises:
        OSError: The file cannot be written.
    """
    partial = path.with_name(f"{path.name}.part")
    file, _ = open_locked(partial)
    try:
        file.truncate()
        _write(file, content)
        if mode is not None:
            partial.chmod(mode)
        sync(file)
        partial.replace(path)
    except BaseException:
        file.close()
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    sync_path(path.parent)
    return file


def _write(file: BinaryIO, content: Content) -> None:
    if callable(content):
        content(file)
    else:
        for chunk in [content] if isinstance(content, bytes) else content:
            write_all(file, chunk)


@contextlib.contextmanager
def replace_path(path: Path, check: Callable[[], None]) -> Iterator[Path]:
    """Create or replace a file or folder when the block ends without an exception. A symbolic link is followed.

    A killed run leaves a hidden folder beside ``path``, which the next run removes.

    Args:
        path: The file or folder.
        check: Raises an error if ``path`` must not be written. Called before the block and again after it.

    Yields:
        A path of the same name in a temporary folder, for the block to write to.

    Raises:
        OutputError: The file or folder cannot be written.
    """
    import shutil

    check()
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.part")
    with output_errors(path):
        temporary.mkdir(exist_ok=True)
        with locked(temporary / "lock"):
            try:
                for leftover in temporary.iterdir():
                    if leftover.name != "lock":
                        _remove(leftover)
                yield temporary / target.name
                _sync_tree(temporary / target.name)
                check()
                _move(temporary / target.name, target, temporary / "replaced")
            finally:
                shutil.rmtree(temporary, ignore_errors=True)


def _move(new: Path, target: Path, replaced: Path) -> None:
    """Rename ``new`` to ``target``. A folder that is there is renamed first, since it cannot be replaced."""
    if new.is_dir() and target.exists():
        target.rename(replaced)
        try:
            new.rename(target)
        except OSError:
            replaced.rename(target)
            raise
    else:
        new.replace(target)
    sync_path(target.parent)


def _remove(path: Path) -> None:
    import shutil

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_all(file: BinaryIO, data: bytes) -> None:
    """Write all of ``data`` to an unbuffered file, whose ``write`` may accept only part of it."""
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[file.write(remaining) :]


def sync(file: BinaryIO | int) -> None:
    """Flush a file to disk, if the file system supports that."""
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def sync_path(path: Path) -> None:
    """Flush a closed file, or the names in a folder, to disk. Windows cannot flush folders."""
    if sys.platform == "win32" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(path: Path) -> None:
    if path.is_dir():
        for child in path.iterdir():
            _sync_tree(child)
    sync_path(path)


def lock(file: BinaryIO) -> None:
    """Lock a file until it is closed. File systems without locks are accepted.

    Raises:
        BlockingIOError: Another process, or another open file of this process, holds the lock.
        OSError: The file cannot be locked.
    """
    try:
        _lock(file.fileno())
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            raise BlockingIOError(error.errno, "another run is writing it") from None
        if error.errno not in _UNSUPPORTED:
            raise


def open_locked(path: Path) -> tuple[BinaryIO, bool]:
    """Open and lock a file, and create it if it does not exist.

    Between opening and locking, another run may replace or delete the file. Then it is opened again.

    Returns:
        The file, unbuffered, and whether it was created.

    Raises:
        BlockingIOError: Another run holds the lock.
        OSError: The file cannot be opened.
    """
    for _ in range(100):
        try:
            file, created = _open_or_create(path)
        except FileNotFoundError:
            if path.parent.is_dir():
                continue
            raise
        try:
            lock(file)
            status = os.fstat(file.fileno())
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(status, path.stat()):
                    return file, created and status.st_size == 0
        except BaseException:
            file.close()
            raise
        file.close()
    raise OSError(errno.EBUSY, "other runs keep replacing it")


def _open_or_create(path: Path) -> tuple[BinaryIO, bool]:
    try:
        return open(path, "x+b", buffering=0), True
    except FileExistsError:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(errno.EINVAL, "not a regular file") from None
        return open(path, "r+b", buffering=0), False


@contextlib.contextmanager
def locked(path: Path, on_wait: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold an exclusive lock during the block.

    Args:
        path: The lock file. It is created, and deleted afterwards.
        on_wait: Called repeatedly while another run holds the lock. None to raise an error instead of waiting.

    Raises:
        BlockingIOError: Another run holds the lock, and ``on_wait`` is None.
        OSError: The lock file cannot be opened.
    """
    while True:
        try:
            file, _ = open_locked(path)
            break
        except BlockingIOError:
            if on_wait is None:
                raise
            on_wait()
            time.sleep(_POLL_INTERVAL)
    with file:
        try:
            yield
        finally:
            # Deleting it before it is unlocked is safe: a process that waits for it opens it again.
            with contextlib.suppress(OSError):
                path.unlink()
