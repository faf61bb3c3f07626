"""Stream sources through decoding and inference: decoded by threads, computed in batches, returned in input order.

One thread walks the sources, ``threads`` threads decode, and the caller's thread runs the model at the same time. At
most ``window`` images are in flight, so memory use does not grow with the number of images or threads. An image that
fails is a result with an error, in its place.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from densenet_cli.errors import ImageError, UsageError
from densenet_cli.images import MAX_TIMEOUT, decoding
from densenet_cli.images.memory import DecodeBudget

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray
    from densenet_cli.images.preprocessing import Preprocessing
    from densenet_cli.images.previews import Preview
    from densenet_cli.images.sources import Source

    Decode = Callable[[Source, Preprocessing, type[Preview] | None], decoding.Loaded]

S = TypeVar("S")

BATCH_WAIT = 0.05
"""Seconds to wait for one more source before an incomplete batch is run, so that results of a slow source (a pipe) are
not held back."""

MAX_BATCHES_AHEAD = 4
"""Limit of decoding threads, in batches. More threads would only hold more images in memory."""


def available_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def create_decoder(decode_memory: int, isolate: bool, timeout: float | None) -> tuple[Decode, Callable[[], object]]:
    """Return a function that decodes images, and one that frees what it needs.

    Args:
        decode_memory: Memory limit for concurrent decoding in megabytes.
        isolate: Decode in worker processes.
        timeout: Time limit for decoding one image in seconds, or None. Implies ``isolate``.

    Raises:
        UsageError: A value is invalid, or the system has no worker processes.
        IsolationError: No worker process can be started.
    """
    if timeout is not None and not 0 < timeout <= MAX_TIMEOUT:
        raise UsageError(f"`timeout` must be above 0 and at most {MAX_TIMEOUT:,} seconds, not {timeout}.")
    budget = DecodeBudget(decode_memory)
    if not isolate and timeout is None:
        return lambda source, preprocessing, preview: decoding.load(
            source, preprocessing, budget, preview
        ), lambda: None
    if os.name != "posix":
        raise UsageError("`isolate` and `timeout` need a POSIX system such as Linux or macOS.")
    from densenet_cli.images.isolation import WorkerPool

    workers = WorkerPool(budget, timeout)
    return workers.load, workers.close


class Input(NamedTuple):
    """The model's input for one image.

    Attributes:
        pixels: Normalized pixels, float32 of shape (crops, height, width, channels).
        preview: A copy of the image to look at, if one was requested.
        notes: What the result should say about the image; see ``images.decoding.NOTES``.
    """

    pixels: FloatArray
    preview: Preview | None = None
    notes: tuple[str, ...] = ()


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
    """A source in flight. ``ready`` is set once ``loaded`` holds its input or its error."""

    __slots__ = ("index", "loaded", "ready", "source")

    def __init__(self, source: S, index: int) -> None:
        self.source = source
        self.index = index
        self.loaded: Any = None
        self.ready = threading.Event()


def stream(
    sources: Iterable[S],
    load: Callable[[S, int], Input],
    run: Callable[[FloatArray], dict[str, FloatArray]],
    *,
    batch_size: int,
    threads: int,
    prepare: Callable[[], None] = lambda: None,
) -> Iterator[Result[S]]:
    """Yield the result of each source, in order.

    Args:
        sources: Anything that ``load`` accepts; walked in a separate thread, not far ahead.
        load: Called with a source and its number (from 0) in a decoding thread. Raises ``ImageError``.
        run: Called in this thread with the concatenated crops of several images; returns a row per crop.
        batch_size: Maximum number of images per call of ``run``, at least 1.
        threads: Number of decoding threads, at least 1; at most ``MAX_BATCHES_AHEAD * batch_size`` are started.
        prepare: Called once while the first images are being decoded, to load whatever ``run`` needs.

    Raises:
        Whatever ``sources``, ``run``, or (except ``ImageError``) ``load`` raise.
    """
    decoders = min(threads, MAX_BATCHES_AHEAD * batch_size)
    feed = _Feed(sources, load, window=3 * batch_size + decoders, threads=decoders)
    try:
        prepare()
        while batch := feed.batch(batch_size):
            yield from _run(batch, run)
    finally:
        feed.stop()


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
        if isinstance(slot.loaded, ImageError):
            yield Result(slot.source, {}, slot.loaded)
        else:
            yield Result(slot.source, next(outputs), preview=slot.loaded.preview, notes=slot.loaded.notes)


class _Feed(Generic[S]):
    """The threads that walk and decode. ``batch`` returns what is decoded, in order."""

    def __init__(self, sources: Iterable[S], load: Callable[[S, int], Input], *, window: int, threads: int) -> None:
        self._sources, self._load = sources, load
        self._room = threading.Semaphore(window)
        self._ordered: SimpleQueue[_Slot[S] | BaseException | None] = SimpleQueue()
        self._work: SimpleQueue[_Slot[S] | None] = SimpleQueue()
        self._threads = threads
        self._stopped = False
        self._ended = False
        self._error: BaseException | None = None
        # Daemon threads: neither an image that takes minutes nor a silent pipe may delay the exit.
        for target in [self._walk, *[self._decode] * threads]:
            threading.Thread(target=target, daemon=True).start()

    def _walk(self) -> None:
        end: BaseException | None = None
        try:
            for index, source in enumerate(self._sources):
                self._room.acquire()
                if self._stopped:
                    break
                slot = _Slot(source, index)
                self._ordered.put(slot)
                self._work.put(slot)
        except BaseException as error:  # raised again in the caller's thread
            end = error
        self._ordered.put(end)
        for _ in range(self._threads):
            self._work.put(None)

    def _decode(self) -> None:
        while (slot := self._work.get()) is not None:
            if not self._stopped:
                try:
                    slot.loaded = self._load(slot.source, slot.index)
                except ImageError as error:
                    slot.loaded = error.with_traceback(None)  # its frames hold the slot: a reference cycle
                except BaseException as error:  # raised again in the caller's thread
                    slot.loaded = error
            slot.ready.set()

    def batch(self, size: int) -> list[_Slot[S]]:
        """Return up to ``size`` decoded slots, none at the end. An error is raised after everything before it."""
        slots: list[_Slot[S]] = []
        while len(slots) < size and not self._ended:
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
        """Let the threads end. Images that are not decoded yet are dropped."""
        self._stopped = True
        self._room.release()
