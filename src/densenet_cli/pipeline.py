"""Sources to outputs, streaming: decoded by threads, computed in batches, given back in input order.

Three kinds of threads: one walks the sources, ``threads`` decode, and the caller's runs the engine while the
others go on. At most ``window`` images are between the first and the last, so memory stays flat however
many images and threads there are. An image that fails travels on as its error, in its place.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from densenet_cli.errors import ImageError

if TYPE_CHECKING:
    import numpy as np

    FloatArray = np.ndarray[Any, np.dtype[np.float32]]

S = TypeVar("S")

PATIENCE = 0.05
"""Seconds to wait for one more source before a batch that isn't full is run: a slow writer at the other end
of a pipe sees its results without having to close it."""

AHEAD = 4
"""Batches' worth of images that threads may be busy with beside those that wait: with more threads, some idle."""


class _Slot(Generic[S]):
    """One source on its way, and what became of it."""

    __slots__ = ("ready", "result", "source")

    def __init__(self, source: S) -> None:
        self.source = source
        self.result: Any = None
        self.ready = threading.Event()


def stream(
    sources: Iterable[S],
    load: Callable[[S], FloatArray],
    run: Callable[[FloatArray], tuple[FloatArray, ...]],
    *,
    batch_size: int,
    threads: int,
    prepare: Callable[[], None] = lambda: None,
) -> Iterator[tuple[S, tuple[FloatArray, ...] | ImageError]]:
    """Each source with its outputs, in order.

    Args:
        sources: of any kind that ``load`` knows; walked in a thread of its own, and not far ahead.
        load: a source to what ``run`` takes, (crops, height, width, 3), in a decoding thread; raises ``ImageError``.
        run: pixels of several images, stacked, to arrays with a row for each of their crops; in the caller's thread.
        batch_size: images that ``run`` gets at once, at least 1.
        threads: decoding threads, at least 1; of many, ``AHEAD`` times ``batch_size`` at most are started.
        prepare: called once, while the first images are being decoded: whatever ``run`` needs to be loaded.

    Yields:
        The source, and either its rows of each array, (crops, ...), or the error that it ended in.

    Raises:
        Whatever ``sources``, ``run`` or (other than ``ImageError``) ``load`` raise.
    """
    busy = min(threads, AHEAD * batch_size)
    feed = _Feed(sources, load, window=3 * batch_size + busy, threads=busy)
    try:
        prepare()
        while batch := feed.batch(batch_size):
            outputs = _run([slot.result for slot in batch], run)
            for slot, output in zip(batch, outputs, strict=True):
                yield slot.source, output
    finally:
        feed.stop()


def _run(
    results: list[FloatArray | ImageError], run: Callable[[FloatArray], tuple[FloatArray, ...]]
) -> list[tuple[FloatArray, ...] | ImageError]:
    """Outputs in the places of pixels; errors stay where they are."""
    import numpy as np

    pixels = [result for result in results if not isinstance(result, ImageError)]
    if not pixels:
        return [result for result in results if isinstance(result, ImageError)]
    ends = np.cumsum([len(crops) for crops in pixels])[:-1]
    parts = zip(*(np.split(rows, ends) for rows in run(np.concatenate(pixels))), strict=True)
    return [result if isinstance(result, ImageError) else next(parts) for result in results]


class _Feed(Generic[S]):
    """The threads in front of the engine. ``batch`` takes what they have done, in order."""

    def __init__(self, sources: Iterable[S], load: Callable[[S], FloatArray], *, window: int, threads: int) -> None:
        self._sources, self._load = sources, load
        self._room = threading.Semaphore(window)
        self._ordered: SimpleQueue[_Slot[S] | BaseException | None] = SimpleQueue()
        self._work: SimpleQueue[_Slot[S] | None] = SimpleQueue()
        self._threads = threads
        self._stopped = False
        self._ended = False
        self._error: BaseException | None = None
        # Daemons: neither an image that takes minutes nor a pipe that stays silent may hold up the exit.
        for target in [self._walk, *[self._decode] * threads]:
            threading.Thread(target=target, daemon=True).start()

    def _walk(self) -> None:
        end: BaseException | None = None
        try:
            for source in self._sources:
                self._room.acquire()
                if self._stopped:
                    break
                slot = _Slot(source)
                self._ordered.put(slot)
                self._work.put(slot)
        except BaseException as error:  # goes on in the caller's thread
            end = error
        self._ordered.put(end)
        for _ in range(self._threads):
            self._work.put(None)

    def _decode(self) -> None:
        while (slot := self._work.get()) is not None:
            if not self._stopped:
                try:
                    slot.result = self._load(slot.source)
                except ImageError as error:
                    slot.result = error.with_traceback(None)  # whose frames hold the slot: a cycle
                except BaseException as error:  # an unexpected one is raised in the caller's thread
                    slot.result = error
            slot.ready.set()

    def batch(self, size: int) -> list[_Slot[S]]:
        """The next up to ``size`` slots, decoded; none at the end. An error comes behind all done before it."""
        slots: list[_Slot[S]] = []
        while len(slots) < size and not self._ended:
            try:
                item = self._ordered.get(timeout=PATIENCE if slots else None)
            except Empty:
                break
            if not isinstance(item, _Slot):
                self._ended, self._error = True, item
                break
            item.ready.wait()
            self._room.release()
            if isinstance(item.result, BaseException) and not isinstance(item.result, ImageError):
                self._ended, self._error = True, item.result
                break
            slots.append(item)
        if not slots and self._error:
            raise self._error
        return slots

    def stop(self) -> None:
        """Let the threads end; what is not decoded yet stays undone."""
        self._stopped = True
        self._room.release()
