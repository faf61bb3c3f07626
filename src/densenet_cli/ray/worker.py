"""What runs on the nodes: a worker that computes parts with all of its threads, and the task that lists the sources."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from densenet_cli import errors
from densenet_cli.errors import DensenetError, OutputError
from densenet_cli.ray.folder import PartCounts, PartFolder
from densenet_cli.ray.listing import SourceArguments, decode_source, list_parts
from densenet_cli.ray.records import PART_FORMATS, Record, embedding_schema, prediction_schema
from densenet_cli.ray.shared import SharedModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from densenet_cli.classifier import Classifier
    from densenet_cli.images.sources import Source

    Row = dict[str, NDArray[Any]]
    """A batch of one row: ``part``, the number of a part or -1, and ``message``, JSON."""

MAX_ERRORS = 10
"""Errors of images that the message about a part contains."""


@dataclass(frozen=True)
class Job:
    """What the workers compute.

    Attributes:
        command: ``predict`` or ``embed``.
        model: The model.
        decisions: Arguments of ``Classifier.predictor``.
        performance: Arguments of ``SharedModel.create``.
        location: The output folder.
        format_name: The format of its parts.
        part_size: The number of sources in a part.
        sources: What is listed.
        run: Identifies the run, so that a worker of a run that was replaced writes nothing.
        versions: Package -> version that all nodes must have.
    """

    command: str
    model: SharedModel
    decisions: dict[str, Any]
    performance: dict[str, Any]
    location: str
    format_name: str
    part_size: int
    sources: SourceArguments
    run: str
    versions: dict[str, str]

    def folder(self) -> PartFolder:
        """Return the output folder."""
        return PartFolder(self.location, self.format_name)


@dataclass
class PartReport:
    """What a worker reports about a part.

    Attributes:
        part: Its number, -1 for a report that concerns the run.
        records: The number of records.
        failed: The number of error records.
        seconds: How long it took.
        notes: Note -> number of images that have it.
        errors: Source, type, and message of the first errors.
        fatal: The class name and message of the error that must end the run, or None.
    """

    part: int
    records: int = 0
    failed: int = 0
    seconds: float = 0.0
    notes: dict[str, int] | None = None
    errors: list[tuple[str, str, str]] | None = None
    fatal: tuple[str, str] | None = None

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, text: str) -> PartReport:
        """Return the report that ``to_json`` encoded."""
        return cls(**json.loads(text))

    def raise_fatal(self) -> None:
        """Raise the error that must end the run, if there is one."""
        if self.fatal:
            kind = getattr(errors, self.fatal[0], DensenetError)
            raise kind(self.fatal[1])


def describe_fatal(error: Exception) -> tuple[str, str]:
    """Return the class name and message of an error that must end the run."""
    if isinstance(error, DensenetError):
        return type(error).__name__, str(error)
    return "ProcessError", f"A worker failed unexpectedly: {type(error).__name__}: {error}"


def list_tasks(job: Job, finished: frozenset[int]) -> Iterator[tuple[int, str]]:
    """Yield the number of each part that is not finished, as soon as its list is stored.

    The sequence must be the same if Ray repeats the task, so it does not depend on what has been finished since.

    Yields:
        The number and "", or at an error -1 and a report.
    """
    try:
        os.chdir(job.sources.folder)
        for part in list_parts(job.sources.expand(), job.folder(), job.part_size):
            if part not in finished:
                yield part, ""
    except Exception as error:
        yield -1, PartReport(-1, fatal=describe_fatal(error)).to_json()


class Worker:
    """Computes parts. The model is loaded with the first one, so that errors are reported like those of parts.

    Args:
        job: Reference to the job in Ray's object store.
        isolate: Decode in worker processes, because an earlier attempt may have crashed.
    """

    def __init__(self, job: Any, isolate: bool) -> None:
        self._job_reference, self._isolate = job, isolate
        self._job: Job | None = None
        self._classifier: Classifier | None = None

    def __call__(self, batch: Row) -> Row:
        """Compute the part in a batch of one row, and return a batch with a report."""
        import numpy as np

        part, message = int(batch["part"][0]), str(batch["message"][0])
        if part >= 0:
            try:
                message = self._compute(part).to_json()
            except Exception as error:
                message = PartReport(part, fatal=describe_fatal(error)).to_json()
        return {"part": np.array([part]), "message": np.array([message], dtype=object)}

    def _load(self) -> tuple[Job, Classifier]:
        if self._job is None or self._classifier is None:
            import ray

            from densenet_cli.ray.versions import check_versions

            job: Job = ray.get(self._job_reference)
            check_versions(job.versions, ray.util.get_node_ip_address())
            performance = job.performance
            if self._isolate:
                performance = {**performance, "isolate": True}
            self._classifier = job.model.create(**performance)
            self._job = job
        return self._job, self._classifier

    def _compute(self, part: int) -> PartReport:
        import ray

        job, classifier = self._load()
        start = time.monotonic()
        folder = job.folder()
        stored = folder.read_sources(part)
        if stored is None:
            node = ray.util.get_node_ip_address()
            raise OutputError(
                f"The list of the sources of part {part} is missing in {folder.name} on the node {node}. "
                "All nodes must share the output folder."
            )
        lines = stored.decode().splitlines()
        sources = _sources(lines, job, classifier)
        counts: Counter[str] = Counter()
        failures: list[tuple[str, str, str]] = []
        records = failed = 0
        is_prediction = job.command == "predict"
        schema = prediction_schema() if is_prediction else embedding_schema(_width(classifier))
        results = _predict(job, classifier, sources) if is_prediction else _embed(classifier, sources)
        with folder.create(folder.part_name(part)) as file:
            for record in PART_FORMATS[job.format_name].write(results, file, schema):
                records += 1
                counts.update(record.notes)
                if record.error:
                    failed += 1
                    if len(failures) < MAX_ERRORS:
                        failures.append((record.source, record.error.type, record.error.message))
            folder.check_run(job.run)
        folder.finish(part, PartCounts(records, failed))
        return PartReport(part, records, failed, time.monotonic() - start, dict(counts), failures)


def _width(classifier: Classifier) -> int:
    from densenet_cli.layers import embedding_size

    return embedding_size(classifier.config)


def _predict(job: Job, classifier: Classifier, sources: Iterator[Source]) -> Iterator[Record]:
    return map(classifier.predictor(**job.decisions), classifier.stream(sources))


def _embed(classifier: Classifier, sources: Iterator[Source]) -> Iterator[Record]:
    return map(classifier.embedding, classifier.stream(sources, ("features",)))


def _sources(lines: list[str], job: Job, classifier: Classifier) -> Iterator[Source]:
    from densenet_cli.images.pages import expand_pages

    sources = (source for line in lines for source in decode_source(line, job.sources))
    if classifier.preprocessing.pages == "first":
        return sources
    return expand_pages(sources, job.performance["offline"])
