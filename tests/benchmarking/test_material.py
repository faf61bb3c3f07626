"""What is measured with: pictures that decode like photographs, weights that don't vanish or explode."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from densenet_cli import registry
from densenet_cli.benchmarking import material
from densenet_cli.weights import checkpoint
from tests.support.networks import TINY, onnx_outputs


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return material.write_photographs(tmp_path_factory.mktemp("photographs"))


def test_pictures_are_as_large_as_imagenets(photographs):
    assert len(photographs) == material.COUNT
    for path in photographs:
        assert 90_000 < path.stat().st_size < 130_000
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", material.SIZE)
    assert len({path.read_bytes() for path in photographs}) == material.COUNT


def test_pictures_are_smooth_like_photographs(photographs):
    with Image.open(photographs[0]) as image:
        grey = np.asarray(image.convert("L"), np.float64)
    assert 25 < grey.std() < 70
    # Neighbours differ far less than pixels anywhere do; in white noise they would differ as much.
    assert np.abs(np.diff(grey, axis=1)).mean() < 0.3 * np.abs(grey - np.roll(grey, 187, axis=1)).mean()


def test_pictures_are_the_same_at_every_call(photographs, tmp_path):
    again = material.write_photographs(tmp_path)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in photographs]


@pytest.mark.parametrize("config", [TINY, registry.get("121").config], ids=["tiny", "121"])
def test_signals_keep_their_size(config, tmp_path):
    path = tmp_path / "random.safetensors"
    material.write_random_weights(path, config)
    read = checkpoint.read(path)
    assert read.config == config
    pixels = np.random.default_rng(1).normal(0, 1, (1, config.input_size, config.input_size, 3)).astype(np.float32)
    logits = onnx_outputs(read.arrays, config, pixels)
    assert np.isfinite(logits).all()
    assert 0.05 < logits.std() < 50
