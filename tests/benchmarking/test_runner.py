"""Synthetic benchmark inputs: images that decode like images, and weights that keep the scale of activations."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from densenet_cli import variants
from densenet_cli.benchmarking import runner
from densenet_cli.weights import checkpoint
from tests.support.networks import TINY, onnx_outputs


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return runner.write_images(tmp_path_factory.mktemp("images"))


def test_images_are_as_large_as_in_imagenet(images):
    assert len(images) == runner.IMAGE_COUNT
    for path in images:
        assert 90_000 < path.stat().st_size < 130_000
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", runner.IMAGE_SIZE)
    assert len({path.read_bytes() for path in images}) == runner.IMAGE_COUNT


def test_images_are_smooth_like_photographs(images):
    with Image.open(images[0]) as image:
        gray = np.asarray(image.convert("L"), np.float64)
    assert 25 < gray.std() < 70
    # Neighboring pixels differ much less than distant ones, unlike in white noise.
    assert np.abs(np.diff(gray, axis=1)).mean() < 0.3 * np.abs(gray - np.roll(gray, 187, axis=1)).mean()


def test_images_are_reproducible(images, tmp_path):
    again = runner.write_images(tmp_path)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in images]


@pytest.mark.parametrize("config", [TINY, variants.get("121").config], ids=["tiny", "121"])
def test_activations_keep_their_scale(config, tmp_path):
    path = tmp_path / "random.safetensors"
    runner.write_random_weights(path, config)
    contents = checkpoint.read(path)
    assert contents.config == config
    pixels = np.random.default_rng(1).normal(0, 1, (1, config.input_size, config.input_size, 3)).astype(np.float32)
    logits = onnx_outputs(contents.arrays, config, pixels)
    assert np.isfinite(logits).all()
    assert 0.05 < logits.std() < 50
