"""Cached checksums of files, and the identity of a file that serves as their key.

An identity describes a file without reading it. Writing to the file, moving it, or replacing it changes the identity.

The cache is the folder ``cache_dir()/verified``. It contains one small file per checksum, named after the key of the
identity and the algorithm, with the checksum in the first line and the path in the second. A record never becomes
wrong, only unused. If the cache cannot be written, each process computes the checksum again.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from densenet_cli.paths import cache_dir

try:
    # The same function as in hashlib, which would load OpenSSL and add 3 ms to a cold start.
    from _blake2 import blake2b
except ImportError:  # pragma: no cover - an interpreter built without it
    from hashlib import blake2b


CHECKSUM_LENGTHS = {"md5": 32, "sha256": 64, "git-sha1": 40}
"""Algorithm -> number of hexadecimal digits."""


def digest(data: bytes) -> str:
    """Return a hash of ``data`` for the name of a cache file: BLAKE2b, 128 bits, 32 hexadecimal digits."""
    return blake2b(data, digest_size=16).hexdigest()


class FileIdentity(NamedTuple):
    """The path, size, and times of a file.

    Attributes:
        path: The absolute path without symbolic links.
        size: The size in bytes.
        mtime_ns: When the contents changed. Any program can set it back.
        ctime_ns: When the contents or attributes changed. No program can set it back.
        inode: The number of the file on its file system.
    """

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> FileIdentity:
        """Return the current identity of the file ``path``. Raises ``OSError`` if it does not exist."""
        try:
            resolved = Path(path).resolve()
        except RuntimeError as error:  # how Python 3.12 and older report a loop of links
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from error
        stat = resolved.stat()
        return cls(str(resolved), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return self._asdict()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FileIdentity:
        """Restore the result of ``to_dict``. Raises ``KeyError``, ``TypeError``, or ``ValueError`` for other values."""
        numbers = (int(values[name]) for name in ("size", "mtime_ns", "ctime_ns", "inode"))
        return cls(str(values["path"]), *numbers)

    def key(self) -> str:
        """Return a hash of all fields, 32 hexadecimal digits."""
        return digest(os.fsencode("\0".join(map(str, self))))


class FileStatus(NamedTuple):
    """The state of a published file on this machine.

    Attributes:
        name: The variant, or the name of the repository.
        location: The file name or URL that it is published under.
        path: The path of the file, which may not exist.
        size: The size of the file in bytes, or None if it does not exist.
        expected: The published checksum, or None if it is unknown.
        checksum: The checksum of the file, or None if it was not computed.
        partial: The size of an unfinished download in bytes.
    """

    name: str
    location: str
    path: Path
    size: int | None
    expected: str | None
    checksum: str | None
    partial: int

    @property
    def state(self) -> Literal["ready", "unchecked", "wrong", "partial", "absent"]:
        """The state in one word."""
        if self.size is None:
            return "partial" if self.partial else "absent"
        if self.expected is None:
            return "ready"
        if self.checksum is None:
            return "unchecked"
        return "ready" if self.checksum == self.expected else "wrong"


def checksums_dir() -> Path:
    """Return the folder of the cached checksums. It may not exist."""
    return cache_dir() / "verified"


def cached_checksum(path: Path, algorithm: str = "md5") -> str | None:
    """Return the cached checksum of a file in hexadecimal digits, or None. Raises ``OSError`` if the file is missing.

    Args:
        path: The path of the file.
        algorithm: A key of ``CHECKSUM_LENGTHS``.
    """
    record = _record(FileIdentity.of(path), algorithm)
    try:
        checksum = record.read_bytes().partition(b"\n")[0]
    except OSError:
        return None
    is_valid = len(checksum) == CHECKSUM_LENGTHS[algorithm] and checksum.isalnum() and checksum.isascii()
    return checksum.decode() if is_valid else None


def cache_checksum(identity: FileIdentity, checksum: str, algorithm: str = "md5") -> None:
    """Add a checksum to the cache. Do nothing if the cache cannot be written."""
    record = _record(identity, algorithm)
    temporary = record.with_name(f"{record.name}.{os.getpid()}.tmp")
    with suppress(OSError):
        record.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(checksum.encode() + b"\n" + os.fsencode(identity.path) + b"\n")
            temporary.replace(record)
        except OSError:
            temporary.unlink(missing_ok=True)


def _record(identity: FileIdentity, algorithm: str) -> Path:
    return checksums_dir() / (identity.key() if algorithm == "md5" else f"{identity.key()}-{algorithm}")


def hash_file(path: Path, algorithm: str = "md5") -> str:
    """Read a file and return its checksum. Raises ``OSError``."""
    import hashlib

    def start() -> Any:
        if algorithm == "git-sha1":  # what Git names a file by: the SHA-1 of a header and the contents
            return hashlib.sha1(b"blob %d\0" % os.fstat(file.fileno()).st_size, usedforsecurity=False)
        return hashlib.new(algorithm, usedforsecurity=False)

    with path.open("rb") as file:
        return hashlib.file_digest(file, start).hexdigest()


def compute_checksum(path: Path, algorithm: str = "md5") -> str:
    """Read a file and compute and cache its checksum. 80 MB take 0.1 s. Raises ``OSError``."""
    before = FileIdentity.of(path)
    checksum = hash_file(path, algorithm)
    if FileIdentity.of(path) == before:
        cache_checksum(before, checksum, algorithm)
    return checksum


def file_checksum(path: Path, algorithm: str = "md5") -> str:
    """Return the checksum of a file, from the cache if possible. Raises ``OSError``."""
    return cached_checksum(path, algorithm) or compute_checksum(path, algorithm)


def file_md5(path: Path) -> str:
    """Return the MD5 of a file, from the cache if possible. Raises ``OSError``."""
    return file_checksum(path)


def list_checked_files() -> Iterator[str]:
    """Yield the paths of the files whose checksums are cached. They may not exist anymore."""
    with suppress(OSError):
        for record in sorted(checksums_dir().iterdir()):
            with suppress(OSError):
                yield _path(record)


def prune_checksums() -> None:
    """Delete the records of files that were deleted or changed, as far as possible."""
    with suppress(OSError):
        for record in sorted(checksums_dir().iterdir()):
            if not _is_current(record):
                with suppress(OSError):
                    record.unlink()


def _is_current(record: Path) -> bool:
    try:
        return FileIdentity.of(_path(record)).key() == record.name.partition("-")[0]
    except (OSError, ValueError):
        return False


def _path(record: Path) -> str:
    return os.fsdecode(record.read_bytes().partition(b"\n")[2].removesuffix(b"\n"))
