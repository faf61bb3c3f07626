"""Prefetching: images behind URLs are downloaded ahead of their turn, so that latency does not limit throughput.

Memory is bounded: downloads that wait for their turn hold at most ``MEMORY`` bytes. A download that has not started
when its image is needed, or whose file is longer than expected, is made by the thread that needs it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from queue import SimpleQueue
from typing import Any, TypeVar

from densenet_cli.errors import ImageError
from densenet_cli.images.files import MAX_STREAM_BYTES
from densenet_cli.images.sources import Source

S = TypeVar("S", bound=Source)

MEMORY = 256 << 20
"""Bytes of files that were downloaded, or are being downloaded, and wait for their turn."""

AHEAD = 192
"""Sources that are walked ahead."""

DOWNLOADS = {"storage": 64, "server": 16}
"""Downloads at the same time from object storage, and from other servers, which expect fewer."""

_STORAGE = ("s3:", "s3a:", "gs:", "gcs:", "az:", "abfs:", "abfss:", "memory:")

EXPECTED_SIZE = 4 << 20
"""Bytes to which a download is limited at first. The limit doubles whenever a file is longer, and slowly falls."""


def prefetch(sources: Iterable[S]) -> Iterator[S]:
    """Yield the sources, in order. From the first one of kind url or remote on, those are downloaded ahead.

    Until there is one, no thread is started.
    """
    iterator = iter(sources)
    for source in iterator:
        if _is_remote(source):
            yield from _Prefetcher(chain([source], iterator)).sources()
            return
        yield source


def _is_remote(source: Source) -> bool:
    return source.kind in ("url", "remote") and isinstance(source.origin, str)


def download(source: Source, limit: int) -> bytes:
    """Return the contents of a source of kind url or remote, or more than ``limit`` bytes if they are longer.

    Raises:
        ImageError: The download failed.
    """
    if source.kind == "url":
        from densenet_cli.http import fetch

        return fetch(source.origin, max_bytes=limit)
    from densenet_cli.storage import read

    return read(source.origin, limit)


class Download:
    """The origin of a source whose file may have been downloaded ahead.

    Attributes:
        source: The source, with its URL.
        is_taken: Whether the bytes were returned, or are being downloaded by the thread that needs them.
    """

    def __init__(self, source: Source, memory: _Memory) -> None:
        self.source = source
        self.is_taken = False
        self._memory = memory
        self._is_started = False
        self._done = threading.Event()
        self._data: bytes | None = None
        self._error: ImageError | None = None

    def read(self, limit: int) -> bytes:
        """Return the contents, or more than ``limit`` bytes. Thread-safe; a second call downloads them again.

        Raises:
            ImageError: The download failed.
        """
        with self._memory.changed:
            is_awaited = self._is_started and not self.is_taken
            self.is_taken = True
            self._memory.changed.notify_all()  # a thread may wait for memory to download it
        if is_awaited:
            self._done.wait()
            data, error = self._data, self._error
            self._data = self._error = None
            if data is not None:
                self._memory.release(len(data))
                return data
            if error is not None:
                raise error
        return download(self.source, limit)

    def run(self) -> None:
        """Download the file, unless the thread that needs it has begun to do so."""
        limit = self._memory.reserve(self)
        if not limit:
            return
        data: bytes | None = None
        is_too_long = False
        try:
            data = download(self.source, limit)
            is_too_long = len(data) > limit
        except ImageError as error:
            is_too_long = _is_too_long(error)
            self._error = error.with_traceback(None)
        except Exception:
            data = None  # so that the thread that needs the file downloads it, and gets the error
        if is_too_long and limit < MAX_STREAM_BYTES:
            self._error = data = None
        self._memory.settle(limit, data, is_too_long=is_too_long)
        self._data = data
        self._done.set()

    def start(self) -> None:
        """Note that ``run`` downloads the file. Called with the lock of the memory."""
        self._is_started = True


def _is_too_long(error: ImageError) -> bool:
    from densenet_cli.transfer_errors import TooLargeError

    return isinstance(error.__cause__, TooLargeError)


class _Memory:
    """The memory for downloads, and the expected size of a file."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._used = 0
        self._expected = EXPECTED_SIZE
        self._is_stopped = False

    def reserve(self, wanted: Download) -> int:
        """Wait for memory for a file of the expected size, and return that. Return 0 if the download is not needed."""
        with self.changed:
            self.changed.wait_for(
                lambda: self._is_stopped or wanted.is_taken or self._used + self._expected <= MEMORY or not self._used
            )
            if self._is_stopped or wanted.is_taken:
                return 0
            wanted.start()
            self._used += self._expected
            return self._expected

    def settle(self, reserved: int, data: bytes | None, *, is_too_long: bool) -> None:
        """Replace what was reserved by the size of what was downloaded, and learn from it."""
        size = len(data) if data is not None else 0
        with self.changed:
            self._used += size - reserved
            if is_too_long:
                self._expected = min(max(self._expected, 2 * reserved), MAX_STREAM_BYTES)
            elif size < self._expected // 4:
                self._expected = max(EXPECTED_SIZE, self._expected - self._expected // 16)
            self.changed.notify_all()

    def release(self, size: int) -> None:
        """Release the memory of a file that is used now."""
        with self.changed:
            self._used -= size
            self.changed.notify_all()

    def stop(self) -> None:
        """Let all threads that wait for memory end."""
        with self.changed:
            self._is_stopped = True
            self.changed.notify_all()


class _Prefetcher:
    """A thread that walks sources, and threads that download them."""

    def __init__(self, sources: Iterable[Any]) -> None:
        self._sources = sources
        self._memory = _Memory()
        self._room = threading.Semaphore(AHEAD)
        self._ordered: SimpleQueue[Source | BaseException | None] = SimpleQueue()
        self._queues: dict[str, SimpleQueue[Download | None]] = {kind: SimpleQueue() for kind in DOWNLOADS}
        self._threads = dict.fromkeys(DOWNLOADS, 0)
        self._is_stopped = False
        # Daemon threads: neither a slow server nor a silent pipe may delay the exit.
        threading.Thread(target=self._walk, daemon=True).start()

    def sources(self) -> Iterator[Any]:
        """Yield the sources. An error of the walk is raised after those before it."""
        try:
            while isinstance(item := self._ordered.get(), Source):
                yield item
                self._room.release()
            if item is not None:
                raise item
        finally:
            self._stop()

    def _walk(self) -> None:
        end: BaseException | None = None
        try:
            for source in self._sources:
                self._room.acquire()
                if self._is_stopped:
                    break
                if _is_remote(source):
                    ahead = Download(source, self._memory)
                    self._start("storage" if source.origin.lower().startswith(_STORAGE) else "server", ahead)
                    source = replace(source, kind="remote", origin=ahead)
                self._ordered.put(source)
        except BaseException as error:  # raised again in the caller's thread
            end = error
        self._ordered.put(end)

    def _start(self, kind: str, ahead: Download) -> None:
        queue = self._queues[kind]
        if self._threads[kind] < DOWNLOADS[kind]:
            self._threads[kind] += 1
            threading.Thread(target=self._download_all, args=(queue,), daemon=True).start()
        queue.put(ahead)

    def _download_all(self, queue: SimpleQueue[Download | None]) -> None:
        while not self._is_stopped and (ahead := queue.get()):
            ahead.run()

    def _stop(self) -> None:
        """Let the threads end. Downloads that are needed after all are made by the threads that need them."""
        self._is_stopped = True
        self._room.release()
        self._memory.stop()
        for kind, count in self._threads.items():
            for _ in range(count):
                self._queues[kind].put(None)
