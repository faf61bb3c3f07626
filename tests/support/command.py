"""Run the command in this process, which is fast, or in a new one."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from unittest import mock


@dataclass
class Result:
    """Exit status, standard output, and standard error of a run. Bytes that are not UTF-8 are surrogates."""

    status: int
    out: str
    err: str


def densenet(*arguments: object, stdin: bytes = b"") -> Result:
    """Run ``densenet`` in this process."""
    from densenet_cli import cli

    streams = [
        io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="surrogateescape") for data in (stdin, b"", b"")
    ]
    with mock.patch("signal.signal"), mock.patch.multiple(sys, stdin=streams[0], stdout=streams[1], stderr=streams[2]):
        try:
            cli.main(
                [os.fspath(argument) if isinstance(argument, os.PathLike) else str(argument) for argument in arguments]
            )
        except SystemExit as exit_:
            status = exit_.code
    out, err = (_read(stream) for stream in streams[1:])
    assert "Traceback" not in err, err
    assert isinstance(status, int)
    return Result(status, out, err)


def restore_sigint() -> None:
    """Use as ``preexec_fn``: child processes of a background job would otherwise ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _read(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode("utf-8", "surrogateescape")  # type: ignore[attr-defined]


def run_process(*arguments: object, **settings) -> subprocess.CompletedProcess[str]:
    """Run ``densenet`` in a new process."""
    command = [sys.executable, "-m", "densenet_cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **settings)
