"""Globs, sorted and without end or loop: ``photos/*.jpg``, ``photos/**/cat?.png``.

The standard library's ``glob`` gives each folder in the order of the disk, hides folders it may not list, and
follows a loop of links forty levels deep.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator

from densenet_cli.errors import SourceNotFoundError, SourceUnreadableError
from densenet_cli.images.walking import Found, explain

ANY_FOLDERS = "**"


def is_pattern(argument: str) -> bool:
    """Whether it has a character that is special in a glob: ``*``, ``?`` or ``[``."""
    return any(character in argument for character in "*?[")


def matches(pattern: str) -> Iterator[Found]:
    """The files and folders that a glob matches, folder by folder, each folder's names sorted.

    ``**`` is any number of folders, none included; at the end of a pattern it is a folder with all that is below, and
    with a part after it only files match (a folder would give its images a second time). A pattern that ends in ``/``
    matches folders only, and of those that ``**`` leads to none that lies in another. Hidden names match only
    a part that begins with a dot. A folder that can't be listed on the way is an error, and so is a glob that
    matches nothing.
    """
    root = pattern[: len(pattern) - len(pattern.lstrip("/"))]
    parts = tuple(part for part in pattern.split("/") if part)
    found_any = False
    any_depth = ANY_FOLDERS in parts[:-1]
    folders_only = pattern.endswith("/")
    files_only = any_depth and parts[-1] != ANY_FOLDERS and not folders_only
    given: set[str] = set()
    for found in _Search(files_only, folders_only).below(root, parts):
        found_any = True
        if any_depth and found.is_folder and not _add(found.path, given):
            continue
        yield found
    if not found_any:
        yield Found(pattern, SourceNotFoundError("Nothing matches this glob."))


class _Search:
    def __init__(self, files_only: bool, folders_only: bool) -> None:
        self._files_only = files_only
        self._folders_only = folders_only
        self._seen: set[tuple[int, int, int]] = set()

    def below(self, folder: str, parts: tuple[str, ...]) -> Iterator[Found]:
        """What ``parts`` match from ``folder`` ("" is the current one) on."""
        part, rest = parts[0], parts[1:]
        if part == ANY_FOLDERS:
            yield from self._any_depth(folder, parts)
        elif is_pattern(part):
            yield from self._listed(folder, part, rest)
        elif rest:
            yield from self.below(os.path.join(folder, part), rest)
        else:
            yield from self._named(os.path.join(folder, part))

    def _named(self, path: str) -> Iterator[Found]:
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, ValueError) as error:
            yield Found(path, SourceUnreadableError(explain(error)))
        else:
            yield from self._found(path)

    def _any_depth(self, folder: str, parts: tuple[str, ...]) -> Iterator[Found]:
        """``parts`` begins with ``**``: what comes after it, from this folder and every one below it."""
        rest = parts[1:]
        if not rest:
            yield Found(folder or ".", is_folder=True)
            return
        # A stack, because a tree may be deeper than Python's recursion.
        open_folders = [iter((folder,))]
        while open_folders:
            here = next(open_folders[-1], None)
            if here is None:
                open_folders.pop()
            elif self._is_new(here, len(rest)):
                names = self._names(here)
                if isinstance(names, Found):
                    yield names
                else:
                    yield from self.below(here, rest)
                    open_folders.append(_folders(here, names))

    def _is_new(self, folder: str, remaining: int) -> bool:
        """Whether this folder comes to this part of the pattern for the first time: links can lead in circles."""
        try:
            status = os.stat(folder or ".")
        except OSError:
            return False
        state = (status.st_dev, status.st_ino, remaining)
        if state in self._seen:
            return False
        self._seen.add(state)
        return True

    def _listed(self, folder: str, part: str, rest: tuple[str, ...]) -> Iterator[Found]:
        names = self._names(folder)
        if isinstance(names, Found):
            yield names
            return
        fits = re.compile(fnmatch.translate(part)).match
        for name in names:
            if fits(name) and part.startswith(".") >= name.startswith("."):
                path = os.path.join(folder, name)
                if not rest:
                    yield from self._found(path)
                elif os.path.isdir(path):
                    yield from self.below(path, rest)

    def _found(self, path: str) -> Iterator[Found]:
        is_folder = os.path.isdir(path)
        if not (self._files_only if is_folder else self._folders_only):
            yield Found(path, is_folder=is_folder)

    def _names(self, folder: str) -> list[str] | Found:
        try:
            return sorted(os.listdir(folder or "."))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            return Found(folder, SourceUnreadableError(f"This folder can't be listed: {explain(error)}"))


def _folders(parent: str, names: list[str]) -> Iterator[str]:
    """Those of the names in a folder that are folders, and not hidden."""
    for name in names:
        if not name.startswith(".") and os.path.isdir(path := os.path.join(parent, name)):
            yield path


def _add(folder: str, given: set[str]) -> bool:
    """Put a folder among those given; False where it, or one that it lies in, is there already."""
    path = os.path.realpath(folder)
    parts = path.split(os.sep)
    if not given.isdisjoint(os.sep.join(parts[:count]) or os.sep for count in range(1, len(parts) + 1)):
        return False
    given.add(path)
    return True
