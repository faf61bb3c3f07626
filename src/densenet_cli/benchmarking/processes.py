"""Measure whole processes: wall time and peak memory of any command, and of ``densenet predict`` in particular."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from densenet_cli.benchmarking.report import CommandTiming, Summary
from densenet_cli.errors import DensenetError
from densenet_cli.output.atomic import output_errors

LAUNCHER = """
import json, os, subprocess, sys, tempfile, time
with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
    start = time.perf_counter()
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=out, stderr=err)
    memory = None
    if hasattr(os, "wait4"):
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    else:
        process.wait()
        seconds = time.perf_counter() - start
    texts = []
    for file in (out, err):
        file.seek(0)
        texts.append(file.read().decode("utf-8", "backslashreplace"))
print(json.dumps([process.returncode, seconds, memory, *texts]))
"""
"""Program of a small process that starts the measured command (its arguments).

On Linux, the peak memory of a process is at least that of its parent when it was forked, so the parent must be small.
"""

FOLDER_IMAGES = 48
"""Images per folder run. More than ``predict`` holds in memory at once by default."""
FOLDER_ROUNDS = 3
"""Rounds that include a folder run. Its memory varies little, so the time is better spent on other measurements."""
STARTS_PER_ROUND = 2
"""Single-image runs per round with the first engine. A comparison engine runs once, because TensorFlow is slow."""


class CommandFailedError(DensenetError):
    """A measured command failed."""


@dataclass(frozen=True)
class ProcessResult:
    """A finished process.

    Attributes:
        seconds: Wall time from start to end.
        peak_memory: Peak resident memory in bytes; None if the system does not report it.
        stdout: Text that it wrote to standard output.
        stderr: Text that it wrote to standard error.
    """

    seconds: float
    peak_memory: int | None
    stdout: str
    stderr: str


def run_process(command: Sequence[str], environment: Mapping[str, str | None] | None = None) -> ProcessResult:
    """Run a command and measure it.

    Args:
        command: Program and arguments. Its standard input is empty.
        environment: Changes to the environment of this process; None removes a variable.

    Raises:
        CommandFailedError: The command cannot be started, or its exit status is not 0.
    """
    launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, *command]
    completed = subprocess.run(launcher, capture_output=True, env=merge_environment(environment), check=False)
    if completed.returncode:
        reason = completed.stderr.decode("utf-8", "replace").strip().splitlines() or ["unknown error"]
        raise CommandFailedError(f"Cannot run {command[0]}: {reason[-1]}")
    status, seconds, peak_memory, stdout, stderr = json.loads(completed.stdout)
    if status:
        raise CommandFailedError(f"{' '.join(command)} failed with status {status}: {stderr.strip() or 'no message'}")
    return ProcessResult(seconds, peak_memory, stdout, stderr)


def merge_environment(changes: Mapping[str, str | None] | None) -> dict[str, str]:
    """Return the environment of this process with changes; None removes a variable."""
    merged = {**os.environ, **(changes or {})}
    return {name: value for name, value in merged.items() if value is not None}


@dataclass(frozen=True)
class PredictTask:
    """One run of ``densenet predict``: the engine, and how many images it classifies."""

    engine: str
    images: int


class PredictBenchmark:
    """Runs ``densenet predict`` in new processes and collects the results.

    Args:
        engines: Engines to measure, with the command-line arguments for each; the first one more often than the others.
        arguments: Command-line arguments that select the model.
        images: Paths of decodable images.
        environment: See ``run_process``.
        folder: Existing folder for a list of images.

    Raises:
        OutputError: The list of images cannot be written.
    """

    def __init__(
        self,
        engines: Mapping[str, Sequence[str]],
        arguments: Sequence[str],
        images: Sequence[Path],
        environment: Mapping[str, str | None],
        folder: Path,
    ) -> None:
        self._engine_arguments = engines
        self._engines = list(engines)
        self._arguments = arguments
        self._images = cycle(images)
        self._environment = environment
        self._image_list = folder / "images.txt"
        paths = islice(cycle(images), FOLDER_IMAGES)
        with output_errors(self._image_list):
            self._image_list.write_bytes(b"".join(os.fsencode(path) + b"\0" for path in paths))
        self._results: dict[PredictTask, list[ProcessResult]] = defaultdict(list)

    def tasks(self, round_: int) -> list[PredictTask]:
        """Return the tasks of a round. Round -1 is the warm-up."""
        tasks = []
        for engine in self._engines:
            starts = STARTS_PER_ROUND if engine == self._engines[0] and round_ >= 0 else 1
            tasks += [PredictTask(engine, 1)] * starts
            if 0 <= round_ < FOLDER_ROUNDS:
                tasks.append(PredictTask(engine, FOLDER_IMAGES))
        return tasks

    def run(self, task: PredictTask) -> ProcessResult:
        """Run a task. Raises ``CommandFailedError``."""
        sources = [str(next(self._images))] if task.images == 1 else ["--files-from", str(self._image_list), "--null"]
        options = [*self._arguments, *self._engine_arguments[task.engine], "--format", "jsonl"]
        command = [sys.executable, "-P", "-m", "densenet_cli", "predict", *sources, *options]
        return run_process(command, self._environment)

    def add(self, task: PredictTask, result: ProcessResult) -> None:
        """Add a result of ``run`` to the timings."""
        self._results[task].append(result)

    def timings(self) -> tuple[CommandTiming, ...]:
        """Summarize the results, single images first."""
        tasks = sorted(self._results, key=lambda task: (task.images, self._engines.index(task.engine)))
        return tuple(
            CommandTiming(
                task.engine,
                task.images,
                Summary.of(result.seconds for result in self._results[task]),
                _summarize_memory(self._results[task]),
            )
            for task in tasks
        )


def _summarize_memory(results: Sequence[ProcessResult]) -> Summary | None:
    values = [result.peak_memory for result in results if result.peak_memory is not None]
    return Summary.of(values) if values else None
