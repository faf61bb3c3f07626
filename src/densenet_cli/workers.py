"""Threads that take sources in turn, decode them, and compute them if the engine allows it."""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from densenet_cli.errors import ImageError

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray
    from densenet_cli.images.decoding import Loaded

S = TypeVar("S")

BATCH_WAIT = 0.05
"""Seconds to wait for one more source before an incomplete batch is run, so that results of a slow source (a pipe) are
not held back."""

CHEAP = 0.6e-3
"""Processor time in seconds below which images are cheap: Python's lock lets only one thread work on them, and several
would spend their time passing it on."""

SAMPLE = 32
"""Images after which the pipeline decides again whether they are cheap."""

MAX_CHUNK = 8
"""Images that a thread decodes before it computes them. Decoding and computing in turn is slower, because each leaves
the processor's caches and clock rate in a state that is bad for the other."""

CHUNK_SECONDS = 0.16
"""Limit of the time that a thread spends on a chunk, so that no thread has much to do when the others have finished."""

PAUSE = 3e-3
"""Seconds in which results of cheap images are collected. The caller's thread would otherwise be woken for each."""

MAX_BREAK = 1024
"""Limit of the samples between two trials to work with one thread."""

LOCK_WAIT = 4
"""Times its own processor time, and that of every other thread, that an image takes at most because of Python's lock.
An image that takes longer waits for something else, such as a file server, and several threads can wait together."""


class Slot(Generic[S]):
    """A source in flight, with its pixels or its error in ``loaded``, and its ``outputs`` if it is computed.

    The lock ``ready`` is released at the end.
    """

    __slots__ = ("index", "loaded", "outputs", "ready", "source")

    def __init__(self, source: S, index: int) -> None:
        self.source = source
        self.index = index
        self.loaded: Any = None
        self.outputs: dict[str, FloatArray] = {}
        self.ready = threading.Lock()  # an Event takes ten times as long to create
        self.ready.acquire()

    def wait(self) -> None:
        """Wait until it is ready."""
        self.ready.acquire()
        self.ready.release()


class Workers(Generic[S]):
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
        self._threads = threads
        self._room = threading.Semaphore(window)
        self._ordered: SimpleQueue[Slot[S] | BaseException | None] = SimpleQueue()
        self._walked: SimpleQueue[Slot[S] | None] = SimpleQueue()
        self._pending: deque[Slot[S]] = deque()
        self._in_flight: set[Slot[S]] = set()
        self._running: set[threading.Thread] = set()
        self._pace = _Pace(threads)
        self._stopped = False
        self._ended = False
        self._error: BaseException | None = None
        self.prepared = threading.Event()
        """Set when ``run`` may be called."""
        # At exit, Python ends threads when they return from C code, which crashes in C++ code such as an engine's.
        atexit.register(self.stop)
        # Daemon threads: neither an image that takes minutes nor a silent pipe may delay the exit.
        threading.Thread(target=self._walk, daemon=True).start()
        for number in range(threads):
            threading.Thread(target=self._work, args=(number,), daemon=True).start()

    def _walk(self) -> None:
        end: BaseException | None = None
        try:
            for index, source in enumerate(self._sources):
                self._room.acquire()
                if self._stopped:
                    break
                slot = Slot(source, index)
                self._in_flight.add(slot)
                self._ordered.put(slot)
                self._walked.put(slot)
        except BaseException as error:  # raised again in the caller's thread
            end = error
        self._ordered.put(end)
        for _ in range(self._threads):
            self._walked.put(None)

    def _work(self, number: int) -> None:
        """Process sources until there are no more. Thread 0 also works while others would only slow it down."""
        while number == 0 or self._pace.wait_until_parallel():
            slots = self._next()
            if not slots:
                break
            if not self._stopped:
                times = time.perf_counter(), time.thread_time()
                for slot in slots:
                    self._decode(slot)
                if self._run:
                    self._compute(slots, self._run)
                seconds = time.perf_counter() - times[0], time.thread_time() - times[1]
                self._pace.add(number, len(slots), *seconds)
            for slot in slots:
                self._in_flight.discard(slot)
                slot.ready.release()
        self._pace.end()

    def _next(self) -> list[Slot[S]]:
        """Return the sources of the next chunk, none at the end."""
        first = self._walked.get()
        slots = [first] if first else []
        chunk = self._pace.chunk
        if self._pace.is_parallel:
            chunk = min(chunk, 1 + self._walked.qsize() // self._threads)  # leave as many to each of the others
        while slots and len(slots) < chunk:
            try:
                slot = self._walked.get_nowait()
            except Empty:
                break
            if slot is None:  # the end, which every thread must see
                self._walked.put(None)
                break
            slots.append(slot)
        return slots

    def _decode(self, slot: Slot[S]) -> None:
        try:
            slot.loaded = self._load(slot.source, slot.index)
        except ImageError as error:
            slot.loaded = error.with_traceback(None)  # its frames hold the slot: a reference cycle
        except BaseException as error:  # raised again in the caller's thread
            slot.loaded = error

    def _compute(self, slots: list[Slot[S]], run: Callable[..., dict[str, FloatArray]]) -> None:
        """Replace the pixels of slots by their outputs."""
        self.prepared.wait()
        thread = threading.current_thread()
        self._running.add(thread)
        try:
            for slot in slots:
                # Checked after the addition, so that stop() waits for every call of run.
                if not self._stopped and not isinstance(slot.loaded, BaseException):
                    alone = len(self._in_flight) == 1 and self._pace.is_parallel
                    slot.outputs = run(slot.loaded.pixels, alone=alone)
                    slot.loaded = slot.loaded._replace(pixels=None)  # frees the memory
        except BaseException as error:  # raised again in the caller's thread
            slot.loaded = error
        finally:
            self._running.discard(thread)

    def take(self) -> list[Slot[S]]:
        """Return the next slots that are ready, at least one, and none at the end.

        An error is raised after everything before it.
        """
        if not self._pace.is_parallel:
            time.sleep(PAUSE)
        while not self._ended:
            try:
                item = self._ordered.get(block=not self._pending)
            except Empty:
                break
            if isinstance(item, Slot):
                self._pending.append(item)
            else:
                self._ended, self._error = True, item
        if not self._pending:
            return self._finish()
        self._pending[0].wait()
        slots: list[Slot[S]] = []
        while self._pending and not self._pending[0].ready.locked():
            slots.append(self._pending.popleft())
        return self._release(slots)

    def take_batch(self, count: int) -> list[Slot[S]]:
        """Return the next ``count`` slots, fewer if the sources are slow, and none at the end."""
        slots: list[Slot[S]] = []
        while len(slots) < count and not self._ended:
            try:
                item = self._ordered.get(timeout=BATCH_WAIT if slots else None)
            except Empty:
                break
            if isinstance(item, Slot):
                item.wait()
                slots.append(item)
            else:
                self._ended, self._error = True, item
        return self._release(slots) if slots else self._finish()

    def _release(self, slots: list[Slot[S]]) -> list[Slot[S]]:
        """Let as many sources be walked, and return the slots before the first unexpected error."""
        self._room.release(len(slots))
        for number, slot in enumerate(slots):
            if isinstance(slot.loaded, BaseException) and not isinstance(slot.loaded, ImageError):
                self._ended, self._error = True, slot.loaded
                self._pending.clear()
                return slots[:number] or self._finish()
        return slots

    def _finish(self) -> list[Slot[S]]:
        if self._error:
            raise self._error
        return []

    def stop(self) -> None:
        """Let the threads end. Images that are not decoded yet are dropped. Waits for running calls of ``run``."""
        self._stopped = True
        self._pace.end()
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


class _Pace:
    """Decides how many threads work: all of them, or only one if images are cheap (see ``CHEAP``).

    Whether one thread is enough can only be seen while it works alone, so it is tried, and seldom again if it was not.

    Args:
        threads: Number of threads.

    Attributes:
        is_parallel: Whether all threads work.
        chunk: Number of images that a thread takes at a time.
    """

    def __init__(self, threads: int) -> None:
        self.is_parallel = True
        self.chunk = 1
        self._max_lock_wait = LOCK_WAIT * threads
        self._parallel = threading.Event()
        self._parallel.set()
        self._ended = False
        self._lock = threading.Lock()
        self._images = 0
        self._elapsed = self._processor_time = 0.0
        self._skipped = 0
        """Samples to ignore before the next trial."""
        self._break = 8
        """Samples between the next two trials."""

    def wait_until_parallel(self) -> bool:
        """Wait until several threads may work. Return True."""
        return self._parallel.wait()

    def add(self, thread: int, images: int, elapsed: float, processor_time: float) -> None:
        """Note the seconds that images took in a thread, and decide how to go on after a sample."""
        with self._lock:
            if self._ended or (thread and not self.is_parallel):  # an image from before the trial
                return
            self._images += images
            self._elapsed += elapsed
            self._processor_time += processor_time
            if self.is_parallel:
                if self._images >= SAMPLE:
                    self._decide_to_try()
            elif self._elapsed > SAMPLE * 3 * CHEAP or self._processor_time > SAMPLE * CHEAP:
                self._start_parallel()  # however many images: a trial must not take long
            elif self._images >= SAMPLE:
                self.chunk = MAX_CHUNK
                self._reset()

    def _decide_to_try(self) -> None:
        """Let one thread work alone if that may be enough."""
        elapsed, processor_time = self._elapsed / self._images, self._processor_time / self._images
        self.chunk = max(1, min(MAX_CHUNK, int(CHUNK_SECONDS / elapsed)))
        waits = self._elapsed > self._max_lock_wait * self._processor_time
        self._reset()
        if self._skipped:
            self._skipped -= 1
        elif processor_time < 2 * CHEAP and not waits:  # passing on the lock takes about as long as the work
            self.is_parallel = False
            self.chunk = 1
            self._parallel.clear()

    def _start_parallel(self) -> None:
        self.is_parallel = True
        self.chunk = 1
        self._parallel.set()
        self._skipped = self._break
        self._break = min(2 * self._break, MAX_BREAK)
        self._reset()

    def _reset(self) -> None:
        self._images = 0
        self._elapsed = self._processor_time = 0.0

    def end(self) -> None:
        """Wake all threads for good."""
        with self._lock:
            self._ended = True
            self.is_parallel = True
            self.chunk = 1
            self._parallel.set()
