"""Loading images from sources: with limits on memory, and if requested in worker processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from densenet_cli.errors import DownloadFailedError, UsageError
from densenet_cli.images import MAX_TIMEOUT, decoding, sources
from densenet_cli.images.memory import DecodeBudget

if TYPE_CHECKING:
    from densenet_cli._types import ImageInput
    from densenet_cli.images.preprocessing import Preprocessing
    from densenet_cli.images.previews import Preview
    from densenet_cli.images.sources import Source


class ImageLoader:
    """Loads images as a network sees them. Thread-safe.

    Args:
        budget: Memory limit for concurrent decoding.
        isolate: Decode in worker processes.
        timeout: Time limit for decoding one image in seconds, or None. Implies ``isolate``.
        offline: Do not download images.

    Raises:
        UsageError: A value is invalid, or the system has no worker processes.
        IsolationError: No worker process can be started.

    Attributes:
        is_isolated: Whether worker processes decode.
        close: Ends the worker processes.
    """

    def __init__(self, budget: DecodeBudget, isolate: bool, timeout: float | None, offline: bool) -> None:
        if timeout is not None and not 0 < timeout <= MAX_TIMEOUT:
            raise UsageError(f"`timeout` must be above 0 and at most {MAX_TIMEOUT:,} seconds, not {timeout}.")
        self._offline = offline
        self.is_isolated = isolate or timeout is not None
        self._load: Callable[[Source, Preprocessing, type[Preview] | None], decoding.Loaded]
        self.close: Callable[[], object]
        if not self.is_isolated:
            self._load = partial(_load, budget)
            self.close = lambda: None
            return
        if os.name != "posix":
            raise UsageError("`isolate` and `timeout` need a POSIX system such as Linux or macOS.")
        from densenet_cli.images.isolation import WorkerPool

        workers = WorkerPool(budget, timeout)
        self._load, self.close = workers.load, workers.close

    def load(
        self, source: Source, preprocessing: Preprocessing, preview: type[Preview] | None = None
    ) -> decoding.Loaded:
        """Load one image, and the requested kind of preview.

        Raises:
            ImageError: The image cannot be loaded. The subclass says why.
        """
        if self._offline and source.kind == "url":
            raise DownloadFailedError("The image was not downloaded because network access is disabled (offline).")
        return self._load(source, preprocessing, preview)

    def expand(self, images: Iterable[ImageInput], pages: str) -> Iterator[Source]:
        """Yield the sources that ``images`` name, or with ``pages`` "all" their pages."""
        expanded = sources.expand_objects(images)
        if pages == "first":
            return expanded
        from densenet_cli.images.pages import expand_pages

        return expand_pages(expanded, self._offline)


def _load(
    budget: DecodeBudget, source: Source, preprocessing: Preprocessing, preview: type[Preview] | None
) -> decoding.Loaded:
    return decoding.load(source, preprocessing, budget, preview)
