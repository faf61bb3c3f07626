"""Whether a file can be written where somebody wants it: found before the work, not after it."""

from __future__ import annotations

import os
from pathlib import Path

from densenet_cli.errors import OutputError, UsageError
from densenet_cli.results import unicode


def check_target(path: Path, overwrite: bool, makes_folder: bool = False) -> None:
    """Raise what writing a file as a whole would raise, as far as that can be known before.

    Args:
        path: the file.
        overwrite: whether an existing one is replaced. An empty one counts as none.
        makes_folder: whether its folder will be made, with those above it, if it is missing.

    Raises:
        UsageError: it exists.
        OutputError: a folder that is missing or can't be written; a device, a FIFO, a folder of that name.
    """
    name = unicode(str(path))
    if path.is_file():
        if not overwrite and path.stat().st_size:
            raise UsageError(f"{name} exists; replace it by --overwrite, or name another.")
    elif path.exists():
        raise OutputError(f"{name} can't be written: it is no regular file.")
    folder = Path(os.path.realpath(path)).parent
    while makes_folder and not folder.exists():
        folder = folder.parent
    check_folder(name, folder, path.parent)


def check_folder(name: str, folder: Path, called: Path) -> None:
    """Raise ``OutputError`` where ``name`` can't be put into ``folder``: one that is missing is named as ``called``."""
    if not folder.is_dir():
        raise OutputError(f"{name} can't be written: there is no folder {unicode(str(called))}.")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{name} can't be written: the folder {unicode(str(folder))} is read-only.")
