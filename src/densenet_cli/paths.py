"""Paths, URLs, and names of pages; the folders for the cache, which may be deleted, and for the weights of Keras."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from densenet_cli.errors import UsageError


def is_url(text: str) -> bool:
    """Return whether a text is an http or https URL."""
    return text[:8].lower().startswith(("http://", "https://"))


HUB_PREFIX = "hf://"


def is_hub_url(text: str) -> bool:
    """Return whether a text names a repository on the Hugging Face Hub."""
    return text[: len(HUB_PREFIX)].lower() == HUB_PREFIX


def split_page(name: str) -> tuple[str, int] | None:
    """Return the file and the page that a name such as ``file.tif[2]`` consists of, None for other names."""
    file, _, number = name.removesuffix("]").rpartition("[")
    if not name.endswith("]") or not file or not (number.isascii() and number.isdigit()) or len(number) > 9:
        return None
    return file, int(number)


def is_stdin(name: str) -> bool:
    """Return whether a name is that of standard input, ``-``, or of a page of it."""
    return name == "-" or (split_page(name) or ("",))[0] == "-"


def normalize_path(path: str, folder: str) -> str:
    """Return an absolute path that is the same for all spellings of ``path``.

    Symbolic links are not resolved. ``..`` after one is kept, because it does not lead back.

    Args:
        path: A path, absolute or relative to ``folder``.
        folder: An absolute path.
    """
    result = os.sep
    for part in os.path.join(folder, path).split(os.sep):
        if part == os.pardir and not os.path.islink(result) and os.path.basename(result) != os.pardir:
            result = os.path.dirname(result)
        elif part not in ("", os.curdir):
            result = os.path.join(result, part)
    return result


class PathNormalizer:
    """Normalizes many paths, most of them in few folders. URLs stay as they are.

    Args:
        folder: The absolute path that relative paths start from; None for the current folder.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._folder = os.getcwd() if folder is None else folder
        self._normalize_parent = lru_cache(maxsize=1024)(lambda parent: normalize_path(parent, self._folder))

    def __call__(self, path: str) -> str:
        """Return ``normalize_path`` of a path."""
        if is_url(path):
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
