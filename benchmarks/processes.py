"""Run commands as whole processes and summarize their wall time and peak memory."""

from __future__ import annotations

import json
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from densenet_cli.benchmarking.processes import CommandFailedError, ProcessResult, run_process

FOLDER = Path(__file__).parent
MEGABYTE = 1_000_000

DENSENET = [str(Path(sysconfig.get_path("scripts")) / "densenet")]

ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "KERAS_BACKEND": "tensorflow",
    # With it, an editable install compiles its modules at every start, unlike an installed package.
    "PYTHONDONTWRITEBYTECODE": None,
    "PYTHONUNBUFFERED": None,
}
"""Changes to the environment of every measured process; None removes a variable."""


def script(name: str, *arguments: object) -> list[str]:
    """Return the command that runs another script of this folder."""
    return [sys.executable, str(FOLDER / f"{name}.py"), *map(str, arguments)]


def run(command: Sequence[str], environment: Mapping[str, str | None] | None = None) -> ProcessResult:
    """Run a command. ``environment`` changes the environment of this process; None removes a variable.

    Raises:
        SystemExit: the command failed. The message contains its output.
    """
    try:
        return run_process(command, {**ENVIRONMENT, **(environment or {})})
    except CommandFailedError as error:
        sys.exit(str(error))


def run_json(command: Sequence[str], environment: Mapping[str, str | None] | None = None) -> Any:
    """Run a command and return the JSON on the last line of its output."""
    return json.loads(run(command, environment).stdout.splitlines()[-1])


def median_seconds(results: Sequence[ProcessResult]) -> float:
    return median(result.seconds for result in results)


def median_megabytes(results: Sequence[ProcessResult]) -> float:
    return median(map(megabytes, results))


def megabytes(result: ProcessResult) -> float:
    """Return the peak memory. Raises SystemExit if the system does not report it."""
    if result.peak_memory is None:
        sys.exit("This system does not report the peak memory of a process.")
    return result.peak_memory / MEGABYTE


def seconds_range(results: Sequence[ProcessResult]) -> str:
    """Return the shortest and the longest time, for a cell."""
    times = sorted(result.seconds for result in results)
    return f"{times[0]:.2f} to {times[-1]:.2f}"
