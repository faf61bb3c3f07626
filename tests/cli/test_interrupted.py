"""Interrupted at random moments and resumed, the command loses nothing; ``kill_rounds`` does many more rounds."""

from __future__ import annotations

import os

import pytest

from tests.cli.kill_rounds import prepare, run_round
from tests.support.command import restore_sigint, run_process
from tests.support.networks import tiny_weights


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("interrupted"), 2000)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_three_rounds_of_interruptions_end_as_an_uninterrupted_run(suffix, material, tmp_path):
    kills = sum(run_round(seed, material, tmp_path / f"out{suffix}", most_kills=2).total() for seed in range(3))
    assert kills >= 3


NUMPY = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.{asked})
    time.sleep(1)
except KeyboardInterrupt:
    raise ImportError("as C code says that imports it")
"""


@pytest.mark.parametrize("asked", ["SIGINT", "SIGTERM"])
def test_an_interrupted_import_is_no_error_of_its_own(asked, tmp_path):
    """ONNX Runtime's C code imports numpy, prints a KeyboardInterrupt in its middle, and raises an ImportError."""
    (tmp_path / "numpy.py").write_text(NUMPY.format(asked=asked))
    image = tmp_path / "a.png"
    image.touch()
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    weights = tiny_weights(tmp_path)
    result = run_process("predict", image, "--weights", weights, env=environment, preexec_fn=restore_sigint)
    assert (result.returncode, result.stderr) == (130, "Interrupted.\n")
