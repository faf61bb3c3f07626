"""Several processes that share the images, for machines with more cores than the GIL lets one process use.

Python code of one process runs on one core at a time, which limits a process to 2,000 to 4,000 images per second. Here
each process has the model and a share of the threads. All map the same weights, and share the memory for decoding.

A stream begins in this process. Others are started only if there are many sources, and take over when they are ready,
so that nothing starts later than with one process. They exchange JSON and raw bytes, never pickles.

``worker.py`` is the parent's end of one process, ``child.py`` runs in it, and ``distribution.py`` distributes sources.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from densenet_cli.errors import DensenetError, ProcessError
from densenet_cli.images.memory import MEGABYTE
from densenet_cli.images.sources import Source

if TYPE_CHECKING:
    from densenet_cli.images.decoding import Loaded
    from densenet_cli.images.memory import DecodeBudget
    from densenet_cli.images.previews import Preview
    from densenet_cli.pipeline import Result

S = TypeVar("S", bound=Source)

START_AFTER = 64
"""Sources after which processes are started."""


class Request(NamedTuple):
    """What to compute. See ``ImageModel.stream``.

    Attributes:
        outputs: The names of the outputs.
        preview: The kind of preview, or None.
        preview_limit: The number of results that get a preview, the first ones; None for all.
    """

    outputs: Sequence[str]
    preview: type[Preview] | None
    preview_limit: int | None

    def needs_preview(self, index: int) -> bool:
        """Return whether the result with this number gets a preview."""
        return self.preview is not None and (self.preview_limit is None or index < self.preview_limit)


class ProcessPool:
    """The processes of a classifier. They are kept for further streams until ``close``, or until this process ends.

    Args:
        count: The number of processes.
        threads: The number of threads of all processes together.
        settings: The arguments of ``child.ImageWorker`` that are the same for all processes.
        budget: The memory for decoding of this process, which the others share.
        is_optional: Whether to go on in this process if others cannot be started.
    """

    def __init__(
        self, count: int, threads: int, settings: dict[str, Any], budget: DecodeBudget, *, is_optional: bool
    ) -> None:
        self._settings, self._budget, self._is_optional = settings, budget, is_optional
        self._shares = [max(1, threads // count + (number < threads % count)) for number in range(count)]
        self._lock = threading.Lock()
        self._is_closed = False
        self._all: set[_Group] = set()
        self._idle: list[_Group] = []

    def stream(
        self,
        sources: Iterable[S],
        compute: Callable[[Iterator[S]], Iterator[Result[S]]],
        load: Callable[[S, int], Loaded],
        request: Request,
    ) -> Iterator[Result[S]]:
        """Yield the result of each source, in order.

        Args:
            sources: The sources.
            compute: Computes sources in this process.
            load: Loads a source in this process; called with a source and its number.
            request: What to compute.
        """
        handover = _Handover(self, sources)
        is_complete = False
        try:
            yield from compute(handover.first_sources())
            if handover.is_ready and handover.group:
                yield from handover.group.stream(handover.sources, handover.count, load, request)
            is_complete = True
        finally:
            handover.is_closed = True
            if handover.group:
                self.release(handover.group, is_usable=is_complete and handover.is_ready)

    def acquire(self) -> _Group | None:
        """Return processes that no other stream uses, maybe still starting; None if they cannot be started.

        Raises:
            ProcessError: They cannot be started, and are not optional.
        """
        with self._lock:
            if self._is_closed:
                raise ProcessError("The classifier is closed.")
            if self._idle:
                return self._idle.pop()
            try:
                group = _Group(self._shares, self._settings, self._budget)
            except ProcessError:
                if self._is_optional:
                    return None
                raise
            self._all.add(group)
            return group

    def check(self, group: _Group) -> bool:
        """Return whether processes are ready. Raises their error if they are not optional."""
        if group.error and not self._is_optional:
            raise group.error
        return group.error is None and group.is_started.is_set()

    def release(self, group: _Group, is_usable: bool) -> None:
        """Keep processes for another stream, or end them."""
        with self._lock:
            if is_usable and not self._is_closed:
                self._idle.append(group)
                return
            self._all.discard(group)
        group.close()

    def close(self) -> None:
        """End all processes."""
        with self._lock:
            self._is_closed = True
            groups, self._all = self._all, set()
        for group in groups:
            group.close()


class _Handover(Generic[S]):
    """Sources that this process takes until other processes are ready to take the rest.

    Attributes:
        sources: The sources that are left.
        count: The number of sources that were taken.
        group: The other processes, or None if there are few sources.
        is_ready: Whether they take the rest.
        is_closed: Whether the stream has ended, so that no processes are needed.
    """

    def __init__(self, pool: ProcessPool, sources: Iterable[S]) -> None:
        self._pool = pool
        self.sources = iter(sources)
        self.count = 0
        self.group: _Group | None = None
        self.is_ready = False
        self.is_closed = False

    def first_sources(self) -> Iterator[S]:
        """Yield the sources that this process computes."""
        for source in self.sources:
            self.count += 1
            yield source
            if self.count == START_AFTER:
                self.group = self._pool.acquire()
                if self.is_closed and self.group:
                    self._pool.release(self.group, is_usable=False)
            if self.group and self._pool.check(self.group):
                self.is_ready = True
                return


class _Group:
    """The processes that compute a stream together.

    Attributes:
        is_started: Set when all have loaded the model, or one has failed.
        error: Why one has failed to start, or None.
    """

    def __init__(self, shares: Sequence[int], settings: dict[str, Any], budget: DecodeBudget) -> None:
        from densenet_cli.processes.budget import SharedBudget
        from densenet_cli.processes.distribution import current_folder
        from densenet_cli.processes.worker import WorkerProcess

        self._budget = budget
        megabytes = budget.bytes // MEGABYTE
        self._shared_budget = SharedBudget(megabytes)
        self._folder = current_folder()
        self._workers: list[WorkerProcess] = []
        self.is_started = threading.Event()
        self.error: Exception | None = None
        descriptors = self._shared_budget.descriptors
        try:
            for threads in shares:
                shared = {**settings, "threads": threads, "budget": (megabytes, descriptors)}
                self._workers.append(WorkerProcess(shared, descriptors))
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        try:
            for worker in self._workers:
                worker.wait_until_ready()
        except (DensenetError, RuntimeError) as error:
            self.error = error
        self.is_started.set()

    def stream(
        self, sources: Iterator[S], first_index: int, load: Callable[[S, int], Loaded], request: Request
    ) -> Iterator[Result[S]]:
        """Yield the result of each source, in order. ``first_index`` is the number of the first."""
        from densenet_cli.processes.distribution import Distribution

        for worker in self._workers:
            worker.begin(request.outputs, request.preview)
        self._budget.shared = self._shared_budget
        results = Distribution(self._workers, sources, first_index, load, request.needs_preview, self._folder)
        try:
            yield from results
            for worker in self._workers:
                worker.send({"end": True})
        finally:
            self._budget.shared = None
            results.stop()

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.end()
