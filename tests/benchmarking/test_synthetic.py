"""What is measured with: images that decode like photographs, weights that don't vanish or explode."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from densenet_cli import variants
from densenet_cli.benchmarking import synthetic
from densenet_cli.weights import checkpoint
from tests.support.networks import TINY, onnx_outputs


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return synthetic.write_photographs(tmp_path_factory.mktemp("photographs"))


def test_images_are_as_large_as_imagenets(photographs):
    assert len(photographs) == synthetic.COUNT
    for path in photographs:
        assert 90_000 < path.stat().st_size < 130_000
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", synthetic.SIZE)
    assert len({path.read_bytes() for path in photographs}) == synthetic.COUNT


def test_images_are_smooth_like_photographs(photographs):
    with Image.open(photographs[0]) as image:
        gray = np.asarray(image.convert("L"), np.float64)
    assert 25 < gray.std() < 70
    # Neighbors differ far less than pixels anywhere do; in white noise they would differ as much.
    assert np.abs(np.diff(gray, axis=1)).mean() < 0.3 * np.abs(gray - np.roll(gray, 187, axis=1)).mean()


def test_images_are_the_same_at_every_call(photographs, tmp_path):
    again = synthetic.write_photographs(tmp_path)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in photographs]


@pytest.mark.parametrize("config", [TINY, variants.get("121").config], ids=["tiny", "121"])
def test_signals_keep_their_size(config, tmp_path):
    path = tmp_path / "random.safetensors"
    synthetic.write_random_weights(path, config)
    read = checkpoint.read(path)
    assert read.config == config
    pixels = np.random.default_rng(1).normal(0, 1, (1, config.input_size, config.input_size, 3)).astype(np.float32)
    logits = onnx_outputs(read.arrays, config, pixels)
    assert np.isfinite(logits).all()
    assert 0.05 < logits.std() < 50
