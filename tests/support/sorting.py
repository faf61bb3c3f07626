"""Files to sort, runs of a sort, and processes that are killed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

from densenet_cli.sorting import journal as journal_module
from densenet_cli.sorting import transfer
from densenet_cli.sorting.journal import JOURNAL_NAME, Journal
from densenet_cli.sorting.sorter import Placement, Sorter
from densenet_cli.sorting.undoing import undo

FILES = {
    "a/1.jpg": b"first",
    "a/1.xmp": b"about the first",
    "a/1.CR2": b"raw",
    "a/1.jpg.xmp": b"more about it",
    "b/1.jpg": b"second",
    "b/2.png": b"third",
    "b/2.cr2": b"not of a JPEG",
    "b/empty.jpg": b"",
    "c/1.jpg": b"first",
    "d/3.jpg": b"fourth",
    "d/3.png": b"fifth",
    "d/3.xmp": b"about the fourth and the fifth",
}
PLACEMENTS = {
    "a/1.jpg": "cat",
    "b/1.jpg": "cat",
    "b/2.png": "unsure",
    "b/empty.jpg": "failed",
    "c/1.jpg": "cat",
    "d/3.jpg": "dog",
    "d/3.png": "dog",
}
SORTED = {
    "cat/1.jpg": b"first",
    "cat/1.xmp": b"about the first",
    "cat/1.CR2": b"raw",
    "cat/1.jpg.xmp": b"more about it",
    f"cat/1-{hashlib.sha256(b'second').hexdigest()[:8]}.jpg": b"second",
    "unsure/2.png": b"third",
    "failed/empty.jpg": b"",
    "dog/3.jpg": b"fourth",
    "dog/3.png": b"fifth",
    "dog/3.xmp": b"about the fourth and the fifth",
}
"""What the folder contains afterwards."""


def write_files(folder: Path, files: Mapping[str, bytes] = FILES) -> Path:
    """Write files that were changed long ago."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (1_000_000_000, 1_000_000_000))
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != JOURNAL_NAME
    }


def run(
    source: Path,
    target: Path,
    action: str,
    placements: Mapping[str, str] = PLACEMENTS,
    listed_first: bool = False,
) -> Sorter:
    """Sort, as the command does.

    Args:
        source: The folder of the images.
        target: The folder to sort into.
        action: What to do.
        placements: Image -> folder. Those that do not exist are ignored.
        listed_first: Whether images are listed before what an interrupted run began is finished, as by a shell.
    """

    def list_images():
        return {str(source / name): folder for name, folder in placements.items() if (source / name).exists()}

    with Journal(target) as journal:
        sorter = Sorter(target, action, journal)
        paths = list_images() if listed_first else None
        sorter.finish_pending()
        paths = paths or list_images()
        remaining = sorter.remaining(list(paths))
        assert all(map(os.path.exists, remaining))
        list(sorter.place(Placement(path, folder) for path, folder in paths.items() if path in remaining))
        return sorter


def undo_all(target: Path) -> tuple[int, dict[str, str]]:
    """Undo. Return the number of restored files, and the path in ``target`` and the reason of the others."""
    with Journal(target, create=False) as journal:
        restored, left = undo(journal)
    return restored, {Path(path).relative_to(target).as_posix(): reason for path, reason in left}


CALLS = ("open", "replace", "unlink", "symlink", "rmdir", "mkdir", "fsync", "close")
"""Functions of ``os`` before which a process is killed."""


def killed(count: int, work) -> bool:
    """Run ``work`` in a child process that dies before its ``count``-th change. Return whether it did."""
    pid = os.fork()
    if pid == 0:
        left = [count]

        def wrap(function):
            def call(*arguments, **settings):
                left[0] -= 1
                if left[0] <= 0:
                    os._exit(9)
                return function(*arguments, **settings)

            return call

        write_all = wrap(transfer.write_all)
        try:
            with (
                mock.patch.multiple(os, **{name: wrap(getattr(os, name)) for name in CALLS}),
                mock.patch.object(transfer, "write_all", write_all),
                mock.patch.object(journal_module, "write_all", write_all),
            ):
                work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 9)
    return status == 9


def contents(*folders: Path) -> set[bytes]:
    return {content for folder in folders if folder.exists() for content in tree(folder).values()}
