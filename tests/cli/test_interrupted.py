"""A run that is interrupted at random moments and resumed loses nothing. ``kill_rounds`` runs more rounds."""

from __future__ import annotations

import os

import pytest

from tests.cli.kill_rounds import prepare, run_round
from tests.support.command import restore_sigint, run_process
from tests.support.networks import tiny_weights


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("interrupted"), 2000)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_interrupted_runs_write_the_bytes_of_an_uninterrupted_run(suffix, dataset, tmp_path):
    kills = sum(run_round(seed, dataset, tmp_path / f"out{suffix}", max_kills=2).total() for seed in range(3))
    assert kills >= 3


NUMPY = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.{name})
    time.sleep(1)
except KeyboardInterrupt:
    raise ImportError("as raised by the C code that imports numpy")
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_during_an_import(name, tmp_path):
    """The C code of ONNX Runtime imports numpy. It prints a KeyboardInterrupt there and raises an ImportError."""
    (tmp_path / "numpy.py").write_text(NUMPY.format(name=name))
    image = tmp_path / "a.png"
    image.touch()
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    weights = tiny_weights(tmp_path)
    result = run_process("predict", image, "--weights", weights, env=environment, preexec_fn=restore_sigint)
    assert (result.returncode, result.stderr) == (130, "Interrupted.\n")
