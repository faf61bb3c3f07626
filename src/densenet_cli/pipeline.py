"""Stream sources through decoding and inference: decoded by threads, computed in batches, returned in input order.

One thread walks the sources, and ``threads`` threads decode them. With an engine that several threads can call at the
same time, each of these threads also computes the image that it has decoded, so that nothing waits for a batch. With
others, the caller's thread computes batches. At most ``window`` images are in flight, so memory use does not grow with
the number of images. An image that fails is a result with an error, in its place.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from densenet_cli.errors import ImageError

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray
    from densenet_cli.images.decoding import Loaded
    from densenet_cli.images.previews import Preview

S = TypeVar("S")

BATCH_WAIT = 0.05
"""Seconds to wait for one more source before an incomplete batch is run, so that results of a slow source (a pipe) are
not held back."""

MAX_BATCHES_AHEAD = 4
"""Limit of decoding threads, in batches. More threads would only hold more images in memory."""

WINDOW_PER_THREAD = 4
"""Images in flight per thread that decodes and computes: finished ones wait here for an earlier one that takes long."""


class Result(NamedTuple, Generic[S]):
    """The outcome of one source: outputs or an error.

    Attributes:
        source: The source.
        outputs: Name -> array with a row per crop (``Classifier.stream`` averages them); empty if there is an error.
        error: Why there are no outputs, or None.
        preview: The preview, if one was requested and the image could be decoded.
        notes: What there is to say about the image; see ``images.decoding.NOTES``.
    """

    source: S
    outputs: dict[str, FloatArray]
    error: ImageError | None = None
    preview: Preview | None = None
    notes: tuple[str, ...] = ()


class _Slot(Generic[S]):
    """A source in flight. ``ready`` is set once ``loaded`` holds its input, its result, or its error."""

    __slots__ = ("index", "loaded", "ready", "source")

    def __init__(self, source: S, index: int) -> None:
        self.source = source
        self.index = index
        self.loaded: Any = None
        self.ready = threading.Event()


def stream(
    sources: Iterable[S],
    load: Callable[[S, int], Loaded],
    run: Callable[..., dict[str, FloatArray]],
    *,
    batch_size: int,
    threads: int,
    prepare: Callable[[], None] = lambda: None,
    concurrent: bool = False,
) -> Iterator[Result[S]]:
    """Yield the result of each source, in order.

    Args:
        sources: Anything that ``load`` accepts; walked in a separate thread, not far ahead.
        load: Called with a source and its number (from 0) in a worker thread. Raises ``ImageError``.
        run: Called with pixels of shape (n, height, width, channels); returns name -> array of n rows. By default,
            called in this thread with the concatenated crops of several images. If ``concurrent``, called in the worker
            threads with the crops of one image each, and with ``alone``: whether no other image is in flight.
        batch_size: Maximum number of images per call of ``run``, at least 1. Not used if ``concurrent``.
        threads: Number of worker threads, at least 1. Without ``concurrent``, at most
            ``MAX_BATCHES_AHEAD * batch_size`` are started.
        prepare: Called once while the first images are being decoded, to load whatever ``run`` needs.
        concurrent: Whether several threads may call ``run`` at the same time.

    Raises:
        Whatever ``sources``, ``run``, or (except ``ImageError``) ``load`` raise.
    """
    if concurrent:
        workers = _Workers(sources, load, run, window=WINDOW_PER_THREAD * threads, threads=threads)
    else:
        decoders = min(threads, MAX_BATCHES_AHEAD * batch_size)
        workers = _Workers(sources, load, None, window=3 * batch_size + decoders, threads=decoders)
    try:
        prepare()
        workers.prepared.set()
        while slots := workers.take(1 if concurrent else batch_size):
            yield from map(_result, slots) if concurrent else _run(slots, run)
    finally:
        workers.stop()


def _run(batch: list[_Slot[S]], run: Callable[[FloatArray], dict[str, FloatArray]]) -> Iterator[Result[S]]:
    """Run a batch and split its outputs by image."""
    import numpy as np

    inputs = [slot.loaded.pixels for slot in batch if not isinstance(slot.loaded, ImageError)]
    outputs: Iterator[dict[str, FloatArray]] = iter(())
    if inputs:
        ends = np.cumsum([len(crops) for crops in inputs])[:-1]
        split = {name: np.split(rows, ends) for name, rows in run(np.concatenate(inputs)).items()}
        outputs = (dict(zip(split, arrays, strict=True)) for arrays in zip(*split.values(), strict=True))
    for slot in batch:
        if not isinstance(slot.loaded, ImageError):
            slot.loaded = _computed(slot, slot.loaded, next(outputs))
        yield _result(slot)


def _computed(slot: _Slot[S], loaded: Loaded, outputs: dict[str, FloatArray]) -> Result[S]:
    return Result(slot.source, outputs, preview=loaded.preview, notes=loaded.notes)


def _result(slot: _Slot[S]) -> Result[S]:
    result: Result[S] = slot.loaded if isinstance(slot.loaded, Result) else Result(slot.source, {}, slot.loaded)
    return result


class _Workers(Generic[S]):
    """The threads that walk, decode, and with ``run`` also compute. ``take`` returns what is ready, in order."""

    def __init__(
        self,
        sources: Iterable[S],
        load: Callable[[S, int], Loaded],
        run: Callable[..., dict[str, FloatArray]] | None,
        *,
        window: int,
        threads: int,
    ) -> None:
        self._sources, self._load, self._run = sources, load, run
        self._room = threading.Semaphore(window)
        self._ordered: SimpleQueue[_Slot[S] | BaseException | None] = SimpleQueue()
        self._work: SimpleQueue[_Slot[S] | None] = SimpleQueue()
        self._in_flight: set[_Slot[S]] = set()
        self._running: set[_Slot[S]] = set()
        self._threads = threads
        self._stopped = False
        self._ended = False
        self._error: BaseException | None = None
        self.prepared = threading.Event()
        """Set when ``run`` may be called."""
        # At exit, Python ends threads when they return from C code, which crashes in C++ code such as an engine's.
        atexit.register(self.stop)
        # Daemon threads: neither an image that takes minutes nor a silent pipe may delay the exit.
        for target in [self._walk, *[self._process_all] * threads]:
            threading.Thread(target=target, daemon=True).start()

    def _walk(self) -> None:
        end: BaseException | None = None
        try:
            for index, source in enumerate(self._sources):
                self._room.acquire()
                if self._stopped:
                    break
                slot = _Slot(source, index)
                self._in_flight.add(slot)
                self._ordered.put(slot)
                self._work.put(slot)
        except BaseException as error:  # raised again in the caller's thread
            end = error
        self._ordered.put(end)
        for _ in range(self._threads):
            self._work.put(None)

    def _process_all(self) -> None:
        while (slot := self._work.get()) is not None:
            if not self._stopped:
                try:
                    slot.loaded = self._process(slot)
                except ImageError as error:
                    slot.loaded = error.with_traceback(None)  # its frames hold the slot: a reference cycle
                except BaseException as error:  # raised again in the caller's thread
                    slot.loaded = error
            self._in_flight.discard(slot)
            slot.ready.set()

    def _process(self, slot: _Slot[S]) -> Loaded | Result[S] | None:
        """Return the input of the network, or with ``run`` its result."""
        loaded = self._load(slot.source, slot.index)
        if self._run is None:
            return loaded
        self.prepared.wait()
        self._running.add(slot)
        try:
            if self._stopped:  # checked after the addition, so that stop() waits for every call of run
                return None
            return _computed(slot, loaded, self._run(loaded.pixels, alone=len(self._in_flight) == 1))
        finally:
            self._running.discard(slot)

    def take(self, count: int) -> list[_Slot[S]]:
        """Return up to ``count`` slots, none at the end. An error is raised after everything before it."""
        slots: list[_Slot[S]] = []
        while len(slots) < count and not self._ended:
            try:
                item = self._ordered.get(timeout=BATCH_WAIT if slots else None)
            except Empty:
                break
            if not isinstance(item, _Slot):
                self._ended, self._error = True, item
                break
            item.ready.wait()
            self._room.release()
            if isinstance(item.loaded, BaseException) and not isinstance(item.loaded, ImageError):
                self._ended, self._error = True, item.loaded
                break
            slots.append(item)
        if not slots and self._error:
            raise self._error
        return slots

    def stop(self) -> None:
        """Let the threads end. Images that are not decoded yet are dropped. Waits for running calls of ``run``."""
        self._stopped = True
        self._room.release()
        self.prepared.set()
        interrupt: KeyboardInterrupt | None = None
        while self._running:
            try:
                time.sleep(0.001)
            except KeyboardInterrupt as error:
                interrupt = error
        atexit.unregister(self.stop)
        if interrupt:
            raise interrupt
