"""Loading images from sources: with limits on memory, and if requested in worker processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from densenet_cli.errors import DownloadFailedError, ImageError, UsageError, guard
from densenet_cli.images import MAX_TIMEOUT, decoding, sources
from densenet_cli.images.files import MAX_STREAM_BYTES, OFFLINE
from densenet_cli.images.memory import DecodeBudget

if TYPE_CHECKING:
    from densenet_cli._types import ImageInput
    from densenet_cli.images.preprocessing import Preprocessing
    from densenet_cli.images.previews import Preview
    from densenet_cli.images.sources import Source

S = TypeVar("S", bound="Source")

MAX_BUFFERED_BYTES = 128 << 20
"""Limit of the bytes of members of archives that wait to be decoded."""


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
        if self._offline and source.kind in ("url", "remote"):
            raise DownloadFailedError(OFFLINE)
        return self._load(source, preprocessing, preview)

    def expand(self, images: Iterable[ImageInput], pages: str) -> Iterator[Source]:
        """Yield the sources that ``images`` name, or with ``pages`` "all" their pages."""
        if self._offline and not isinstance(images, str):
            from densenet_cli.images.offline import without_access

            expanded = sources.expand_objects(without_access(images))
        else:
            expanded = sources.expand_objects(images)
        if pages == "first":
            return expanded
        from densenet_cli.images.pages import expand_pages

        return expand_pages(expanded, self._offline)


class MemberBuffer(Generic[S]):
    """Sources, in which members of archives that are read in order hold their bytes until they are decoded.

    The iteration waits while they hold more than a limit.

    Args:
        sources: The sources.
        max_bytes: The limit. A single member may exceed it.
    """

    def __init__(self, sources: Iterable[S], max_bytes: int = MAX_BUFFERED_BYTES) -> None:
        self._sources, self._max_bytes = sources, max_bytes
        self._changed = threading.Condition()
        self._bytes = 0
        self._is_closed = False

    def __iter__(self) -> Iterator[S]:
        for source in self._sources:
            if source.kind == "member" and not source.origin.is_repeatable:
                size = source.origin.size
                with self._changed:
                    self._changed.wait_for(partial(self._can_continue, size))
                    self._bytes += size
                source = self._read(source)
            if self._is_closed:
                break
            yield source

    def _can_continue(self, size: int) -> bool:
        return self._is_closed or self._bytes == 0 or self._bytes + size <= self._max_bytes

    def _read(self, source: S) -> S:
        try:
            data = guard(lambda: source.origin.read(MAX_STREAM_BYTES))
        except ImageError as error:
            self.release(source.origin.size)
            return replace(source, origin=None, kind="nothing", error=error)
        return replace(source, origin=_BufferedContents(source.origin, data, self.release))

    def release(self, size: int) -> None:
        """Count bytes that were used as free."""
        with self._changed:
            self._bytes -= size
            self._changed.notify_all()

    def close(self) -> None:
        """End the iteration, even while it waits."""
        self._is_closed = True
        self.release(0)


class _BufferedContents:
    """Contents of a member (``archives.contents.Contents``) that were read. They are read again after the first use."""

    is_repeatable = False

    def __init__(self, contents: Any, data: bytes, release: Callable[[int], object]) -> None:
        self.size: int = contents.size
        self._contents, self._data, self._release = contents, [data], release

    def read(self, limit: int) -> bytes:
        """Return the bytes. See ``Contents``."""
        try:
            data = self._data.pop()  # atomic
        except IndexError:
            again: bytes = self._contents.read(limit)
            return again
        self._release(self.size)
        return data


def _load(
    budget: DecodeBudget, source: Source, preprocessing: Preprocessing, preview: type[Preview] | None
) -> decoding.Loaded:
    return decoding.load(source, preprocessing, budget, preview)
