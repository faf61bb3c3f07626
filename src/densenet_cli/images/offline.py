"""Image sources while access to the network is disabled: an error for each URL of object storage."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from densenet_cli.errors import DownloadFailedError
from densenet_cli.images.files import OFFLINE
from densenet_cli.images.sources import Source, expand
from densenet_cli.images.walking import image_suffixes
from densenet_cli.paths import is_remote

if TYPE_CHECKING:
    from densenet_cli._types import ImageInput


def without_access(images: Iterable[ImageInput]) -> Iterator[ImageInput | Source]:
    """Yield images, and for each URL of object storage a source with an error."""
    for image in images:
        yield _error_source(image) if isinstance(image, str) and is_remote(image) else image


def expand_offline(arguments: Iterable[str], suffixes: Collection[str]) -> Iterator[Source]:
    """Yield the sources that arguments name, like ``sources.expand``, and an error for each URL of object storage.

    Raises:
        UsageError: A suffix is not an extension. Raised immediately.
    """
    image_suffixes(suffixes)
    return _expand(arguments, suffixes)


def _expand(arguments: Iterable[str], suffixes: Collection[str]) -> Iterator[Source]:
    for is_storage, names in groupby(arguments, is_remote):
        if is_storage:
            yield from map(_error_source, names)
        else:
            yield from expand(names, suffixes=suffixes)


def _error_source(url: str) -> Source:
    from densenet_cli.storage import redact

    return Source(redact(url), None, "nothing", DownloadFailedError(OFFLINE))
