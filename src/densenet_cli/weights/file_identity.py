"""What a file on disk is, told without reading it: the key of everything remembered about its contents."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

try:
    # hashlib would load OpenSSL: 3 ms of a cold start, for the same function.
    from _blake2 import blake2b
except ImportError:  # pragma: no cover - an interpreter built without it
    from hashlib import blake2b


def digest(data: bytes) -> str:
    """32 hexadecimal digits that stand for ``data`` in the name of a cache file (BLAKE2b, 128 bits)."""
    return blake2b(data, digest_size=16).hexdigest()


@dataclass(frozen=True)
class Identity:
    """A file's place, size and times. Writing to it, replacing it or moving it gives it another identity.

    Attributes:
        path: absolute, every symbolic link resolved.
        size: bytes.
        mtime_ns: when its contents were last changed (anybody can set this back).
        ctime_ns: when its contents or attributes were last changed (nobody can).
        inode: its number on its file system.
    """

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Identity:
        """The identity of the file at ``path`` now. Raises ``OSError`` where there is none."""
        resolved = Path(path).resolve()
        found = resolved.stat()
        return cls(str(resolved), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Identity:
        """What ``to_dict`` gave. Raises ``KeyError``, ``TypeError`` or ``ValueError`` on anything else."""
        numbers = (int(values[name]) for name in ("size", "mtime_ns", "ctime_ns", "inode"))
        return cls(str(values["path"]), *numbers)

    def key(self) -> str:
        """32 hexadecimal digits, a hash of all the fields."""
        fields = (self.path, self.size, self.mtime_ns, self.ctime_ns, self.inode)
        return digest(os.fsencode("\0".join(map(str, fields))))
