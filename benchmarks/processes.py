"""Run commands as whole processes, side by side: wall time and peak memory, medians and ratios."""

from __future__ import annotations

import json
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from densenet_cli.benchmarking import processes
from densenet_cli.benchmarking.processes import CommandFailedError
from densenet_cli.benchmarking.processes import ProcessResult as Run

HERE = Path(__file__).parent
MEGABYTE = 1_000_000

DENSENET = [str(Path(sysconfig.get_path("scripts")) / "densenet")]


EVERYWHERE = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "KERAS_BACKEND": "tensorflow",
    # With it a checkout's modules are compiled at every start; installed ones never are.
    "PYTHONDONTWRITEBYTECODE": None,
    "PYTHONUNBUFFERED": None,
}
"""Environment of every process that is measured; None takes a variable out."""


def script(name: str, *arguments: object) -> list[str]:
    """The command that runs another script of this folder."""
    return [sys.executable, str(HERE / f"{name}.py"), *map(str, arguments)]


def run(command: Sequence[str], environment: Mapping[str, str | None] | None = None) -> Run:
    """Run a command to its end. ``environment`` is added to ours; a value of None takes a variable out.

    Raises:
        SystemExit: it failed; what it said is shown.
    """
    try:
        return processes.run_process(command, {**EVERYWHERE, **(environment or {})})
    except CommandFailedError as error:
        sys.exit(str(error))


def answer(command: Sequence[str], environment: Mapping[str, str | None] | None = None) -> Any:
    """The JSON on the last line of a command's output."""
    return json.loads(run(command, environment).stdout.splitlines()[-1])


def seconds_of(samples: Sequence[Run]) -> float:
    return median(sample.seconds for sample in samples)


def memory_of(samples: Sequence[Run]) -> float:
    """In megabytes."""
    return median(megabytes_of(sample) for sample in samples)


def megabytes_of(sample: Run) -> float:
    """Of peak memory. Raises SystemExit where the system doesn't tell."""
    if sample.peak_memory is None:
        sys.exit("This system doesn't tell how much memory a process took.")
    return sample.peak_memory / MEGABYTE


def spread(samples: Sequence[Run]) -> str:
    """The fastest and the slowest, for a cell of a table."""
    times = sorted(sample.seconds for sample in samples)
    return f"{times[0]:.2f} to {times[-1]:.2f}"
