"""The command as a user has it: in this process for speed, or in one of its own."""

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
    status: int
    out: str
    err: str


def densenet(*arguments: object, stdin: bytes = b"") -> Result:
    """Run it in this process. Bytes that are not UTF-8 come back as surrogate escapes."""
    from densenet_cli import cli

    streams = [
        io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="surrogateescape") for data in (stdin, b"", b"")
    ]
    with mock.patch("signal.signal"), mock.patch.multiple(sys, stdin=streams[0], stdout=streams[1], stderr=streams[2]):
        try:
            cli.main(
                [os.fspath(argument) if isinstance(argument, os.PathLike) else str(argument) for argument in arguments]
            )
        except SystemExit as leaving:
            status = leaving.code
    out, err = (read(stream) for stream in streams[1:])
    assert "Traceback" not in err, err
    assert isinstance(status, int)
    return Result(status, out, err)


def hear_interrupts() -> None:
    """For ``preexec_fn``: a shell's background job ignores SIGINT, and so would all that it starts, tests among it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def read(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode("utf-8", "surrogateescape")  # type: ignore[attr-defined]


def process(*arguments: object, **settings) -> subprocess.CompletedProcess[str]:
    """Run it as a process of its own."""
    command = [sys.executable, "-m", "densenet_cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **settings)
