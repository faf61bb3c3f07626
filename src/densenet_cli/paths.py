"""The two folders outside the package: the cache, which may be deleted at any time, and Keras' models."""

from __future__ import annotations

import os
from pathlib import Path

from densenet_cli.errors import UsageError


def cache_dir() -> Path:
    """Where graphs and remembered checks lie: ``$DENSENET_CACHE``, else the platform's own place. May not exist."""
    if given := os.environ.get("DENSENET_CACHE"):
        return Path(given).expanduser()
    from platformdirs import user_cache_path

    try:
        return user_cache_path("densenet")
    except RuntimeError:  # no home: a place where nothing can be kept, which is no reason to stop
        return Path(os.devnull) / "densenet"


def images_dir() -> Path:
    """Where training keeps decoded images, in the cache. May not exist."""
    return cache_dir() / "images"


def models_dir() -> Path:
    """Where weights lie: ``$KERAS_HOME/models``, which Keras shares (default ``~/.keras/models``). May not exist."""
    home = os.environ.get("KERAS_HOME")
    try:
        return (Path(home).expanduser() if home else Path.home() / ".keras") / "models"
    except RuntimeError:
        raise UsageError("There is no home folder to keep weights in: set KERAS_HOME, or give --weights.") from None
