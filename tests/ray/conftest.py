"""Fixtures for tests that run the command on Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.decoders.pillow_heif import heic
from tests.support.ray_cluster import environment

DECODERS = Path(__file__).parents[1] / "support" / "decoders"

RUN_TIMEOUT = 150
"""Seconds for a run of the command. Starting Ray takes 10 s, and much longer on a busy machine."""


@dataclass
class Run:
    """A run of the command that has ended."""

    status: int
    err: str


class Densenet:
    """Runs ``densenet`` in new processes, which a test cannot leave behind."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """Start a run."""
        process = subprocess.Popen(
            [sys.executable, "-m", "densenet_cli", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        self._processes.append(process)
        return process

    def finish(self, process: subprocess.Popen[str]) -> Run:
        """Wait for the end of a run. It must not print to standard output."""
        out, err = process.communicate(timeout=RUN_TIMEOUT)
        assert out == ""
        assert "Traceback" not in err, err
        return Run(process.returncode, err)

    def __call__(self, *arguments: object) -> Run:
        """Run the command to its end."""
        return self.finish(self.start(*arguments))

    def close(self) -> None:
        """End all processes."""
        for process in self._processes:
            process.kill()
            process.communicate()


@pytest.fixture
def densenet():
    """Runs the command in new processes."""
    runner = Densenet()
    yield runner
    runner.close()


@pytest.fixture
def decoders(monkeypatch):
    """Replace pillow-heif by a decoder that is slow or crashes on request, also on the nodes."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(DECODERS), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def images(tmp_path) -> Callable[[list[str]], Path]:
    """Return a function that fills a folder with one image per behavior of the decoder."""

    def fill(behaviors: list[str]) -> Path:
        folder = tmp_path / "images"
        folder.mkdir()
        for number, behavior in enumerate(behaviors):
            (folder / f"{number:04}.heic").write_bytes(heic(behavior, number % 200))
        return folder

    return fill


def join_parts(folder: Path, suffix: str = ".jsonl") -> bytes:
    """Return the contents of all parts in their order."""
    return b"".join(path.read_bytes() for path in sorted(folder.glob(f"part-*{suffix}")))


def read_records(folder: Path) -> list[dict[str, object]]:
    """Return the records of all parts in JSON Lines."""
    return [json.loads(line) for line in join_parts(folder).splitlines()]


def count_done(folder: Path) -> int:
    """Return the number of parts that are done."""
    return len(list(folder.glob("_done/*")))
