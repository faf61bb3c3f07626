"""Isolated decoding: worker processes, so that a decoder that crashes, hangs, or runs out of memory fails one image.

This module is the pool of processes. ``worker.py`` is the parent's end of one process, and ``child.py`` runs in it.
They exchange JSON and raw bytes, never pickles, so that a compromised decoder cannot run code in the parent.
"""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from densenet_cli.errors import DecoderCrashedError, DecodingTimedOutError, IsolationError, guard
from densenet_cli.images import decoding, reading
from densenet_cli.images.memory import DecodeBudget

if TYPE_CHECKING:
    from densenet_cli.images.isolation.worker import Worker
    from densenet_cli.images.preprocessing import Preprocessing
    from densenet_cli.images.previews import Preview
    from densenet_cli.images.sources import Source

MAX_START_ATTEMPTS = 3
"""Attempts to start a process. The first can fail because memory is short."""


class WorkerPool:
    """Decodes like ``decoding.load``, in as many worker processes as images are decoded at the same time.

    Processes are reused. One that crashed or timed out is replaced for the next image. ``close`` ends all of them;
    they also end by themselves when this process ends.

    Args:
        budget: Memory that the images of all processes share.
        timeout: Maximum seconds for decoding an image; None for no limit.

    Raises:
        IsolationError: A process cannot be started.
    """

    def __init__(self, budget: DecodeBudget, timeout: float | None = None) -> None:
        self._budget, self._timeout = budget, timeout
        self._lock = threading.Lock()
        self._is_closed = False
        self._workers: set[Worker] = set()
        self._idle: list[Worker] = []
        self._release(self._start())  # starts while the network is being loaded

    def load(
        self, source: Source, preprocessing: Preprocessing, preview: type[Preview] | None = None
    ) -> decoding.Loaded:
        """Like ``decoding.load``. Thread-safe.

        URLs, standard input, and file objects are read in this process and decoded in a worker. PIL images and arrays
        need no decoding and stay in this process.

        Raises:
            DecoderCrashedError: The process ended.
            DecodingTimedOutError: Decoding took too long.
            ImageError: As for ``decoding.load``.
            IsolationError: A process cannot be started.
        """
        return guard(lambda: self._load(source, preprocessing, preview))

    def _load(self, source: Source, preprocessing: Preprocessing, preview: type[Preview] | None) -> decoding.Loaded:
        if source.kind in ("nothing", "image", "array"):
            return decoding.load(source, preprocessing, self._budget, preview)
        if isinstance(source.location, reading.Animation):
            with source.location.turn(source.page or 0):
                return self._load_in_worker(source, preprocessing, preview)
        return self._load_in_worker(source, preprocessing, preview)

    def _load_in_worker(
        self, source: Source, preprocessing: Preprocessing, preview: type[Preview] | None
    ) -> decoding.Loaded:
        if source.kind != "path":
            with reading.hold_source(source) as data:
                return self._send(replace(source, kind="bytes", origin=data), preprocessing, preview)
        try:
            origin = os.fsencode(source.origin)
        except UnicodeEncodeError:  # no file can have this name, and decoding.load reports that
            return decoding.load(source, preprocessing, self._budget, preview)
        return self._send(replace(source, origin=origin), preprocessing, preview)

    def _send(self, source: Source, preprocessing: Preprocessing, preview: type[Preview] | None) -> decoding.Loaded:
        """Decode a path or bytes in a worker."""
        animation = source.location if isinstance(source.location, reading.Animation) else None
        fresh = False
        while True:
            worker = self._acquire(animation, fresh=fresh)
            is_first = worker.images == 0
            try:
                return worker.load(source, preprocessing, preview)
            except (DecoderCrashedError, DecodingTimedOutError) as error:
                # An earlier image may have corrupted the process. Retry in a fresh one to find out.
                if is_first or isinstance(error, DecodingTimedOutError):
                    if animation:
                        animation.failed = source.page
                    raise
                fresh = True
            finally:
                self._release(worker)

    def _acquire(self, animation: reading.Animation | None, *, fresh: bool) -> Worker:
        """Return a worker that is ready: a new one, or if possible one that has the animation open."""
        for _ in range(MAX_START_ATTEMPTS):
            with self._lock:
                if self._is_closed:
                    raise IsolationError("The classifier is closed.")
                worker = self._start() if fresh or not self._idle else self._take_idle(animation)
            try:
                worker.wait_until_ready()
                return worker
            except IsolationError as error:
                failure = error
                self._release(worker)
        raise failure

    def _take_idle(self, animation: reading.Animation | None) -> Worker:
        """Remove a worker from the idle ones: one that has this animation open, or none, or the last."""
        worker = min(
            reversed(self._idle), key=lambda worker: (worker.animation is not animation, worker.animation is not None)
        )
        self._idle.remove(worker)
        return worker

    def _start(self) -> Worker:
        # Not at the top, because the child imports this package as well and needs to start fast.
        from densenet_cli.images.isolation.worker import Worker

        worker = Worker(self._budget, self._timeout)
        self._workers.add(worker)
        return worker

    def _release(self, worker: Worker) -> None:
        """Keep a worker for another image, or end it."""
        with self._lock:
            if worker.is_usable and not self._is_closed:
                self._idle.append(worker)
                return
            self._workers.discard(worker)
        worker.end()

    def close(self) -> None:
        """End all processes. Images that are being decoded raise ``DecoderCrashedError``."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            busy = self._workers.difference(idle)
        for worker in (*idle, *busy):
            worker.kill()
        for worker in idle:
            worker.end()
        for worker in busy:
            worker.wait()
