"""Whole processes of ``densenet predict``, for the time that a cold start takes and the memory that a folder does."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from densenet_cli.benchmarking.processes import Run, run
from densenet_cli.benchmarking.report import Command
from densenet_cli.benchmarking.statistics import Summary
from densenet_cli.output.atomic import output_errors

FOLDER = 48
"""Images of the run that shows the memory: more than are under way at once by default."""
FOLDERS = 3
"""Rounds in which it is made: memory varies little, and the time is better spent on the rest."""
STARTS = 2
"""Cold starts a round. Of TensorFlow's, which take as long as all the rest, one."""


@dataclass(frozen=True)
class Job:
    """A process to be measured: its engine, and how many images it classifies."""

    engine: str
    images: int


class Commands:
    """Runs ``densenet predict`` and keeps what each run took.

    Args:
        engines: to be measured; the first is the one that matters.
        arguments: the model, as arguments.
        images: paths of images, each of which can be decoded.
        environment: added to ours.
        folder: where a list of images may be written.
    """

    def __init__(
        self,
        engines: Sequence[str],
        arguments: Sequence[str],
        images: Sequence[Path],
        environment: Mapping[str, str | None],
        folder: Path,
    ) -> None:
        self._engines = engines
        self._arguments = arguments
        self._images = cycle(images)
        self._environment = environment
        self._list = folder / "images.txt"
        with output_errors(folder):
            self._list.write_bytes(b"".join(os.fsencode(path) + b"\0" for path in islice(cycle(images), FOLDER)))
        self._runs: dict[Job, list[Run]] = defaultdict(list)

    def jobs(self, round_: int) -> list[Job]:
        """What to run in a round; the one before the first, -1, warms up."""
        found = []
        for engine in self._engines:
            found += [Job(engine, 1)] * (STARTS if engine == self._engines[0] and round_ >= 0 else 1)
            if 0 <= round_ < FOLDERS:
                found.append(Job(engine, FOLDER))
        return found

    def run(self, job: Job) -> Run:
        """Run it once. Raises ``CommandFailed``."""
        what = [str(next(self._images))] if job.images == 1 else ["--files-from", str(self._list), "--null"]
        model = [*self._arguments, "--engine", job.engine, "--format", "jsonl"]
        return run([sys.executable, "-P", "-m", "densenet_cli", "predict", *what, *model], self._environment)

    def keep(self, job: Job, taken: Run) -> None:
        """Count a run in."""
        self._runs[job].append(taken)

    def summaries(self) -> tuple[Command, ...]:
        """What was kept, cold starts first."""
        return tuple(
            Command(
                job.engine,
                job.images,
                Summary.of(taken.seconds for taken in self._runs[job]),
                _memory(self._runs[job]),
            )
            for job in sorted(self._runs, key=lambda job: (job.images, self._engines.index(job.engine)))
        )


def _memory(runs: Sequence[Run]) -> Summary | None:
    known = [taken.memory for taken in runs if taken.memory is not None]
    return Summary.of(known) if known else None
