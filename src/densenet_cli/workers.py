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
from densenet_cli.pace import Pace

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray
    from densenet_cli.images.decoding import Loaded

S = TypeVar("S")

BATCH_WAIT = 0.05
"""Seconds to wait for one more source before an incomplete batch is run, so that results of a slow source (a pipe) are
not held back."""

PAUSE = 3e-3
"""Seconds in which results of cheap images are collected. The caller's thread would otherwise be woken for each."""


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


def _get(queue: SimpleQueue[Slot[S] | None]) -> Slot[S] | None:
    """Return the next slot in a queue, or None if there is none now, or at the end, which every thread must see."""
    try:
        slot = queue.get_nowait()
    except Empty:
        return None
    if slot is None:
        queue.put(None)
    return slot


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
        self._pace = Pace(threads)
        self._stopped = False
        self._ended = False
        self._error: BaseException | None = None
        self.prepared = threading.Event()
        """Set when ``run`` may be called."""
        self._decoded: SimpleQueue[Slot[S] | None] = SimpleQueue()
        self._is_warm = threading.Event()
        self._first_run = threading.Lock()
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
                if self._run:
                    self._warm_up([], self._run)  # another thread may have decoded several
                break
            if not self._stopped:
                times = time.perf_counter(), time.thread_time()
                for slot in slots:
                    self._decode(slot)
                if self._run and not self._is_warm.is_set():
                    self._warm_up(slots, self._run)
                    continue
                if self._run:
                    self._compute(slots, self._run)
                seconds = time.perf_counter() - times[0], time.thread_time() - times[1]
                self._pace.add(number, len(slots), *seconds)
            self._finish(slots)
        self._pace.end()

    def _next(self) -> list[Slot[S]]:
        """Return the sources of the next chunk, none at the end."""
        first = self._walked.get()
        slots = [first] if first else []
        chunk = self._pace.chunk
        if self._pace.is_parallel:
            chunk = min(chunk, 1 + self._walked.qsize() // self._threads)  # leave as many to each of the others
        while slots and len(slots) < chunk and (slot := _get(self._walked)):
            slots.append(slot)
        return slots

    def _decode(self, slot: Slot[S]) -> None:
        try:
            slot.loaded = self._load(slot.source, slot.index)
        except ImageError as error:
            slot.loaded = error.with_traceback(None)  # its frames hold the slot: a reference cycle
        except BaseException as error:  # raised again in the caller's thread
            slot.loaded = error

    def _warm_up(self, slots: list[Slot[S]], run: Callable[..., dict[str, FloatArray]]) -> None:
        """Decode more sources until the engine is ready, and compute what was decoded, together with other threads.

        The first call of ``run`` may take long, so others only follow before its end if there is nothing to decode.
        """
        for slot in slots:
            self._decoded.put(slot)
        while not self._is_warm.is_set():
            if self.prepared.is_set() and self._first_run.acquire(blocking=False):
                self._compute_decoded(run)
                self._is_warm.set()
            elif more := _get(self._walked):
                self._decode(more)
                self._decoded.put(more)
            else:
                break
        self.prepared.wait()
        while self._compute_decoded(run):
            pass

    def _compute_decoded(self, run: Callable[..., dict[str, FloatArray]]) -> bool:
        """Compute the next image that was decoded in the meantime. Return whether there was one."""
        slot = _get(self._decoded)
        if slot:
            self._compute([slot], run)
            self._finish([slot])
        return slot is not None

    def _compute(self, slots: list[Slot[S]], run: Callable[..., dict[str, FloatArray]]) -> None:
        """Replace the pixels of slots by their outputs."""
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

    def _finish(self, slots: list[Slot[S]]) -> None:
        for slot in slots:
            self._in_flight.discard(slot)
            slot.ready.release()

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
            return self._end()
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
        return self._release(slots) if slots else self._end()

    def _release(self, slots: list[Slot[S]]) -> list[Slot[S]]:
        """Let as many sources be walked, and return the slots before the first unexpected error."""
        self._room.release(len(slots))
        for number, slot in enumerate(slots):
            if isinstance(slot.loaded, BaseException) and not isinstance(slot.loaded, ImageError):
                self._ended, self._error = True, slot.loaded
                self._pending.clear()
                return slots[:number] or self._end()
        return slots

    def _end(self) -> list[Slot[S]]:
        if self._error:
            raise self._error
        return []

    def stop(self) -> None:
        """Let the threads end. Images that are not decoded yet are dropped. Waits for running calls of ``run``."""
        self._stopped = True
        self._pace.end()
        self._room.release()
        self.prepared.set()
        self._is_warm.set()
        interrupt: KeyboardInterrupt | None = None
        while self._running:
            try:
                time.sleep(0.001)
            except KeyboardInterrupt as error:
                interrupt = error
        atexit.unregister(self.stop)
        if interrupt:
            raise interrupt
