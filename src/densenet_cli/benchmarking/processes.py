"""A command run to its end as a process of its own: how long it took, and the most memory it held.

A small process stands between: on Linux the peak memory of a child counts from its parent's at the moment of the fork,
so that who measures has to be smaller than all that is measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from densenet_cli.errors import DensenetError

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
"""What the small process runs: its arguments are the command."""


class CommandFailedError(DensenetError):
    """A command that was to be measured ended otherwise than it should."""


@dataclass(frozen=True)
class Run:
    """One process.

    Attributes:
        seconds: of wall time, from its start to its end.
        memory: the most bytes that it held in memory at once; None where the system doesn't tell.
        output: what it wrote to standard output.
        complaints: what it wrote to standard error.
    """

    seconds: float
    memory: int | None
    output: str
    complaints: str


def run(command: Sequence[str], environment: Mapping[str, str | None] | None = None) -> Run:
    """Run a command to its end.

    Args:
        command: program and arguments; nothing is on its standard input.
        environment: added to ours; None takes a variable out.

    Raises:
        CommandFailed: it could not be started, or its exit status is not 0; what it said is in the message.
    """
    launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, *command]
    done = subprocess.run(launcher, capture_output=True, env=combined(environment), check=False)
    if done.returncode:
        raise CommandFailedError(f"{command[0]} could not be run: {_last_line(done.stderr.decode('utf-8', 'replace'))}")
    status, seconds, memory, output, complaints = json.loads(done.stdout)
    if status:
        raise CommandFailedError(f"{' '.join(command)} ended with {status}: {complaints.strip() or 'it said nothing'}")
    return Run(seconds, memory, output, complaints)


def combined(environment: Mapping[str, str | None] | None) -> dict[str, str]:
    """Our environment with ``environment`` added; a value of None takes a variable out."""
    variables = dict(os.environ)
    for name, value in (environment or {}).items():
        if value is None:
            variables.pop(name, None)
        else:
            variables[name] = value
    return variables


def _last_line(text: str) -> str:
    return next(reversed(text.strip().splitlines()), "it said nothing")
