"""Folders and globs: which files they hold, sorted, without end or loop, whatever the tree looks like."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from densenet_cli.errors import EmptySourceError, ImageError, SourceUnreadableError

SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "gif", "webp", "bmp", "tif", "tiff", "avif", "heic", "heif"),
        *("jp2", "j2k", "ppm", "pgm", "pbm", "pnm", "tga", "ico"),
    )
)
"""What an image in a folder is called, whatever its case. Pillow's own list has .h5, .mpg and .eps in it."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file or folder, or the reason why there is none to be had at ``path``."""

    path: str
    error: ImageError | None = None
    is_folder: bool = False


@dataclass(frozen=True, slots=True)
class Skipped:
    """How many files of a folder are no images by their suffix. Hidden ones are not counted."""

    files: int


def explain(error: OSError | ValueError) -> str:
    """An operating system's error in its own words, without the path: the row that carries it has it already."""
    words = getattr(error, "strerror", None) or str(error)
    return f"{words[:1].upper()}{words[1:]}."


def walk(top: str) -> Iterator[Found | Skipped]:
    """The images below a folder, depth first, each folder's names sorted; what can't be listed is one error.

    Symbolic links to folders are followed, but no folder is searched twice, so that a loop of links ends.
    """
    seen: set[tuple[int, int]] = set()
    found_any = False
    skipped_all = 0
    # Folders being searched, from the top down: a stack, because a tree may be deeper than Python's recursion.
    open_folders: list[Iterator[Found]] = [iter((Found(top, is_folder=True),))]
    while open_folders:
        found = next(open_folders[-1], None)
        if found is None:
            open_folders.pop()
        elif not found.is_folder:
            found_any = True
            yield found
        else:
            try:
                status = os.stat(found.path)
                if (identity := (status.st_dev, status.st_ino)) in seen:
                    continue
                seen.add(identity)
                entries, skipped = _list(found.path)
            except OSError as error:
                found_any = True
                yield Found(found.path, SourceUnreadableError(f"This folder can't be listed: {explain(error)}"))
                continue
            skipped_all += skipped
            open_folders.append(entries)
    if not found_any:
        others = f", only {skipped_all} other file{'s' * (skipped_all != 1)}" if skipped_all else ""
        yield Found(top, EmptySourceError(f"No image in this folder{others}."))
    if skipped_all:
        yield Skipped(skipped_all)


def _list(folder: str) -> tuple[Iterator[Found], int]:
    """A folder's subfolders and images, sorted by name, and how many other files there are.

    Of a hundred thousand names only the names are kept until their turn.
    """
    names: list[str] = []
    folders: set[str] = set()
    skipped = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                folders.add(entry.name)
            elif os.path.splitext(entry.name)[1].lower() not in SUFFIXES:
                skipped += 1
                continue
            names.append(entry.name)
    names.sort()
    return (Found(os.path.join(folder, name), is_folder=name in folders) for name in names), skipped


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a loop of links, or one into a folder that may not be entered: decoding it says which
