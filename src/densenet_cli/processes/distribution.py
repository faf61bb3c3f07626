"""Distribution of a stream of sources over processes, and their results in the order of the sources.

Processes get small groups of sources in turn, and their results are read in the same turn, so the order needs no
bookkeeping. At most ``_max_in_flight`` sources are in flight. Only paths, URLs, and where a member of an archive is are
sent. Other images (standard input, Python objects, frames of animations, members of compressed tar files) are loaded
here, and the processes get their pixels.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from densenet_cli.errors import ImageError
from densenet_cli.images.archives.contents import to_json as contents_to_json
from densenet_cli.images.reading import Animation
from densenet_cli.images.sources import Source
from densenet_cli.pipeline import WINDOW, Result
from densenet_cli.workers import BATCH_WAIT

if TYPE_CHECKING:
    from densenet_cli.images.decoding import Loaded
    from densenet_cli.processes.worker import WorkerProcess

S = TypeVar("S", bound=Source)

GROUP_SIZE = 16
"""Sources per message."""

MAX_GROUP_BYTES = 4 << 20
"""Limit of the pixels in a message, which one image can exceed."""


class _Item(Generic[S]):
    """A source, and if it is loaded in this process, its pixels or error in ``loaded`` when ``ready`` is released."""

    __slots__ = ("index", "loaded", "ready", "source")

    def __init__(self, source: S, index: int) -> None:
        self.source, self.index = source, index
        self.loaded: Any = None
        self.ready: threading.Lock | None = None


class Distribution(Generic[S]):
    """Sends sources to processes and yields their results.

    Args:
        workers: The processes, after their ``begin``.
        sources: The sources, walked in a thread.
        first_index: The number of the first source.
        load: Loads a source in this process; called with a source and its number.
        needs_preview: Returns whether the source with a number needs a preview.
        folder: The folder in which the processes were started, or None if it is unknown.
    """

    def __init__(
        self,
        workers: Sequence[WorkerProcess],
        sources: Iterable[S],
        first_index: int,
        load: Callable[[S, int], Loaded],
        needs_preview: Callable[[int], bool],
        folder: str | None,
    ) -> None:
        self._workers, self._sources, self._first_index = workers, sources, first_index
        self._load, self._needs_preview, self._folder = load, needs_preview, folder
        # What a process has in flight: its sources waiting for a thread, its window, and a message in each direction.
        self._max_in_flight = sum(WINDOW + 4 * worker.threads + 2 * GROUP_SIZE for worker in workers)
        self._room = threading.Semaphore(self._max_in_flight)
        self._walked: SimpleQueue[_Item[S] | BaseException | None] = SimpleQueue()
        self._to_load: SimpleQueue[_Item[S] | None] = SimpleQueue()
        self._ordered: SimpleQueue[tuple[WorkerProcess, list[_Item[S]]] | BaseException | None] = SimpleQueue()
        self._loaders = 0
        self._is_stopped = False
        self._is_walked = False
        self._error: BaseException | None = None
        for target in (self._walk, self._send_all):
            threading.Thread(target=target, daemon=True).start()

    def __iter__(self) -> Iterator[Result[S]]:
        """Yield the results. An error is raised after everything before it."""
        while isinstance(group := self._ordered.get(), tuple):
            worker, items = group
            for item in items:
                if isinstance(item.loaded, ImageError):
                    result = Result(item.source, {}, item.loaded)
                elif isinstance(item.loaded, BaseException):
                    raise item.loaded
                else:
                    result = Result(item.source, *worker.next_outcome())
                    if item.loaded:
                        result = result._replace(preview=item.loaded.preview, notes=item.loaded.notes)
                self._room.release()
                yield result
        if group is not None:
            raise group

    def stop(self) -> None:
        """Let the threads end."""
        self._is_stopped = True
        self._room.release()
        self._walked.put(None)
        for _ in range(self._loaders):
            self._to_load.put(None)

    def _walk(self) -> None:
        end: BaseException | None = None
        try:
            for index, source in enumerate(self._sources, self._first_index):
                self._room.acquire()
                if self._is_stopped:
                    break
                item = _Item(source, index)
                if source.kind == "nothing":
                    item.loaded = source.error
                elif not _can_be_sent(source):
                    self._load_in_thread(item)
                self._walked.put(item)
        except BaseException as error:  # raised again in the caller's thread
            end = error
        self._walked.put(end)

    def _load_in_thread(self, item: _Item[S]) -> None:
        item.ready = threading.Lock()
        item.ready.acquire()
        self._to_load.put(item)
        if self._loaders < sum(worker.threads for worker in self._workers):
            self._loaders += 1
            threading.Thread(target=self._load_all, daemon=True).start()

    def _load_all(self) -> None:
        while not self._is_stopped and (item := self._to_load.get()):
            try:
                item.loaded = self._load(item.source, item.index)
            except ImageError as error:
                item.loaded = error.with_traceback(None)
            except BaseException as error:  # raised again in the caller's thread
                item.loaded = error
            assert item.ready
            item.ready.release()

    def _send_all(self) -> None:
        for worker in cycle(self._workers):
            items = self._next_group()
            if items:
                self._ordered.put((worker, items))
                worker.send(*self._encode(items))
            if self._is_walked or self._is_stopped:
                self._ordered.put(self._error)
                break

    def _next_group(self) -> list[_Item[S]]:
        """Return the next sources, fewer if they come slowly."""
        items: list[_Item[S]] = []
        deadline = 0.0
        size = 0
        while len(items) < GROUP_SIZE and size < MAX_GROUP_BYTES:
            try:
                item = self._walked.get(timeout=max(0, deadline - time.monotonic()) if items else None)
            except Empty:
                break
            if not isinstance(item, _Item):
                self._is_walked, self._error = True, item
                break
            deadline = deadline or time.monotonic() + BATCH_WAIT
            if item.ready:
                while not item.ready.acquire(timeout=1):
                    if self._is_stopped:
                        return []
                if not isinstance(item.loaded, BaseException):
                    size += item.loaded.pixels.nbytes
            items.append(item)
        return items

    def _encode(self, items: list[_Item[S]]) -> tuple[dict[str, Any], bytes]:
        """Return a message with the sources. Pixels that it contains are not kept here."""
        folder = current_folder()
        entries: list[tuple[Any, ...]] = []
        pixels = []
        for item in items:
            if isinstance(item.loaded, BaseException):
                continue
            source = item.source
            if item.loaded:
                pixels.append(item.loaded.pixels.tobytes())
                item.loaded = item.loaded._replace(pixels=None)
                entries.append(("array", None, None, None, False))
                continue
            origin = source.origin
            if source.kind == "member":
                origin = contents_to_json(origin, folder if folder != self._folder else None)
            if source.kind == "path" and folder != self._folder and not origin.startswith("/"):
                origin = f"{folder}/{origin}"  # the processes are still in the folder of their start
            entries.append((source.kind, origin, source.page, source.location, self._needs_preview(item.index)))
        return {"sources": entries}, b"".join(pixels)


def _can_be_sent(source: Source) -> bool:
    """Return whether a process can load a source by itself."""
    if source.kind == "member":
        return contents_to_json(source.origin) is not None
    if not isinstance(source.origin, str):  # downloaded by this process
        return False
    return source.kind in ("path", "url", "remote") and not isinstance(source.location, Animation)


def current_folder() -> str | None:
    """Return the current folder, or None if it was deleted or is inaccessible."""
    try:
        return str(Path.cwd())
    except OSError:
        return None
