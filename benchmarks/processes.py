"""Run commands as whole processes, side by side: wall time and peak memory, medians and ratios.

Keep this module's imports small: on Linux a child's peak memory counts from its parent's at the moment of the fork,
so whoever measures must be smaller than everything that is measured. That is why pictures and weights are made, and
everything with numpy is computed, in processes of their own.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
MEGABYTE = 1_000_000
UNITS_OF_MAXRSS = 1 if sys.platform == "darwin" else 1024

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


@dataclass(frozen=True)
class Sample:
    """One process: seconds of wall time, bytes of peak resident memory, what it printed, and our own peak."""

    seconds: float
    memory: int
    output: str
    ours: int

    @property
    def megabytes(self) -> float:
        """Peak memory. Raises SystemExit where it is not the process's own but what it inherited."""
        if self.memory <= self.ours:
            sys.exit(f"The measuring process takes {self.ours:,} bytes itself: it can't see how little another takes.")
        return self.memory / MEGABYTE


def run(command: Sequence[str], environment: Mapping[str, str | None] | None = None) -> Sample:
    """Run a command to its end. ``environment`` is added to ours; a value of None takes a variable out.

    Raises:
        SystemExit: it failed; what it said is shown.
    """
    variables = dict(os.environ)
    for name, value in {**EVERYWHERE, **(environment or {})}.items():
        if value is None:
            variables.pop(name, None)
        else:
            variables[name] = value
    with tempfile.TemporaryFile() as out:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, env=variables)
        assert process.stderr
        complaints = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        output = out.read().decode()
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{complaints.decode()}")
    ours = resource.getrusage(resource.RUSAGE_SELF)
    return Sample(seconds, usage.ru_maxrss * UNITS_OF_MAXRSS, output, ours.ru_maxrss * UNITS_OF_MAXRSS)


def answer(command: Sequence[str], environment: Mapping[str, str | None] | None = None) -> Any:
    """The JSON on the last line of a command's output."""
    return json.loads(run(command, environment).output.splitlines()[-1])


def seconds_of(samples: Sequence[Sample]) -> float:
    return median(sample.seconds for sample in samples)


def memory_of(samples: Sequence[Sample]) -> float:
    """In megabytes."""
    return median(sample.megabytes for sample in samples)


def spread(samples: Sequence[Sample]) -> str:
    """The fastest and the slowest, for a cell of a table."""
    times = sorted(sample.seconds for sample in samples)
    return f"{times[0]:.2f} to {times[-1]:.2f}"
