"""Cached checksums of files, and the identity of a file that serves as their key.

An identity describes a file without reading it. Writing to the file, moving it, or replacing it changes the identity.

The cache is the folder ``cache_dir()/verified``. It contains one small file per checksum, named after the key of the
identity, with the MD5 in the first line and the path in the second. A record never becomes wrong, only unused. If the
cache cannot be written, each process computes the checksum again.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from densenet_cli.paths import cache_dir

try:
    # The same function as in hashlib, which would load OpenSSL and add 3 ms to a cold start.
    from _blake2 import blake2b
except ImportError:  # pragma: no cover - an interpreter built without it
    from hashlib import blake2b


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
        resolved = Path(path).resolve()
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


def checksums_dir() -> Path:
    """Return the folder of the cached checksums. It may not exist."""
    return cache_dir() / "verified"


def cached_md5(path: Path) -> str | None:
    """Return the cached MD5 of a file, 32 hexadecimal digits, or None. Raises ``OSError`` if the file is missing."""
    record = checksums_dir() / FileIdentity.of(path).key()
    try:
        md5 = record.read_bytes().partition(b"\n")[0]
    except OSError:
        return None
    return md5.decode() if len(md5) == 32 and md5.isalnum() and md5.isascii() else None


def cache_md5(identity: FileIdentity, md5: str) -> None:
    """Add an MD5 to the cache. Do nothing if the cache cannot be written."""
    record = checksums_dir() / identity.key()
    temporary = record.with_name(f"{record.name}.{os.getpid()}.tmp")
    with suppress(OSError):
        record.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(md5.encode() + b"\n" + os.fsencode(identity.path) + b"\n")
            temporary.replace(record)
        except OSError:
            temporary.unlink(missing_ok=True)


def hash_md5(path: Path) -> str:
    """Read a file and return its MD5. Raises ``OSError``."""
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def compute_md5(path: Path) -> str:
    """Read a file and compute and cache its MD5. 80 MB take 0.1 s. Raises ``OSError``."""
    before = FileIdentity.of(path)
    md5 = hash_md5(path)
    if FileIdentity.of(path) == before:
        cache_md5(before, md5)
    return md5


def file_md5(path: Path) -> str:
    """Return the MD5 of a file, from the cache if possible. Raises ``OSError``."""
    return cached_md5(path) or compute_md5(path)


def prune_checksums() -> None:
    """Delete the records of files that were deleted or changed, as far as possible."""
    with suppress(OSError):
        for record in sorted(checksums_dir().iterdir()):
            if not _is_current(record):
                with suppress(OSError):
                    record.unlink()


def _is_current(record: Path) -> bool:
    try:
        path = os.fsdecode(record.read_bytes().partition(b"\n")[2].removesuffix(b"\n"))
        return FileIdentity.of(path).key() == record.name
    except (OSError, ValueError):
        return False
