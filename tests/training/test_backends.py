"""Training on every Keras backend that is installed: the same steps, the same losses (``make test-backends``)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from densenet_cli.layers import array_shapes
from densenet_cli.training import folders
from densenet_cli.weights import safetensors
from densenet_cli.weights.contents import ModelMetadata
from tests.training.digits import NETWORK, write_digits

ROOT = Path(__file__).parents[2]
BACKENDS = [name for name in ("tensorflow", "jax", "torch") if find_spec(name)]

TOLERANCE = 2e-3
"""Relative, of a loss. The backends add in other orders, and steps make more of such differences: in float32, epochs'
training losses were 1e-4 apart after 25 steps and after 50, validation losses up to 1.5e-3."""

FIRST_TOLERANCE = 1e-5
"""The same of the first step, whose loss no step has come before."""


def he_normal(shapes) -> dict[str, dict[str, np.ndarray]]:
    """Weights to start from that don't depend on a backend's random numbers."""
    generator = np.random.default_rng(0)
    fill = {"gamma": np.ones, "moving_variance": np.ones}
    return {
        layer: {
            name: (
                generator.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
                if name == "kernel"
                else fill.get(name, np.zeros)(shape)
            ).astype(np.float32)
            for name, shape in arrays.items()
        }
        for layer, arrays in shapes.items()
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("backends")
    digits = write_digits(folder / "digits")
    labels = folders.class_labels(folders.scan(digits).classes)
    arrays = he_normal(array_shapes(NETWORK))
    safetensors.write(folder / "start.safetensors", arrays, NETWORK, ModelMetadata(labels))
    return {backend: _train(folder, backend) for backend in BACKENDS}


def _train(folder: Path, backend: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.backend_steps", folder],
        env={**os.environ, "KERAS_BACKEND": backend},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_run_and_its_resumption_give_the_same_losses_on_every_backend(found):
    reference = found["tensorflow"]
    for backend, other in found.items():
        assert other["backend"] == backend
        assert len(other["losses"]) == len(reference["losses"]) == 50
        assert other["losses"][0] == pytest.approx(reference["losses"][0], rel=FIRST_TOLERANCE)
        assert other["losses"] == pytest.approx(reference["losses"], rel=TOLERANCE)
        assert other["validation"] == pytest.approx(reference["validation"], rel=TOLERANCE)
