"""The folders outside the package: the cache, which may be deleted at any time, and the weights of Keras."""

from __future__ import annotations

import os
from pathlib import Path

from densenet_cli.errors import UsageError


def cache_dir() -> Path:
    """Return the folder for cached data: ``$DENSENET_CACHE``, else that of the platform. It may not exist."""
    if path := os.environ.get("DENSENET_CACHE"):
        return Path(path).expanduser()
    from platformdirs import user_cache_path

    try:
        return user_cache_path("densenet")
    except RuntimeError:  # There is no home folder. This path cannot be written, so nothing is cached.
        return Path(os.devnull) / "densenet"


def images_dir() -> Path:
    """Return the folder where training caches decoded images. It may not exist."""
    return cache_dir() / "images"


def models_dir() -> Path:
    """Return the folder for weights, shared with Keras: ``$KERAS_HOME/models``, default ``~/.keras/models``.

    It may not exist.

    Raises:
        UsageError: If there is no home folder.
    """
    home = os.environ.get("KERAS_HOME")
    try:
        return (Path(home).expanduser() if home else Path.home() / ".keras") / "models"
    except RuntimeError:
        raise UsageError("There is no home folder. Set KERAS_HOME to a folder for weights.") from None
