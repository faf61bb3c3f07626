"""Training gives the same losses on every installed Keras backend (``make test-backends``)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from densenet_cli import labels
from densenet_cli.layers import array_shapes
from densenet_cli.weights import safetensors
from densenet_cli.weights.contents import ModelMetadata
from tests.training.images import CONFIG, write_digits

ROOT = Path(__file__).parents[2]
BACKENDS = [name for name in ("tensorflow", "jax", "torch") if find_spec(name)]

TOLERANCE = 2e-3
"""Relative tolerance of a loss. The backends sum in different orders, and training steps amplify the differences.
In float32, training losses of an epoch differed by 1e-4 after 25 and after 50 steps, validation losses by up to
1.5e-3."""

FIRST_TOLERANCE = 1e-5
"""Relative tolerance of the loss of the first step."""


def he_normal(shapes) -> dict[str, dict[str, np.ndarray]]:
    """Return initial weights that do not depend on a backend's random numbers."""
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
def results(tmp_path_factory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("backends")
    images = sorted(write_digits(folder / "digits").glob("*/*.png"))
    rows = (f"digits/{path.parent.name}/{path.name},{label_digit(int(path.parent.name))}\n" for path in images)
    (folder / "labels.csv").write_text("path,labels\n" + "".join(rows))
    arrays = he_normal(array_shapes(CONFIG))
    safetensors.write(
        folder / "start.safetensors", arrays, CONFIG, ModelMetadata(labels.from_class_names(map(str, range(10))))
    )
    config = replace(CONFIG, classes=2, activation="sigmoid")
    metadata = ModelMetadata(labels.from_class_names(["even", "nine"]), activation="sigmoid")
    safetensors.write(folder / "start-multi-label.safetensors", he_normal(array_shapes(config)), config, metadata)
    return {backend: _train(folder, backend) for backend in BACKENDS}


def label_digit(digit: int) -> str:
    """Return labels of different frequencies."""
    return "|".join(name for name, has in {"even": digit % 2 == 0, "nine": digit == 9}.items() if has)


def _train(folder: Path, backend: str) -> dict:
    process = subprocess.run(
        [sys.executable, "-m", "tests.training.backend_steps", folder],
        env={**os.environ, "KERAS_BACKEND": backend},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("run", ["plain", "fine-tuning", "multi-label"])
def test_a_resumed_run_has_the_same_losses_on_every_backend(results, run):
    reference = results["tensorflow"]["runs"][run]
    for backend, output in results.items():
        assert output["backend"] == backend
        result = output["runs"][run]
        assert len(result["losses"]) == len(reference["losses"]) >= 50
        assert result["losses"][0] == pytest.approx(reference["losses"][0], rel=FIRST_TOLERANCE)
        assert result["losses"] == pytest.approx(reference["losses"], rel=TOLERANCE)
        assert result["validation"] == pytest.approx(reference["validation"], rel=TOLERANCE)
