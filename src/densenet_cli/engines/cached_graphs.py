"""Listing and removing cached graphs, for ``densenet cache``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from densenet_cli.engines.graph_cache import (
    ENTRY_FILE,
    LAYOUT_VERSION,
    TEMP_PREFIX,
    Request,
    graphs_dir,
    load,
    sha256,
)
from densenet_cli.weights.file_identity import FileIdentity

TEMP_LIFETIME = 3600.0
"""Seconds without a change after which a folder that is being written is considered abandoned."""


class CacheEntry(NamedTuple):
    """A cached graph, as ``densenet cache`` shows it.

    Attributes:
        folder: The folder of the graph.
        weights: The path of the checkpoint, or None if the entry does not state it.
        size: The size on disk in bytes.
        state: ``current``, ``stale`` (the checkpoint or a version changed), or ``damaged``.
    """

    folder: Path
    weights: str | None
    size: int
    state: str


def list_entries(verify: bool = False) -> Iterator[CacheEntry]:
    """Yield every cached graph.

    Args:
        verify: Compare the SHA-256 of the files instead of their size and times.
    """
    try:
        folders = sorted(graphs_dir().iterdir())
    except OSError:
        return
    for folder in folders:
        if folder.name.startswith(TEMP_PREFIX) and _age(folder) < TEMP_LIFETIME:
            continue  # another process is writing it
        yield _cache_entry(folder, verify)


def _cache_entry(folder: Path, verify: bool) -> CacheEntry:
    size = _size(folder)
    try:
        entry = json.loads((folder / ENTRY_FILE).read_bytes())
        if entry.get("layout") != LAYOUT_VERSION:
            return CacheEntry(folder, _weights_path(entry), size, "stale")
        request = Request.from_dict(entry["request"])
        checksums = {name: entry["sha256"][name] for name in entry["stamps"]}
        intact = load(folder) and not (verify and any(sha256(folder / name) != checksums[name] for name in checksums))
        state = "damaged" if not intact else "current" if _is_current(folder, request) else "stale"
        return CacheEntry(folder, request.files[0].path, size, state)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return CacheEntry(folder, None, size, "damaged")


def _weights_path(entry: dict[str, Any]) -> str | None:
    """Return the path of the checkpoint in an entry of any layout, or None."""
    with suppress(LookupError, TypeError):
        return str(entry["request"]["files"][0]["path"])
    return None


def _size(folder: Path) -> int:
    total = 0
    for file in (folder, *folder.rglob("*")):
        with suppress(OSError):  # deleted in the meantime
            total += file.stat().st_size if file.is_file() else 0
    return total


def _age(folder: Path) -> float:
    """Return the seconds since the last change."""
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:
        return 0.0


def _is_current(folder: Path, request: Request) -> bool:
    try:
        unchanged = all(FileIdentity.of(file.path) == file for file in request.files)
    except OSError:
        return False
    return unchanged and folder.name == request.key() and _is_installed(request.maker)


def _is_installed(maker: str) -> bool:
    """Return whether the engine of a maker is installed in the version that the maker names."""
    from importlib.metadata import PackageNotFoundError, version

    package, made_with, *_ = maker.split()
    try:
        return version(package) == made_with
    except PackageNotFoundError:
        return False


def remove(entry: CacheEntry) -> None:
    """Delete a cached graph. Raises ``OSError``."""
    import shutil

    if entry.folder.is_dir():
        shutil.rmtree(entry.folder)
    else:
        entry.folder.unlink(missing_ok=True)
