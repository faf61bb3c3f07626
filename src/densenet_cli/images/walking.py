"""Search of folders and globs: depth first, names sorted, in bounded memory, and finite even with loops of links.

The standard library's ``glob`` returns entries in the order of the disk, hides folders that it cannot list, and
follows a loop of links forty levels deep.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Collection, Hashable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from densenet_cli.errors import EmptySourceError, ImageError, SourceNotFoundError, SourceUnreadableError, UsageError
from densenet_cli.paths import ARCHIVE_SUFFIXES, DOUBLE_SUFFIXES, is_remote, split_page
from densenet_cli.text import plural, to_unicode

SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("jpg", "jpeg", "jpe", "jfif", "mpo", "jps", "png", "apng", "gif", "webp", "bmp", "tif", "tiff"),
        *("avif", "heic", "heif", "hif", "jp2", "j2k", "jpx", "ppm", "pgm", "pbm", "pnm", "tga", "ico"),
    )
)
"""File name extensions of images in a folder, in lower case. Pillow's own list includes .h5, .mpg, and .eps."""

SYSTEM_FOLDERS = frozenset(
    (
        *("__macosx", "__pycache__", "$recycle.bin", "system volume information", "lost+found"),
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),
    )
)
"""Folders that archive tools, operating systems, and file servers create, in lower case. Their images are copies."""

RECURSIVE = "**"


class Entry(NamedTuple):
    """What was found, or the reason why the search could not continue at ``path``.

    Attributes:
        path: A file or folder, or the member of an archive, named after the archive.
        error: Why it cannot be used, or None.
        is_folder: Whether it is a folder.
        contents: The contents of a member (``archives.contents.Contents``); None for others, and with an error.
        is_archive: Whether it is an archive, or a folder in one, that was not opened.
    """

    path: str
    error: ImageError | None = None
    is_folder: bool = False
    contents: Any = None
    is_archive: bool = False


class SkippedFiles(NamedTuple):
    """What was skipped in a folder. Hidden files and folders do not count.

    Attributes:
        files: Number of files without an image extension.
        folders: Number of ``SYSTEM_FOLDERS``.
    """

    files: int
    folders: int = 0

    def __str__(self) -> str:
        counts = [f"{plural(self.files, 'file')} without an image extension"] if self.files else []
        counts += [plural(self.folders, "system folder")] if self.folders else []
        return f"Skipped {' and '.join(counts)}." if counts else ""

    def plus(self, other: SkippedFiles) -> SkippedFiles:
        """Return the sums."""
        return SkippedFiles(self.files + other.files, self.folders + other.folders)


class Folders(Protocol):
    """What a search needs to know about folders: those of this machine, or remote ones."""

    def list(self, folder: str, prefix: str) -> Iterable[tuple[str, bool]]:
        """Return the sorted names in a folder that begin with ``prefix``, and whether each is a folder.

        Names with another beginning can be among them.

        Raises:
            OSError: The folder cannot be listed.
            ImageError: The same, also while the names are iterated.
        """

    def match(self, path: str) -> Iterator[Entry]:
        """Yield the file or folder of this name, if there is one."""

    def search(self, folder: str) -> Iterator[Entry]:
        """Yield the files below a folder, depth first, and the ``SYSTEM_FOLDERS``, which are not searched."""

    def identity(self, folder: str) -> Hashable:
        """Return what is the same for all paths of a folder. Raises OSError."""

    def split_pattern(self, pattern: str) -> tuple[str, str]:
        """Return the folder where a glob starts, and the rest of the glob."""


Pending = tuple[str, tuple[str, ...]]
"""A folder ("" for the current one) to search, and the parts of the glob that are left for it."""


def describe_os_error(error: OSError | ValueError) -> str:
    """Return the operating system's error message as a sentence, without the path."""
    message = getattr(error, "strerror", None) or str(error)
    return f"{message[:1].upper()}{message[1:]}."


def image_suffixes(extra: Collection[str] = ()) -> frozenset[str]:
    """Return ``SUFFIXES`` and those in ``extra``, in lower case and with a dot. An empty one means no extension.

    Raises:
        UsageError: A suffix in ``extra`` cannot be the extension of a file name.
    """
    names = {suffix.lower().removeprefix(".") for suffix in extra}
    suffixes = {f".{name}" if name else "" for name in names}
    for suffix in suffixes:
        if os.path.splitext(f"x{suffix}") != ("x", suffix) and suffix not in ARCHIVE_SUFFIXES:
            raise UsageError(f"`suffix` must be a file name extension such as .img, not {suffix!r}.")
    return SUFFIXES.union(suffixes)


def has_image_suffix(path: str, suffixes: Collection[str] = SUFFIXES) -> bool:
    """Return whether a file name has an image extension, in upper or lower case."""
    path = path.lower()
    return os.path.splitext(path)[1] in suffixes or any(
        suffix in suffixes and path.endswith(suffix) for suffix in DOUBLE_SUFFIXES
    )


def is_ignored(name: str) -> bool:
    """Return whether a file or folder in a folder is neither a class nor an image: it is hidden or a system folder."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def is_glob(argument: str) -> bool:
    """Return whether an argument contains ``*``, ``?``, or ``[``."""
    return any(character in argument for character in "*?[")


def walk(
    folder: str, suffixes: Collection[str] = SUFFIXES, folders: Folders | None = None
) -> Iterator[Entry | SkippedFiles]:
    """Yield the images below a folder, depth first, each folder's names sorted.

    Symbolic links to folders are followed, but no folder is searched twice. Hidden files, hidden
    folders, and ``SYSTEM_FOLDERS`` are ignored. A folder that cannot be listed yields an entry with an error, and so
    does a search that finds nothing. What was skipped comes last.
    """
    is_empty = True
    files = system_folders = 0
    for entry in (folders or LOCAL).search(folder):
        if entry.is_folder:
            system_folders += 1
            continue
        if entry.error is None and not has_image_suffix(entry.path, suffixes):
            files += 1
            continue
        is_empty = False
        yield entry
    if is_empty:
        others = f", only {plural(files, 'other file')}" if files else ""
        yield Entry(folder, EmptySourceError(f"The folder contains no images{others}."))
    if files or system_folders:
        yield SkippedFiles(files, system_folders)


def walk_glob(
    pattern: str, suffixes: Collection[str] = SUFFIXES, folders: Folders | None = None
) -> Iterator[Entry | SkippedFiles]:
    """Yield the files that a glob matches, and the images below the folders that it matches.

    ``**`` matches any number of folders, including none. A final ``**`` or ``/`` restricts the glob to folders. If
    ``**`` is followed by another part, that part matches only files, because a folder would yield its images twice.
    Hidden names match only a part that begins with a dot, and system folders only their own name. A glob that matches
    nothing yields an entry with an error.
    """
    folders = folders or LOCAL
    root, rest = folders.split_pattern(pattern)
    parts = tuple(part for part in rest.split("/") if part)
    folders_only = pattern.endswith("/") or parts[-1:] == (RECURSIVE,)
    while parts and parts[-1] == RECURSIVE:  # a folder is searched recursively in any case
        parts = parts[:-1]
    is_recursive = RECURSIVE in parts
    files_only = is_recursive and not folders_only
    is_empty = True
    searched: set[str] = set()
    for entry in search(root, parts, folders) if parts else iter([Entry(root or ".", is_folder=True)]):
        if entry.error is None and (files_only if entry.is_folder else folders_only):
            continue
        is_empty = False
        if not entry.is_folder:
            yield entry
        elif not is_recursive or _add_folder(entry.path, searched):
            yield from walk(entry.path, suffixes, folders)
    if is_empty:
        yield Entry(pattern, SourceNotFoundError(f"No file or folder matches the pattern.{_escape_hint(pattern)}"))


def _escape_hint(pattern: str) -> str:
    """Return how to write a pattern whose brackets are part of a name, or what else is missing, or nothing."""
    if is_remote(pattern):
        bucket = pattern.partition("://")[2].partition("/")[0]
        return " The name of a bucket cannot be a pattern." if is_glob(bucket) else ""
    if (page := split_page(pattern)) and not os.path.lexists(page[0]):
        return f" It is not page {page[1]} of a file either: {to_unicode(page[0])} does not exist."
    folder = pattern[: len(pattern) - len(pattern.lstrip("/"))]
    parts = [part for part in pattern.split("/") if part]
    original = parts.copy()
    for position, part in enumerate(parts):
        path = os.path.join(folder, part)
        if is_glob(part) and not os.path.lexists(path):
            break
        folder, parts[position] = path, part.replace("[", "[[]")
    if parts == original:
        return ""
    escaped = pattern[: len(pattern) - len(pattern.lstrip("/"))] + "/".join(parts) + "/" * pattern.endswith("/")
    return f" Brackets are a set of characters. To match {to_unicode(folder)}, write {to_unicode(escaped)}."


def search(folder: str, parts: tuple[str, ...], folders: Folders) -> Iterator[Entry]:
    """Yield what the parts of a glob match below a folder. A final ``**`` matches all files and the system folders."""
    searched: set[Hashable] = set()
    # A stack instead of recursion, because a tree can be deeper than Python's recursion limit.
    stack: list[Iterator[Entry | Pending]] = [iter([(folder, parts)])]
    while stack:
        item = next(stack[-1], None)
        if item is None:
            stack.pop()
        elif isinstance(item, Entry):
            yield item
        else:
            stack.append(_match_part(*item, searched, folders))


def _match_part(
    folder: str, parts: tuple[str, ...], searched: set[Hashable], folders: Folders
) -> Iterator[Entry | Pending]:
    """Match the first part of a glob in one folder. Yield what it matches, or folders that the other parts apply to."""
    part, rest = parts[0], parts[1:]
    if not is_glob(part):
        path = os.path.join(folder, part)
        yield from [(path, rest)] if rest else folders.match(path)
        return
    is_recursive = part == RECURSIVE
    try:
        if is_recursive:
            # Whether this part of the glob meets the folder for the first time: links can lead in circles.
            identity = folders.identity(folder), len(rest)
            if identity in searched:
                return
            searched.add(identity)
        names = folders.list(folder, re.split(r"[*?[]", part, maxsplit=1)[0])
    except OSError as error:
        is_missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        if not is_missing or parts == (RECURSIVE,):
            message = f"Cannot list the folder: {describe_os_error(error)}"
            yield Entry(folder or ".", SourceUnreadableError(message))
        return
    if is_recursive and rest:
        yield folder, rest
    matches = re.compile(fnmatch.translate(part)).match
    try:
        for name, is_subfolder in names:
            is_hidden = name.startswith(".") and not part.startswith(".")
            if is_hidden or not matches(name):
                continue
            path = os.path.join(folder, name)
            if is_subfolder and name.lower() in SYSTEM_FOLDERS:
                if parts == (RECURSIVE,):
                    yield Entry(path, is_folder=True)
            elif is_subfolder and (is_recursive or rest):
                yield path, parts if is_recursive else rest
            elif not rest:
                yield Entry(path, is_folder=is_subfolder)
    except ImageError as error:
        yield listing_failed(folder, error)


def listing_failed(folder: str, error: ImageError) -> Entry:
    """Return the entry for a folder that cannot be listed."""
    return Entry(folder, type(error)(f"Cannot list the folder: {error}"))


class LocalFolders:
    """The folders of this machine. See ``Folders``."""

    def list(self, folder: str, prefix: str) -> Iterable[tuple[str, bool]]:
        """Return the sorted names. Only names are kept of 100,000 entries."""
        names: list[str] = []
        folders: set[str] = set()
        with os.scandir(folder or ".") as entries:
            for entry in entries:
                names.append(entry.name)
                if is_folder(entry):
                    folders.add(entry.name)
        names.sort()
        return ((name, name in folders) for name in names)

    def match(self, path: str) -> Iterator[Entry]:
        """See ``Folders``."""
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, ValueError) as error:
            yield Entry(path, SourceUnreadableError(describe_os_error(error)))
        else:
            yield Entry(path, is_folder=os.path.isdir(path))

    def search(self, folder: str) -> Iterator[Entry]:
        """See ``Folders``."""
        return search(folder, (RECURSIVE,), self)

    def identity(self, folder: str) -> Hashable:
        """See ``Folders``."""
        status = os.stat(folder or ".")
        return status.st_dev, status.st_ino

    def split_pattern(self, pattern: str) -> tuple[str, str]:
        """See ``Folders``."""
        rest = pattern.lstrip("/")
        return pattern[: len(pattern) - len(rest)], rest


LOCAL = LocalFolders()


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:
        return False  # a loop of links, or a link into an inaccessible folder: opening the file reports it


def _add_folder(folder: str, searched: set[str]) -> bool:
    """Add a folder to those already searched. Return False if it, or one that contains it, is among them."""
    path = os.path.realpath(folder)
    parts = path.split(os.sep)
    if not searched.isdisjoint(os.sep.join(parts[:count]) or os.sep for count in range(1, len(parts) + 1)):
        return False
    searched.add(path)
    return True
