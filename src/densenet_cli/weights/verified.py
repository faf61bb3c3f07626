"""The MD5s of files, measured once and remembered with the file's identity.

A record is a small file in ``cache_dir()/verified``: its name is the identity's key, its first line the MD5, its
second the path. A changed, moved or replaced file has another identity, so a record is never wrong, only unused.
Where the cache can't be written nothing is remembered, and the next start measures again.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from densenet_cli.paths import cache_dir
from densenet_cli.weights.file_identity import Identity


def folder() -> Path:
    """Where the records lie. May not exist."""
    return cache_dir() / "verified"


def recall(identity: Identity) -> str | None:
    """The MD5 that was measured for this very file (32 hexadecimal digits), None where none was."""
    try:
        measured = (folder() / identity.key()).read_bytes().partition(b"\n")[0]
    except OSError:
        return None
    return measured.decode() if len(measured) == 32 and measured.isalnum() and measured.isascii() else None


def remember(identity: Identity, md5: str) -> None:
    """Keep a measured MD5; silently nothing where the cache can't be written."""
    record = folder() / identity.key()
    aside = record.with_name(f"{record.name}.{os.getpid()}.tmp")
    with suppress(OSError):
        record.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.write_bytes(md5.encode() + b"\n" + os.fsencode(identity.path) + b"\n")
            aside.replace(record)
        except OSError:
            aside.unlink(missing_ok=True)


def measure(path: Path) -> str:
    """Hash a file, whatever is remembered of it, and remember the MD5. 80 MB take 0.1 s. Raises ``OSError``."""
    import hashlib

    before = Identity.of(path)
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if Identity.of(path) == before:
        remember(before, md5)
    return md5


def md5_of(path: Path) -> str:
    """The MD5 of a file, remembered or measured now. Raises ``OSError``."""
    return recall(Identity.of(path)) or measure(path)


def prune() -> list[Path]:
    """Delete the records of files that are gone or no longer what they were; returns those deleted."""
    gone = []
    with suppress(OSError):
        for record in sorted(folder().iterdir()):
            if not _still_true(record):
                with suppress(OSError):
                    record.unlink()
                    gone.append(record)
    return gone


def _still_true(record: Path) -> bool:
    try:
        path = os.fsdecode(record.read_bytes().partition(b"\n")[2].removesuffix(b"\n"))
        return Identity.of(path).key() == record.name
    except (OSError, ValueError):
        return False
