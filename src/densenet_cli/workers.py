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

CHUNK = 8
"""Cheap images that a thread decodes before it computes them, so that the processor's caches hold the code of both."""

PAUSE = 3e-3
"""Seconds in which results of cheap images are collected. The caller's thread would otherwise be woken for each."""

MAX_BREAK = 1024
"""Limit of the samples between two trials to work with one thread."""


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
        self._pace = _Pace()
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
                self._pace.add(len(slots), time.perf_counter() - times[0], time.thread_time() - times[1])
            for slot in slots:
                self._in_flight.discard(slot)
                slot.ready.release()
        self._pace.end()

    def _next(self) -> list[Slot[S]]:
        """Return the next source, or several if images are cheap, or none at the end."""
        first = self._walked.get()
        slots = [first] if first else []
        while slots and len(slots) < CHUNK and not self._pace.is_parallel:
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
    """

    def __init__(self) -> None:
        self.is_parallel = True
        self._parallel = threading.Event()
        self._parallel.set()
        self._ended = False
        self._images = 0
        self._elapsed = self._processor_time = 0.0
        self._skipped = 0
        """Samples to ignore before the next decision."""
        self._break = 8
        """Samples between the next two trials."""

    def wait_until_parallel(self) -> bool:
        """Wait until several threads may work. Return True."""
        return self._parallel.wait()

    def add(self, images: int, elapsed: float, processor_time: float) -> None:
        """Note the seconds that images took. Threads may overwrite each other's sums, which are only estimates."""
        self._images += images
        self._elapsed += elapsed
        self._processor_time += processor_time
        if self._images < SAMPLE or self._ended:
            return
        elapsed, processor_time = self._elapsed / self._images, self._processor_time / self._images
        self._images = 0
        self._elapsed = self._processor_time = 0.0
        if self._skipped:
            self._skipped -= 1
        elif self.is_parallel:
            if processor_time < 2 * CHEAP:  # passing on the lock takes about as long as the work
                self.is_parallel = False
                self._parallel.clear()
                self._skipped = 2  # other threads still finish their images
        elif processor_time > CHEAP or elapsed > 3 * CHEAP:  # the latter if it waits for files
            self.is_parallel = True
            self._parallel.set()
            self._skipped = self._break
            self._break = min(2 * self._break, MAX_BREAK)

    def end(self) -> None:
        """Wake all threads for good."""
        self._ended = True
        self.is_parallel = True
        self._parallel.set()
