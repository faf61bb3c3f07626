"""As many decoding processes as there are images being decoded at once, kept from one image to the next."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from densenet_cli.errors import DecoderCrashedError, IsolationError
from densenet_cli.images import decoding, reading
from densenet_cli.images.isolation.worker import Worker

if TYPE_CHECKING:
    from densenet_cli.images.preprocessing import Preprocessing
    from densenet_cli.images.previews import Preview
    from densenet_cli.images.sources import Source

STARTS = 3
"""How often a process is started before it is given up: the first may have been killed for want of memory."""


class Workers:
    """Decodes as ``decoding.load`` does, in processes of their own.

    A process that an image ended, or that ran out of time, is replaced for the next one. ``close`` ends them all;
    should this process end without it, they end by themselves.

    Args:
        budget: the memory that the images of all processes may hold together.
        timeout: seconds that an image may take to decode; None for no limit.

    Raises:
        IsolationError: the system starts no process.
    """

    def __init__(self, budget: decoding.DecodeBudget, timeout: float | None = None) -> None:
        self._budget, self._timeout = budget, timeout
        self._lock = threading.Lock()
        self._is_closed = False
        self._all: set[Worker] = set()
        self._idle: list[Worker] = []
        self._give_back(self._start())  # so that the first is there when the first image is

    def load(
        self, source: Source, preprocessing: Preprocessing, preview: type[Preview] | None = None
    ) -> decoding.Loaded:
        """``decoding.load``, from any number of threads at once.

        A URL, standard input or a file object is read here, and its bytes are decoded there. A PIL image or an array
        is nothing to decode: it stays here.

        Raises:
            DecoderCrashed: the process ended.
            DecodingTimedOut: it took too long.
            ImageError: as ``decoding.load`` raises it.
            IsolationError: no process can be started.
        """
        return decoding.guarded(lambda: self._load(source, preprocessing, preview))

    def _load(self, source: Source, preprocessing: Preprocessing, preview: type[Preview] | None) -> decoding.Loaded:
        if source.kind in ("nothing", "image", "array"):
            return decoding.load(source, preprocessing, self._budget, preview)
        kind = "path" if source.kind == "path" else "bytes"
        try:
            origin = os.fsencode(source.origin) if kind == "path" else reading.read(source)
        except UnicodeEncodeError:  # no file can be called that, which the usual way finds out too
            return decoding.load(source, preprocessing, self._budget, preview)
        while True:
            worker = self._take()
            is_first = worker.images == 0
            try:
                return worker.load(kind, origin, preprocessing, preview)
            except DecoderCrashedError:
                # Of what an earlier image did to its memory, perhaps: a fresh process shows whose fault it is.
                if is_first:
                    raise
            finally:
                self._give_back(worker)

    def _take(self) -> Worker:
        """A process that is ready."""
        for _ in range(STARTS):
            with self._lock:
                if self._is_closed:
                    raise IsolationError("The classifier is closed.")
                worker = self._idle.pop() if self._idle else self._start()
            try:
                worker.wait_until_ready()
                return worker
            except IsolationError as error:
                failure = error
                self._give_back(worker)
        raise failure

    def _start(self) -> Worker:
        worker = Worker(self._budget, self._timeout)
        self._all.add(worker)
        return worker

    def _give_back(self, worker: Worker) -> None:
        """Keep it for another image, or end it."""
        with self._lock:
            if worker.is_free and not self._is_closed:
                self._idle.append(worker)
                return
            self._all.discard(worker)
        worker.end()

    def close(self) -> None:
        """End all processes, also those at work; what they are decoding ends in an error."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            busy = self._all.difference(idle)
        for worker in (*idle, *busy):
            worker.kill()
        for worker in idle:
            worker.end()
        for worker in busy:
            worker.wait()
