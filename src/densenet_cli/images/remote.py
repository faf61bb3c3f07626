"""Remote image sources: files, folders, and globs in object storage and other file systems behind fsspec."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator

from densenet_cli import storage
from densenet_cli.errors import ImageError, SourceNotFoundError
from densenet_cli.images.walking import (
    SYSTEM_FOLDERS,
    Entry,
    SkippedFiles,
    has_image_suffix,
    is_glob,
    listing_failed,
    walk,
    walk_glob,
)


class RemoteFolders:
    """Folders that URLs name. See ``walking.Folders``. They have no links."""

    def list(self, folder: str, prefix: str) -> Iterable[tuple[str, bool]]:
        """See ``Folders``. Only a page of names is held at a time if the storage has pages."""
        return storage.list_folder(folder, prefix)

    def match(self, path: str) -> Iterator[Entry]:
        """See ``Folders``."""
        try:
            status = storage.status(path)
        except ImageError as error:
            yield Entry(path, error)
        else:
            if status:
                yield Entry(path, is_folder=status.is_folder)

    def search(self, folder: str) -> Iterator[Entry]:
        """See ``Folders``. On S3, all keys below the folder are listed together, which needs far fewer requests."""
        system_folders: list[str] = []

        def enter(path: str) -> bool:
            name = path.rpartition("/")[2]
            if name.lower() in SYSTEM_FOLDERS:
                system_folders.append(path)
                return False
            return not name.startswith(".")

        paths = storage.list_tree(folder, enter)
        while True:
            try:
                path = next(paths, None)
            except ImageError as error:
                yield listing_failed(folder, error)
                path = None
            while system_folders:
                yield Entry(storage.join(folder, system_folders.pop(0)), is_folder=True)
            if path is None:
                return
            if not path.rpartition("/")[2].startswith("."):
                yield Entry(storage.join(folder, path))

    def identity(self, folder: str) -> Hashable:
        """See ``Folders``."""
        return folder

    def split_pattern(self, pattern: str) -> tuple[str, str]:
        """See ``Folders``. A bucket cannot be a pattern."""
        scheme, _, rest = pattern.partition("://")
        root, _, rest = rest.partition("/")
        return f"{scheme}://{root}", rest


REMOTE = RemoteFolders()


def is_file(url: str) -> bool:
    """Return whether there is a file at a URL, and that can be found out."""
    try:
        status = storage.status(url)
    except ImageError:
        return False
    return status is not None and not status.is_folder


def expand_url(url: str, suffixes: frozenset[str]) -> Iterator[Entry | SkippedFiles]:
    """Yield a file, the images in a folder, the matches of a glob, or one error.

    A URL with an image extension is a file: whether it exists is found out when it is read. So a list of a million
    URLs takes no million further requests.
    """
    if has_image_suffix(url, suffixes) and not is_glob(url):
        yield Entry(url)
        return
    try:
        status = storage.status(url)
    except ImageError as error:
        yield Entry(url, error)
        return
    if status is None and is_glob(url):
        yield from walk_glob(url, suffixes, REMOTE)
    elif status is None:
        yield Entry(url, SourceNotFoundError("No such file or folder."))
    elif status.is_folder or url.endswith("/"):  # a file and a folder can have the same name
        yield from walk(url, suffixes, REMOTE)
    else:
        yield Entry(url)
