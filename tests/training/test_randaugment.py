"""RandAugment: each operation equals torchvision's, and the operations are random."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densenet_cli.errors import UsageError
from densenet_cli.images.preprocessing import DecodedImage
from densenet_cli.training import randaugment, recipes
from densenet_cli.training.batches import augment
from densenet_cli.training.settings import Settings
from tests.training.images import SETTINGS, blurred_noise

FILL = (124, 116, 104)
PLAIN = replace(SETTINGS, augmentation="none", flip=False)


@pytest.fixture(scope="module")
def recorded():
    with np.load(Path(__file__).parents[1] / "data" / "randaugment.npz") as file:
        return dict(file)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("operation", randaugment.OPERATIONS)
def test_operations_are_those_of_torchvision(recorded, operation, mode):
    image = Image.fromarray(recorded["image"])
    expected, magnitudes = recorded[f"{mode}.{operation}"], recorded[f"{mode}.{operation}.magnitudes"].tolist()
    is_signed = operation in randaugment.MAX_VALUES
    assert magnitudes == [4, -4, 9, -9, 17, -17, 30, -30] if is_signed else [4, 9, 17, 30]
    results = [np.asarray(randaugment.apply(image, operation, value, mode, FILL)) for value in magnitudes]
    differences = np.abs(np.stack(results).astype(int) - expected).max(axis=3)
    if operation.startswith("Shear"):  # torchvision computes their matrix in float32, which affects rounding
        assert (differences > 0).mean() < 0.03 and (differences > 1).mean() < 0.003
    else:
        assert not differences.any()
    if is_signed:
        assert len({result.tobytes() for result in results}) >= 7, "the magnitude and its sign have an effect"


def test_images_get_random_operations(monkeypatch):
    applied: list[tuple[str, int]] = []
    monkeypatch.setattr(randaugment, "apply", lambda image, name, value, *_: applied.append((name, value)) or image)
    decoded = DecodedImage(blurred_noise(16, 16), (16, 16), (0, 0, 16, 16))
    for seed in range(1000):
        augment(decoded, 16, replace(PLAIN, randaugment=(3, 9)), np.random.default_rng(seed))
    assert len(applied) == 3000
    counts = Counter(name for name, _ in applied)
    assert set(counts) == set(randaugment.OPERATIONS)
    assert min(counts.values()) > 150 and max(counts.values()) < 290
    signs = Counter(value for _, value in applied)
    assert set(signs) == {-9, 9} and 1350 < signs[9] < 1650


def test_the_image_depends_on_the_generator_alone():
    decoded = DecodedImage(blurred_noise(16, 16), (16, 16), (0, 0, 16, 16))
    settings = replace(PLAIN, randaugment=(2, 20))
    images = [augment(decoded, 16, settings, np.random.default_rng(seed)) for seed in (1, 1, 2, 3)]
    assert images[0].shape == (16, 16, 3)
    np.testing.assert_array_equal(images[0], images[1])
    assert len({image.tobytes() for image in images}) == 3


def test_recipes_store_it(tmp_path):
    settings = replace(SETTINGS, randaugment=(2, 9))
    recipes.write(tmp_path / "recipe.toml", settings)
    assert Settings.from_dict(recipes.read(tmp_path / "recipe.toml")) == settings


@pytest.mark.parametrize("value", [(2,), (0, 9), (2, 31), (2, -1), (1, 2, 3)])
def test_invalid_values(value):
    with pytest.raises(UsageError, match="`randaugment`"):
        replace(SETTINGS, randaugment=value)
