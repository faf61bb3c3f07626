"""The staging folder: output files on this machine until they are uploaded to object storage.

Each output file has a folder there. Its files are in ``files``, and what is uploaded is in ``state.json``.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from densenet_cli.output.atomic import locked, write_file
from densenet_cli.paths import staging_dir

STATE_FILE = "state.json"


class UploadState:
    """What this machine has uploaded of an output file and the files beside it.

    Args:
        path: The file that contains the state. It is read if it exists. Values that it lacks, as in a file of an older
            version, are empty.
        url: The URL of the output file, used if the file lacks it.

    Attributes:
        url: The URL of the output file.
        versions: Suffix of a file -> its version in storage.
        uploaded: Name of a file -> what was uploaded: inode, size, and time of modification.
    """

    def __init__(self, path: Path, url: str = "") -> None:
        self._path = path
        self.url = url
        self.versions: dict[str, str] = {}
        self.uploaded: dict[str, list[int]] = {}
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
            state = json.loads(path.read_bytes())
            self.url = str(state["url"])
            self.versions = {str(suffix): str(version) for suffix, version in state["files"].items()}
            self.uploaded = dict(state["uploaded"])

    def write(self) -> None:
        """Write the state. Raises OutputError."""
        content: dict[str, Any] = {"url": self.url, "files": self.versions, "uploaded": self.uploaded}
        write_file(self._path, json.dumps(content).encode())

    def clear(self) -> None:
        """Forget everything, and delete the file."""
        self.versions, self.uploaded = {}, {}
        self._path.unlink(missing_ok=True)

    def is_uploaded(self, path: Path) -> bool:
        """Return whether storage has everything that a staged file contains. Raises OSError."""
        return self.uploaded.get(path.name) == identify(path)


def identify(path: Path, size: int | None = None) -> list[int]:
    """Return the inode, size, and time of modification of a file: they change with its contents.

    Args:
        path: The file.
        size: The number of bytes that are uploaded, if not all.

    Raises:
        OSError: There is no such file.
    """
    status = path.stat()
    return [status.st_ino, status.st_size if size is None else size, status.st_mtime_ns]


class StagedRun(NamedTuple):
    """What the staging folder holds of one output file.

    Attributes:
        folder: Its folder.
        url: The URL of the output file, or "" if that is unknown.
        size: The number of bytes.
        is_uploaded: Whether storage has everything.
    """

    folder: Path
    url: str
    size: int
    is_uploaded: bool


def list_staged() -> list[StagedRun]:
    """Return what the staging folder holds."""
    runs = []
    folder = staging_dir()
    for path in sorted(folder.glob(f"*/{STATE_FILE}")) if folder.is_dir() else ():
        with contextlib.suppress(OSError):
            state = UploadState(path)
            files = list((path.parent / "files").glob("*"))
            size = sum(file.stat().st_size for file in files)
            runs.append(StagedRun(path.parent, state.url, size, all(map(state.is_uploaded, files))))
    return runs


def remove_staged(run: StagedRun) -> None:
    """Delete what is staged of a run.

    Raises:
        BlockingIOError: The run has not ended.
        OSError: It cannot be deleted.
    """
    with locked(run.folder / "lock"):
        shutil.rmtree(run.folder / "files")
        (run.folder / STATE_FILE).unlink()
    run.folder.rmdir()
