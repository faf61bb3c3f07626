"""Paths, URLs, and names of pages and members of archives; the folders for the cache, which may be deleted, and for the
weights of Keras."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from densenet_cli.errors import UsageError


def is_url(text: str) -> bool:
    """Return whether a text is an http or https URL."""
    return text[:8].lower().startswith(("http://", "https://"))


REMOTE_URL = re.compile(r"(?!https?:|file:)[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def is_remote(text: str) -> bool:
    """Return whether a text is the URL of a file or folder that ``storage`` reads, such as ``s3://bucket/photos``.

    Those of http and https are not, and neither is ``hf://`` unless it names a dataset: it is a model otherwise.
    """
    return "://" in text and REMOTE_URL.match(text) is not None and (not is_hub_url(text) or is_hub_dataset(text))


HUB_PREFIX = "hf://"


def is_hub_url(text: str) -> bool:
    """Return whether a text names a repository on the Hugging Face Hub."""
    return text[: len(HUB_PREFIX)].lower() == HUB_PREFIX


def is_hub_dataset(text: str) -> bool:
    """Return whether a text names a dataset on the Hugging Face Hub, or a file or folder of it."""
    return text.lower().startswith(f"{HUB_PREFIX}datasets/")


def split_page(name: str) -> tuple[str, int] | None:
    """Return the file and the page that a name such as ``file.tif[2]`` consists of, None for other names."""
    file, _, number = name.removesuffix("]").rpartition("[")
    if not name.endswith("]") or not file or not (number.isascii() and number.isdigit()) or len(number) > 9:
        return None
    return file, int(number)


ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".zip")
"""File name extensions of archives, in lower case."""

DOUBLE_SUFFIXES = tuple(suffix for suffix in ARCHIVE_SUFFIXES if suffix.count(".") > 1)
"""Those that consist of two extensions."""

_IN_ARCHIVE = re.compile(f"(?:{'|'.join(map(re.escape, ARCHIVE_SUFFIXES))})/", re.IGNORECASE)


def is_archive(name: str) -> bool:
    """Return whether a name has the extension of an archive."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def split_member(path: str) -> tuple[str, str] | None:
    """Return the archive and the member that a path such as ``photos.tar/cats/1.jpg`` consists of.

    Returns:
        The path of the archive, which is an existing file or a URL of object storage, and the rest; None for other
        paths.
    """
    return next((parts for parts in split_archives(path) if is_remote(path) or os.path.isfile(parts[0])), None)


def split_archives(path: str) -> Iterator[tuple[str, str]]:
    """Yield what a path consists of for each part of it that has the extension of an archive: the archive, the rest."""
    for match in _IN_ARCHIVE.finditer(path):
        yield path[: match.end() - 1], path[match.end() :]


MAX_BRACES = 16
"""Opening braces in a name. With more, all of them are ordinary characters."""

_RANGE = re.compile(r"(-?[0-9]{1,18})\.\.(-?[0-9]{1,18})(?:\.\.(-?[0-9]{1,18}))?")


def expand_braces(text: str) -> Iterator[str]:
    """Yield the names or URLs that braces stand for in a shell: ``{a,b}``, ``{000..099}``, and ``{0..90..10}``.

    Other braces are ordinary characters.
    """
    if text.count("{") > MAX_BRACES:
        yield text
        return
    position = text.find("{")
    while position >= 0:
        if found := _split_alternatives(text, position):
            alternatives, end = found
            for alternative in alternatives:
                for rest in expand_braces(text[end:]):
                    yield text[:position] + alternative + rest
            return
        position = text.find("{", position + 1)
    yield text


def _split_alternatives(text: str, start: int) -> tuple[Iterator[str], int] | None:
    """Return what the braces that open at ``start`` stand for, and where they end, or None for ordinary characters."""
    depth = 0
    parts = [start + 1]
    for position in range(start, len(text)):
        character = text[position]
        depth += (character == "{") - (character == "}")
        if character == "," and depth == 1:
            parts.append(position + 1)
        elif depth == 0:
            parts.append(position + 1)
            pieces = [text[first : last - 1] for first, last in pairwise(parts)]
            if len(pieces) > 1:
                return (name for piece in pieces for name in expand_braces(piece)), position + 1
            match = _RANGE.fullmatch(pieces[0])
            return (_expand_range(match), position + 1) if match else None
    return None


def _expand_range(match: re.Match[str]) -> Iterator[str]:
    """Yield the numbers of a range, which all have the same number of digits if one of its ends has leading zeros."""
    first, last, step = int(match[1]), int(match[2]), abs(int(match[3] or 1)) or 1
    has_zeros = any(re.match("-?0[0-9]", end) for end in match.groups()[:2])
    width = max(len(match[1]), len(match[2])) if has_zeros else 0
    numbers = range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
    return (f"{number:0{width}}" for number in numbers)


def local_path(entry: str) -> str:
    """Return the path that an entry of a list names: ``file:///...`` and ``~/...`` are resolved.

    A relative path of that name that exists takes precedence.
    """
    if entry.startswith("~") and not os.path.lexists(entry):
        return os.path.expanduser(entry)
    match = re.fullmatch(r"file:(?://(?:localhost)?)?(/(?!/).*)", entry, re.IGNORECASE | re.DOTALL)
    if not match or os.path.lexists(entry):
        return entry
    from urllib.parse import unquote_to_bytes

    return os.fsdecode(unquote_to_bytes(os.fsencode(match[1])))


def is_stdin(name: str) -> bool:
    """Return whether a name is that of standard input, ``-``, or of a page of it."""
    return name == "-" or (split_page(name) or ("",))[0] == "-"


def working_directory() -> str:
    """Return the working directory, or ``/`` if it was deleted: relative names then name nothing that exists."""
    try:
        return os.getcwd()
    except OSError:
        return os.sep


def normalize_path(path: str, folder: str) -> str:
    """Return an absolute path that is the same for all spellings of ``path``.

    Symbolic links are not resolved. ``..`` after one is kept, because it does not lead back. It is also kept after the
    name of an archive, because the names of members are arbitrary.

    Args:
        path: A path, absolute or relative to ``folder``.
        folder: An absolute path.
    """
    result = os.sep
    for part in os.path.join(folder, path).split(os.sep):
        if part == os.pardir and not _keeps_parent(result):
            result = os.path.dirname(result)
        elif part not in ("", os.curdir):
            result = os.path.join(result, part)
    return result


def _keeps_parent(path: str) -> bool:
    """Return whether ``..`` after a path does not lead to the folder that contains it."""
    return os.path.basename(path) == os.pardir or is_archive(path) or os.path.islink(path)


class PathNormalizer:
    """Normalizes many paths, most of them in few folders. URLs, of object storage too, stay as they are.

    Args:
        folder: The absolute path that relative paths start from; None for the current folder.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._folder = working_directory() if folder is None else folder
        self._normalize_parent = lru_cache(maxsize=1024)(lambda parent: normalize_path(parent, self._folder))

    def __call__(self, path: str) -> str:
        """Return ``normalize_path`` of a path."""
        if is_url(path) or is_remote(path):
            return path
        parent, name = os.path.split(path)
        if name in ("", os.curdir, os.pardir):
            return normalize_path(path, self._folder)
        return os.path.join(self._normalize_parent(parent), name)


def cache_dir() -> Path:
    """Return the folder for cached data: ``$DENSENET_CACHE``, else that of the platform. It may not exist."""
    if path := os.environ.get("DENSENET_CACHE"):
        return Path(path).expanduser()
    from platformdirs import user_cache_path

    with suppress(RuntimeError):
        folder = user_cache_path("densenet")
        if folder.is_absolute():  # not "~/.cache", which older versions return if there is no home folder
            return folder
    return Path(os.devnull) / "densenet"  # This path cannot be written, so nothing is cached.


def images_dir() -> Path:
    """Return the folder where training caches decoded images. It may not exist."""
    return cache_dir() / "images"


def staging_dir() -> Path:
    """Return the folder for output files until they are uploaded. It may not exist."""
    return cache_dir() / "staging"


def checkpoints_dir() -> Path:
    """Return the folder for checkpoints that other machines have shared through Ray. It may not exist."""
    return cache_dir() / "checkpoints"


def models_dir() -> Path:
    """Return the folder for weights, shared with Keras: ``$KERAS_HOME/models``, default ``~/.keras/models``.

    It may not exist.

    Raises:
        UsageError: There is no home folder.
    """
    home = os.environ.get("KERAS_HOME")
    try:
        return (Path(home).expanduser() if home else Path.home() / ".keras") / "models"
    except RuntimeError:
        raise UsageError("There is no home folder. Set KERAS_HOME to a folder for weights.") from None
