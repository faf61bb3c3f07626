"""Running predict and embed on Ray, with a folder of part files as output."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densenet_cli.cli.console import discard_native_stderr, echo_error, echo_image_error, echo_info, printable
from densenet_cli.cli.options import NoteCounter
from densenet_cli.cli.ray_options import PART_FORMATS, PART_SIZE, RayRequest
from densenet_cli.errors import UsageError
from densenet_cli.paths import is_remote, is_url
from densenet_cli.text import format_duration, plural

if TYPE_CHECKING:
    from densenet_cli.classifier import Classifier
    from densenet_cli.ray.folder import PartFolder
    from densenet_cli.ray.listing import SourceArguments
    from densenet_cli.ray.worker import Job, PartReport

MAX_SHOWN_ERRORS = 100
"""Errors of images that are printed."""

TOTALS_INTERVAL = 5.0
"""Seconds between two attempts to read how many parts there are, until they are listed."""


def run_on_ray(
    request: RayRequest,
    create: Callable[..., Classifier],
    settings: Callable[[Classifier], dict[str, Any]],
) -> int:
    """Run a command on Ray, and return its exit status.

    Args:
        request: What to run. ``check_ray_options`` has checked the options.
        create: Creates the classifier.
        settings: Returns the settings that the records depend on.

    Raises:
        DensenetError: See ``ray.job.run``; or the output folder, the cluster, or the model cannot be used.
    """
    from densenet_cli.output.records import check_resume_options
    from densenet_cli.ray import cluster
    from densenet_cli.ray.folder import PartFolder

    check_resume_options(request.resume, request.overwrite, False)
    cluster.check_installed()
    assert request.output is not None
    _check_no_credentials(request)
    folder = PartFolder(request.output, request.format_name or PART_FORMATS[0])
    if request.model["offline"] and is_remote(request.output):
        raise UsageError(f"Cannot write {folder.name}: network access is disabled (`offline`).")
    folder.check()
    has_run = _check_existing(folder, request)
    address = cluster.resolve(request.address)
    classifier = create(**request.model)
    run_settings = _run_settings(request, settings(classifier))
    run = uuid.uuid4().hex
    if has_run and request.resume:
        run = folder.check_settings(run_settings)
        totals, finished = folder.read_totals(), folder.finished()
        echo_info(f"Resuming: {_count_parts(len(finished), totals and totals[0])} already done.")
        if totals and len(finished) >= totals[0]:
            return _finish(folder, request.output)
    with _list_on_disk(request) as sources:
        _run(request, folder, address, classifier, sources, {**run_settings, "run": run})
    return _finish(folder, request.output)


def _run(
    request: RayRequest,
    folder: PartFolder,
    address: str,
    classifier: Classifier,
    sources: SourceArguments,
    settings: dict[str, Any],
) -> None:
    """Connect to Ray and compute all parts that are missing."""
    from densenet_cli.ray import cluster, versions
    from densenet_cli.ray.shared import SharedModel
    from densenet_cli.ray.worker import Job

    start = time.monotonic()
    with discard_native_stderr(), cluster.connect(address):
        nodes = cluster.alive_nodes()
        plan = cluster.plan_workers(cluster.node_cpus(nodes), request.model["threads"], classifier.precision)
        required = versions.required_versions(classifier.engine)
        cluster.check_nodes(nodes, required)
        echo_info(str(plan))
        if plan.nodes > 1 and not all(is_url(name) or is_remote(name) for name in (*request.source, folder.location)):
            echo_info("Local paths must name the same files on all nodes.")
        performance = {name: request.model[name] for name in ("batch_size", "decode_memory", "isolate", "timeout")}
        performance |= {"offline": request.model["offline"], "threads": plan.threads}
        job = Job(
            request.command,
            SharedModel.of(classifier, request.model),
            request.decisions,
            performance,
            folder.location,
            request.format_name or PART_FORMATS[0],
            request.part_size or PART_SIZE,
            sources,
            settings["run"],
            required,
        )
        finished = {} if request.overwrite else folder.finished()
        if request.overwrite:
            folder.clear()
        folder.remove_leftovers()
        folder.write_settings(settings)
        try:
            _follow(job, plan, folder, len(finished), finished, start)
        except KeyboardInterrupt:
            echo_info(f"Finished parts are kept in {folder.name}. Use --resume to continue.")
            raise


def _follow(job: Job, plan: Any, folder: PartFolder, parts: int, finished: Any, start: float) -> None:
    """Run a job, show its progress, and print the errors of images."""
    from densenet_cli.cli.progress import ProgressBar
    from densenet_cli.ray.job import run

    progress_state = _Progress(folder, parts, start)
    shown = 0
    with NoteCounter() as notes, ProgressBar("steps") as progress:
        for report in run(job, plan, finished, echo_info, _end_without_cluster):
            notes.add(report.notes or {})
            for error in report.errors or ():
                if shown < MAX_SHOWN_ERRORS:
                    _echo_failure(*error)
                shown += 1
            progress_state.add(report)
            progress.update("parts", *progress_state.values())
    if shown > MAX_SHOWN_ERRORS:
        echo_error("More images failed. See the records with an error.")
    echo_info(str(progress_state))


def _end_without_cluster() -> None:
    """End this process, in any thread. Without its cluster, Ray waits and then ends it without a message."""
    echo_error("Error: The Ray cluster stopped. Finished parts are kept. Use --resume to continue.")
    sys.stderr.flush()
    os._exit(1)


class _Progress:
    """How far a run is.

    Args:
        folder: The output folder.
        parts: The number of parts that were done before.
        start: When the run began to start Ray.
    """

    def __init__(self, folder: PartFolder, parts: int, start: float) -> None:
        self._folder, self._parts, self._before = folder, parts, parts
        self._start = start
        self._first: float | None = None
        self._images = 0
        self._total: int | None = None
        self._asked = 0.0

    def add(self, report: PartReport) -> None:
        """Count a part."""
        now = time.monotonic()
        if self._first is None:
            self._first = now - report.seconds
        self._parts += 1
        self._images += report.records
        if self._total is None and now - self._asked > TOTALS_INTERVAL:
            self._asked = now
            totals = self._folder.read_totals()
            self._total = totals and totals[0]

    @property
    def _elapsed(self) -> float:
        return max(time.monotonic() - (self._first or self._start), 1e-3)

    def values(self) -> tuple[int, int | None, str]:
        """Return the number of parts, of all parts if that is known, and what else there is to say."""
        detail = f"{self._images:,} images, {self._images / self._elapsed:.0f}/s"
        if self._total is not None:
            remaining = (self._total - self._parts) * self._elapsed / (self._parts - self._before)
            detail += f", {format_duration(remaining)} remaining"
        return self._parts, self._total, detail

    def __str__(self) -> str:
        elapsed = self._elapsed
        startup = (self._first or time.monotonic()) - self._start
        return (
            f"{plural(self._images, 'image')} in {elapsed:.1f} s ({self._images / elapsed:.1f}/s), after {startup:.1f} "
            "s for starting workers."
        )


def _finish(folder: PartFolder, output: str) -> int:
    """Note that a run is complete, print its totals, and return the exit status."""
    counts = folder.finished()
    records, failed = (sum(column) for column in zip(*counts.values(), strict=True)) if counts else (0, 0)
    folder.remove_leftovers()
    folder.write_success(len(counts), records, failed)
    echo_info(f"{printable(folder.name)} is complete: {plural(records, 'record')} in {plural(len(counts), 'part')}.")
    if failed:
        echo_info(f"{plural(failed, 'image')} failed. See the records with an error.")
    return 1 if failed else 0


def _echo_failure(source: str, kind: str, message: str) -> None:
    from densenet_cli.results import Failure

    echo_image_error(source, Failure(kind, message))


def _count_parts(finished: int, total: int | None) -> str:
    return plural(finished, "part") if total is None else f"{finished:,} of {plural(total, 'part')}"


def _check_existing(folder: PartFolder, request: RayRequest) -> bool:
    """Return whether there is a run in the output folder. Raises ``UsageError`` if it must not be touched."""
    if folder.has_settings():
        if not (request.resume or request.overwrite):
            from densenet_cli.output.checks import file_exists_error

            raise file_exists_error(folder.name, can_resume=True)
        return True
    if not request.overwrite:
        folder.check_empty()
    return False


def _check_no_credentials(request: RayRequest) -> None:
    from densenet_cli.ray.listing import check_no_credentials

    for argument in (*request.source, request.output or ""):
        check_no_credentials(argument)


def _run_settings(request: RayRequest, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run: what its records and its parts depend on."""
    names = [*request.source, *([request.files_from] if request.files_from else [])]
    is_relative = any(not (is_url(name) or is_remote(name) or name.startswith(os.sep)) for name in names)
    return {
        "command": request.command,
        **settings,
        "format": request.format_name or PART_FORMATS[0],
        "part_size": request.part_size or PART_SIZE,
        "sources": [os.fsencode(name).decode("utf-8", "backslashreplace") for name in request.source],
        "files_from": request.files_from,
        "null": request.null,
        "suffix": list(request.suffix),
        "relative_to": str(Path.cwd()) if is_relative else None,
    }


@contextmanager
def _list_on_disk(request: RayRequest) -> Iterator[SourceArguments]:
    """Yield what to list, with a list on standard input copied to a file, which another process reads."""
    from densenet_cli.ray.listing import SourceArguments

    folder, offline = str(Path.cwd()), request.model["offline"]
    if request.files_from != "-":
        list_file = str(Path(folder, request.files_from)) if request.files_from else None
        yield SourceArguments(request.source, list_file, request.null, request.suffix, folder, offline)
        return
    with tempfile.NamedTemporaryFile(prefix="densenet-list-") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        yield SourceArguments(request.source, file.name, request.null, request.suffix, folder, offline)
