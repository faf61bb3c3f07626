"""Listing of folders: in the order of a search of local folders, page by page where the storage has pages.

Local folders are searched depth first, with each folder's names sorted. S3 returns keys in the order of their bytes,
which is another one: ``a-1`` precedes ``a/1``, because ``-`` precedes ``/``, but the folder ``a`` precedes ``a-1``. So
before a key such as ``a-1``, the folder ``a/`` is listed, if there is one. One page of keys shows that for most names,
and a short request for the others.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from densenet_cli.errors import ImageError, SourceUnreadableError, UsageError
from densenet_cli.storage.errors import StorageError, image_error, storage_errors
from densenet_cli.storage.file_systems import FileSystem, open_filesystem

PAGE_SIZE = 1000
"""Keys per page, the maximum of S3."""

_SEPARATORS = re.compile(r"[\x01-/]")
"""A slash, and the characters that precede it."""

_LAST = "\U0010ffff"
"""Follows every character in names."""


class Listed(NamedTuple):
    """A file or folder: its path below the folder that was listed."""

    path: str
    is_folder: bool


def list_folder(url: str, prefix: str = "") -> Iterator[Listed]:
    """Yield the files and folders in a folder whose names begin with ``prefix``, sorted by name.

    Raises:
        ImageError: The folder cannot be listed. If it does not exist, nothing is yielded on S3.
    """
    yield from _convert_errors(url, lambda files: _list_folder(files, prefix))


def list_tree(url: str, enter: Callable[[str], bool]) -> Iterator[str]:
    """Yield the files below a folder at any depth, in the order of a search of local folders.

    Args:
        url: The folder.
        enter: Called with the path of each folder below it, before its files. Returns whether to list it.

    Raises:
        ImageError: A folder cannot be listed.
    """
    yield from _convert_errors(url, lambda files: _list_tree(files, enter))


def _convert_errors(url: str, listing: Callable[[FileSystem], Iterator[Any]]) -> Iterator[Any]:
    failure: ImageError
    try:
        with storage_errors(url):
            entries = listing(open_filesystem(url))
        while True:
            with storage_errors(url):
                entry = next(entries, None)
            if entry is None:
                return
            yield entry
    except StorageError as error:
        failure = image_error(error)
    except UsageError as error:
        failure = SourceUnreadableError(str(error))
    raise failure


def _list_folder(files: FileSystem, prefix: str) -> Iterator[Listed]:
    if files.is_s3:
        for key in _S3Listing(files, lambda _: True, delimiter="/").keys(prefix):
            yield Listed(key.removesuffix("/"), key.endswith("/"))
        return
    yield from (entry for entry in _names(files.fs, files.path) if entry.path.startswith(prefix))


def _names(fs: Any, path: str) -> list[Listed]:
    """Return the files and folders in a folder, sorted. Only their names are kept."""
    base = path.rstrip("/")
    names = {}
    for entry in fs.ls(path, detail=True):
        full = entry["name"].rstrip("/")
        if full != base:  # a folder may list itself
            names[full.rpartition("/")[2]] = entry["type"] == "directory"
    return [Listed(name, names[name]) for name in sorted(names)]


def _list_tree(files: FileSystem, enter: Callable[[str], bool]) -> Iterator[str]:
    if files.is_s3:
        yield from _S3Listing(files, enter).keys()
        return
    # A stack instead of recursion, because a tree can be deeper than Python's recursion limit.
    stack = [("", iter(_names(files.fs, files.path)))]
    while stack:
        folder, entries = stack[-1]
        entry = next(entries, None)
        if entry is None:
            stack.pop()
            continue
        path = folder + entry.path
        if not entry.is_folder:
            yield path
        elif enter(path):
            stack.append((f"{path}/", iter(_names(files.fs, f"{files.path.rstrip('/')}/{path}"))))


@dataclass
class _Walk:
    """The keys that begin with a prefix, as they are listed: a page of them, and what was decided about folders.

    Attributes:
        prefix: The prefix, below the folder that is listed: "" or the path of a folder with its slash.
        page: A page of keys, sorted. Folders end with a slash if their keys are not listed.
        position: The next key of the page.
        last: Where the next page begins: the last key of the page, or the end of a folder to skip.
        token: Where the next page begins for S3, if folders end with a slash.
        is_last: Whether there are no further pages.
        decided: Folder -> whether it exists, with its slash: those that precede the current key in the search although
            their keys follow. The ones that exist were listed before it.
    """

    prefix: str
    page: list[str] = field(default_factory=list)
    position: int = 0
    last: str | None = None
    token: str | None = None
    is_last: bool = False
    decided: dict[str, bool] = field(default_factory=dict)

    def skip(self, folder: str) -> None:
        """Skip the keys of a folder, on further pages too."""
        while self.position < len(self.page) and self.page[self.position].startswith(folder):
            self.position += 1
        if self.position == len(self.page) and (self.last or "").startswith(folder):
            self.last = max(self.last or "", folder + _LAST)


class _S3Listing:
    """Lists the keys below a folder on S3, whose paths are relative to it.

    Args:
        files: The folder.
        enter: See ``list_tree``.
        delimiter: "/" to list only the files and folders in the folder itself. Folders then end with a slash.
    """

    def __init__(self, files: FileSystem, enter: Callable[[str], bool], delimiter: str = "") -> None:
        self._fs = files.fs
        self._bucket, key, _ = files.fs.split_path(files.path)
        self._root = f"{key.rstrip('/')}/" if key else ""
        self._enter, self._delimiter = enter, delimiter
        self._folder = ""
        """The folder that was entered last, with its slash."""
        self._refused = ""
        """The folder that was not entered last."""

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys that begin with a prefix, in the order of a search of local folders."""
        stack = [_Walk(prefix)]
        while stack:
            walk = stack[-1]
            if walk.position == len(walk.page) and not self._next_page(walk):
                stack.pop()
                continue
            key = walk.page[walk.position]
            if listed := next(
                (folder for folder, exists in walk.decided.items() if exists and key.startswith(folder)), None
            ):
                walk.skip(listed)
                continue
            folder, is_skipped = self._next_folder(walk, key)
            if not folder:
                walk.position += 1
                if key and (self._delimiter or not key.endswith("/")):
                    yield key
            elif is_skipped:
                walk.skip(folder)
            elif self._delimiter:
                yield folder
            else:
                stack.append(_Walk(folder))

    def _next_folder(self, walk: _Walk, key: str) -> tuple[str, bool]:
        """Return a folder to list before a key, or one that is skipped and contains the key. It has a slash."""
        for folder in list(walk.decided):
            if not key.startswith(folder[:-1]):
                del walk.decided[folder]
        for match in _SEPARATORS.finditer(key, len(walk.prefix)):
            end = match.start()
            if key[end] == "/":
                folder = key[: end + 1]
                if self._delimiter or self._folder.startswith(folder):
                    continue
                if folder == self._refused or not self._enter(folder[:-1]):
                    self._refused = folder
                    return folder, True
                self._folder = folder
            elif (folder := f"{key[:end]}/") not in walk.decided and not folder.endswith("//") and folder != "/":
                exists = walk.decided[folder] = self._has_folder(walk, folder)
                if exists and self._delimiter:
                    return folder, False
                if exists and self._enter(folder[:-1]):
                    self._folder = folder
                    return folder, False
        return "", False

    def _has_folder(self, walk: _Walk, folder: str) -> bool:
        """Return whether there are keys in a folder, all of which follow the current one."""
        position = bisect_left(walk.page, folder, walk.position)
        if position < len(walk.page):
            return walk.page[position].startswith(folder)
        return not walk.is_last and bool(self._request(folder, MaxKeys=1).get("Contents"))

    def _next_page(self, walk: _Walk) -> bool:
        """Read pages until there is one with keys. Return False at the end."""
        walk.page, walk.position = [], 0
        while not walk.page and not walk.is_last:
            parameters: dict[str, Any] = {"MaxKeys": PAGE_SIZE}
            if self._delimiter:
                parameters["Delimiter"] = self._delimiter
            if walk.token:
                parameters["ContinuationToken"] = walk.token
            elif walk.last is not None:
                parameters["StartAfter"] = self._root + walk.last
            response = self._request(walk.prefix, **parameters)
            keys = [entry["Key"] for entry in response.get("Contents", ())]
            keys += [entry["Prefix"] for entry in response.get("CommonPrefixes", ())]
            walk.page = sorted(key.removeprefix(self._root) for key in keys)
            walk.is_last = not response.get("IsTruncated")
            if self._delimiter:
                walk.token = response.get("NextContinuationToken")
            elif not walk.page:
                walk.is_last = True
            elif walk.last is not None and walk.page[-1] <= walk.last:
                raise StorageError("the storage repeats names in its listing")
            else:
                walk.last = walk.page[-1]
        return bool(walk.page)

    def _request(self, prefix: str, **parameters: Any) -> Any:
        return self._fs.call_s3(
            "list_objects_v2", Bucket=self._bucket, Prefix=self._root + prefix, **self._fs.req_kw, **parameters
        )
