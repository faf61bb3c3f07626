"""Running a job on Ray Data: a task lists the sources and yields parts, and a pool of workers computes them.

Ray restarts workers whose process or node has died, and adds workers when nodes are added. It does not repeat their
parts: a repeated part would wait for its own worker, for ever if its node does not come back. Instead, a pass over the
parts ends when each has been tried once, and another pass tries those that are not done. It decodes in processes of
their own, in case an image has crashed a worker. What is done is only known from the output folder, so each part is
there exactly once, whatever fails.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from densenet_cli.errors import ProcessError
from densenet_cli.ray.worker import Job, PartReport, Worker, list_tasks
from densenet_cli.text import plural

if TYPE_CHECKING:
    from densenet_cli.ray.cluster import WorkerPlan

MAX_FRUITLESS_PASSES = 3
"""Passes in which no part is finished, after which the run ends with an error."""

PASS_PAUSE = 2.0
"""Seconds after such a pass."""

STALL_INTERVAL = 60.0
"""Seconds without a report after which the reason is looked for."""

CONTACT_INTERVAL = 5.0
"""Seconds between two connections to the head node."""

LOST_AFTER = 30.0
"""Seconds without a connection after which the cluster is considered lost. After 60 seconds, Ray ends this process."""

MAX_WORKERS = 10_000


def run(
    job: Job,
    plan: WorkerPlan,
    finished: Iterable[int],
    on_stall: Callable[[str], object],
    on_lost: Callable[[], object],
) -> Iterator[PartReport]:
    """Compute all parts that are not finished. Yield a report on each.

    Args:
        job: What to compute.
        plan: The size of the workers.
        finished: The parts that are done already.
        on_stall: Called with a sentence when nothing has been finished for some time.
        on_lost: Called, in another thread, when the cluster stopped. Ray then ends this process within half a minute.

    Raises:
        ProcessError: A part kills its worker again and again.
        DensenetError: The first error that is not that of an image.
    """
    import ray

    done = set(finished)
    reference = ray.put(job)
    with _Watch(on_stall, on_lost) as watch:
        for report in _run_pass(_read_listing(job, frozenset(done)), reference, plan, isolate=False):
            watch.note_progress()
            done.add(report.part)
            yield report
        totals = job.folder().read_totals()
        if totals is None:
            raise ProcessError("Listing the sources was interrupted. Use `resume` to continue.")
        fruitless = 0
        while missing := [part for part in range(totals[0]) if part not in done]:
            if fruitless == MAX_FRUITLESS_PASSES:
                raise ProcessError(
                    f"{plural(len(missing), 'part')}, beginning with part {missing[0]}, could not be computed: in "
                    f"{fruitless} attempts, the worker process failed, possibly because memory ran out. Use fewer "
                    "`threads` or a smaller `decode_memory`, and `resume` to continue."
                )
            before = len(done)
            for report in _run_pass(_read_parts(missing), reference, plan, isolate=True):
                watch.note_progress()
                done.add(report.part)
                yield report
            fruitless = 0 if len(done) > before else fruitless + 1
            if fruitless:
                time.sleep(PASS_PAUSE)


def _run_pass(dataset: Any, job: Any, plan: WorkerPlan, *, isolate: bool) -> Iterator[PartReport]:
    from ray.data import ActorPoolStrategy

    reports = dataset.map_batches(
        Worker,
        fn_constructor_kwargs={"job": job, "isolate": isolate},
        batch_size=1,
        # The next part is sent while a worker computes one, so that it does not wait.
        compute=ActorPoolStrategy(
            min_size=1,
            max_size=MAX_WORKERS,
            initial_size=max(1, plan.workers),
            max_tasks_in_flight_per_actor=2,
        ),
        num_cpus=plan.cpus,
        max_task_retries=0,
    )
    for row in reports.iter_rows():
        report = PartReport.from_json(row["message"])
        report.raise_fatal()
        yield report


def _configure() -> None:
    """Configure Ray Data for tiny blocks, whose loss must not end the run."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.target_max_block_size = 1  # each row is passed on at once
    context.max_errored_blocks = -1
    context.execution_options.preserve_order = False


def _to_table(rows: Sequence[tuple[int, str]]) -> Any:
    import pyarrow

    parts, messages = zip(*rows, strict=True)
    return pyarrow.table({"part": pyarrow.array(parts, pyarrow.int64()), "message": list(messages)})


def _read_parts(parts: Sequence[int]) -> Any:
    """Return a dataset of parts."""
    import ray.data

    _configure()
    return ray.data.from_blocks([_to_table([(part, "")]) for part in parts])


def _read_listing(job: Job, finished: frozenset[int]) -> Any:
    """Return a dataset of the parts that a task lists on this machine, where local paths are valid."""
    import ray
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    _configure()

    class Listing(Datasource):  # type: ignore[misc]
        """The parts, from one task."""

        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[Any]:
            def read() -> Iterator[Any]:
                for row in list_tasks(job, finished):
                    yield _to_table([row])

            metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ReadTask(read, metadata)]

    return ray.data.read_datasource(
        Listing(),
        override_num_blocks=1,
        # Without a core, so that it always has a place beside the workers.
        num_cpus=0,
        label_selector={"ray.io/node-id": ray.get_runtime_context().get_node_id()},
    )


class _Watch:
    """A thread that tells why nothing is finished for a while, and notices the end of the cluster."""

    def __init__(self, on_stall: Callable[[str], object], on_lost: Callable[[], object]) -> None:
        self._on_stall, self._on_lost = on_stall, on_lost
        self._last = self._last_contact = time.monotonic()
        self._ended = threading.Event()

    def note_progress(self) -> None:
        self._last = time.monotonic()

    def __enter__(self) -> _Watch:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _watch(self) -> None:
        import ray

        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        while not self._ended.wait(CONTACT_INTERVAL):
            with suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), CONTACT_INTERVAL):
                self._last_contact = time.monotonic()
            if time.monotonic() - self._last_contact > LOST_AFTER:
                self._on_lost()
                return
            if time.monotonic() - self._last > STALL_INTERVAL:
                self._last = time.monotonic()
                self._describe_stall()

    def _describe_stall(self) -> None:
        import ray

        from densenet_cli.ray.cluster import alive_nodes, node_cpus

        try:
            cores = sum(node_cpus(alive_nodes()))
            free = float(ray.available_resources().get("CPU", 0))
        except Exception:
            return
        self._on_stall(
            f"No part was finished in the last {STALL_INTERVAL:g} seconds. The cluster has "
            f"{plural(round(cores), 'core')}, of which {free:g} are free. The command keeps waiting."
        )
