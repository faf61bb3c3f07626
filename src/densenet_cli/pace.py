"""How many threads of the pipeline work, and how many images each takes at a time."""

from __future__ import annotations

import threading

CHEAP = 0.6e-3
"""Processor time in seconds below which images are cheap: the GIL lets only one thread work on them, and several would
spend their time passing it on."""

SAMPLE = 32
"""Images after which the pipeline decides again whether they are cheap."""

MAX_CHUNK = 8
"""Images that a thread decodes before it computes them. Decoding and computing in turn is slower, because each leaves
the processor's caches and clock rate in a state that is bad for the other."""

CHUNK_SECONDS = 0.16
"""Limit of the time that a thread spends on a chunk, so that no thread has much to do when the others have finished."""

MAX_BREAK = 1024
"""Limit of the samples between two trials to work with one thread."""

LOCK_WAIT = 4
"""Times its own processor time, and that of every other thread, that an image takes at most because of the GIL.
An image that takes longer waits for something else, such as a file server, and several threads can wait together."""


class Pace:
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
