"""What a path or a URL of object storage names: a file, a folder, an archive, a member of one, or a glob."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator

from densenet_cli.errors import SourceNotFoundError, SourceUnreadableError
from densenet_cli.images.walking import (
    Entry,
    SkippedFiles,
    describe_os_error,
    has_image_suffix,
    is_glob,
    walk,
    walk_glob,
)
from densenet_cli.paths import is_archive, is_remote, split_archives


def find_archive(path: str) -> tuple[str, str] | None:
    """Return the archive and the member or folder that a path consists of, or None. A folder can be named like one.

    This takes requests for a URL if it contains the extension of an archive.
    """
    is_file: Callable[[str], bool] = os.path.isfile
    if is_remote(path):
        from densenet_cli.images.remote import is_file
    return next((parts for parts in split_archives(path) if is_file(parts[0])), None)


def expand_path(path: str, suffixes: frozenset[str], open_archives: bool = True) -> Iterator[Entry | SkippedFiles]:
    """Yield a file, the images in a folder or an archive, the matches of a glob, or one error.

    Args:
        path: The path or URL, including that of a folder in an archive.
        suffixes: File name extensions of images.
        open_archives: Whether to yield the images in archives instead of the archives.
    """
    is_listed = not open_archives and is_remote(path) and has_image_suffix(path, suffixes) and not is_glob(path)
    if is_listed and any(split_archives(path)):
        yield Entry(path, is_archive=True)  # without a request for each name in a list
    elif parts := find_archive(path):
        if open_archives:
            from densenet_cli.images.archives import expand_archive_file

            yield from expand_archive_file(parts[0], suffixes, parts[1])
        else:
            yield Entry(path, is_archive=True)
    elif is_remote(path):
        from densenet_cli.images.remote import expand_url

        yield from _open_archives(expand_url(path, suffixes), suffixes, open_archives)
    else:
        yield from _open_archives(_expand_file(path, suffixes), suffixes, open_archives)


def _expand_file(path: str, suffixes: frozenset[str]) -> Iterator[Entry | SkippedFiles]:
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        if os.path.lexists(path):
            yield Entry(path, SourceNotFoundError("Broken symbolic link."))
        elif is_glob(path):
            yield from walk_glob(path, suffixes)
        else:
            yield Entry(path, SourceNotFoundError("No such file or folder."))
    except (OSError, ValueError) as error:
        yield Entry(path, SourceUnreadableError(describe_os_error(error)))
    else:
        yield from walk(path, suffixes) if stat.S_ISDIR(mode) else [Entry(path)]


def _open_archives(
    entries: Iterable[Entry | SkippedFiles], suffixes: frozenset[str], open_archives: bool
) -> Iterator[Entry | SkippedFiles]:
    """Replace archives by the images in them, or mark them as archives.

    Entries of folders are archives only if their extension is requested.
    """
    for entry in entries:
        if isinstance(entry, SkippedFiles) or entry.error or not is_archive(entry.path):
            yield entry
        elif not open_archives:
            yield entry._replace(is_archive=True)
        else:
            from densenet_cli.images.archives import expand_archive_file

            yield from expand_archive_file(entry.path, suffixes)
