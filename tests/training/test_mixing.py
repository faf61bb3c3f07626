"""Mixup, cutmix, and random erasing follow their definitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from densenet_cli.errors import UsageError
from densenet_cli.images.normalization import MEAN, pad_color
from densenet_cli.images.preprocessing import DecodedImage
from densenet_cli.training import mixing
from densenet_cli.training.batches import Subset, TrainingBatches, augment
from densenet_cli.training.phases import Phase
from tests.training.images import SETTINGS, blurred_noise

PLAIN = replace(SETTINGS, sizes=(Phase(16, 3),), batch_size=8, augmentation="none")


class NoiseImages:
    def __getitem__(self, index: int) -> DecodedImage:
        image = blurred_noise(16, 16, index)
        return DecodedImage(image, image.size, (0, 0, *image.size))


def batches(settings) -> TrainingBatches:
    return TrainingBatches(Subset(NoiseImages(), np.arange(64), np.arange(64) % 10), settings, 1)


def mixes(**values):
    """Yield the batches of epochs without and with mixing."""
    for epoch in range(3):
        for number in range(8):
            yield batches(PLAIN).make(epoch, number), batches(replace(PLAIN, **values)).make(epoch, number)


def test_without_mixing(keras):
    batch = batches(PLAIN).make(0, 0)
    np.testing.assert_array_equal(batch.one_hot(10), np.eye(10)[batch.targets])


def test_mixup_averages_images_and_targets():
    shares = []
    for plain, mixed in mixes(mixup=0.4):
        partners, share = mixed.partners, mixed.share
        expected = share * plain.pixels + (1 - share) * plain.pixels[partners]
        np.testing.assert_allclose(mixed.pixels, expected, atol=1e-5)
        eye = np.eye(10)
        expected = share * eye[plain.targets] + (1 - share) * eye[plain.targets[partners]]
        np.testing.assert_allclose(mixed.one_hot(10), expected, atol=1e-6)
        shares.append(share)
    assert len(set(shares)) == len(shares)
    assert min(shares) < 0.3 and max(shares) > 0.7


def test_class_weights_apply_to_both_images_of_a_mix():
    """The weighted loss of a mix is the mix of the weighted losses of its images, for any output of the network."""
    weights, losses = np.linspace(0.2, 3, 10, dtype=np.float32), np.random.default_rng(0).random((8, 10))
    for plain, mixed in mixes(mixup=0.4):
        targets, totals = mixed.weighted_one_hot(weights)
        np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-5)
        own = weights[plain.targets] * losses[np.arange(8), plain.targets]
        other = weights[plain.targets[mixed.partners]] * losses[np.arange(8), plain.targets[mixed.partners]]
        expected = mixed.share * own + (1 - mixed.share) * other
        np.testing.assert_allclose(totals * (targets * losses).sum(axis=1), expected, rtol=1e-5)
        targets, totals = plain.weighted_one_hot(weights)
        np.testing.assert_array_equal(targets, plain.one_hot(10))
        np.testing.assert_array_equal(totals, weights[plain.targets])


def test_cutmix_replaces_a_rectangle_whose_area_is_the_share_of_the_target():
    for plain, mixed in mixes(cutmix=1.0):
        is_replaced = (mixed.pixels != plain.pixels).any(axis=(0, 3))
        rows, columns = np.flatnonzero(is_replaced.any(axis=1)), np.flatnonzero(is_replaced.any(axis=0))
        if len(rows):
            top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
            assert is_replaced[top:bottom, left:right].mean() > 0.9, "a rectangle"
            partner = plain.pixels[mixed.partners]
            np.testing.assert_array_equal(mixed.pixels[:, top:bottom, left:right], partner[:, top:bottom, left:right])
            assert mixed.share == pytest.approx(1 - (bottom - top) * (right - left) / 16**2, abs=0.02)
        else:
            assert mixed.share == 1 or (mixed.partners == np.arange(8)).all()
        np.testing.assert_allclose(mixed.one_hot(10).sum(axis=1), 1, atol=1e-6)


def test_the_area_of_cutmix():
    pixels = np.arange(4 * 32 * 32 * 3, dtype=np.float32).reshape(4, 32, 32, 3)
    for seed in range(50):
        generator = np.random.default_rng(seed)
        wanted = float(generator.uniform())
        mixed = mixing.cutmix(pixels, np.array([1, 2, 3, 0]), wanted, generator)
        replaced = (mixed.pixels != pixels).any(axis=(0, 3)).mean()
        assert mixed.share == pytest.approx(1 - replaced)
        assert mixed.share >= wanted - 0.05, "the border can only make it smaller"


def test_both_alternate():
    kinds = set()
    for plain, mixed in mixes(mixup=1.0, cutmix=1.0):
        if mixed.share < 0.9:
            kinds.add(bool((mixed.pixels == plain.pixels).all(axis=(0, 3)).any()))
    assert kinds == {True, False}


def test_erasing():
    areas, erased = [], 0
    image = NoiseImages()[3]
    for seed in range(400):
        plain = augment(image, 16, PLAIN, np.random.default_rng(seed))
        pixels = augment(image, 16, replace(PLAIN, erase=0.5), np.random.default_rng(seed))
        is_erased = (pixels != plain).any(axis=2)
        if is_erased.any():
            erased += 1
            rows, columns = is_erased.any(axis=1), is_erased.any(axis=0)
            assert is_erased.sum() > 0.8 * rows.sum() * columns.sum()
            assert (pixels[is_erased] == pad_color(MEAN)).all()
            areas.append(rows.sum() * columns.sum() / 256)
    assert 150 < erased < 250
    assert min(areas) < 0.08 and 0.25 < max(areas) < 0.4


def test_unresized_crops():
    """A fraction of the crops are parts of the image. Images that are too small are resized."""
    settings = replace(PLAIN, augmentation="crop", unresized=0.5)
    pixels = np.random.default_rng(0).integers(256, size=(20, 30, 3), dtype=np.uint8)
    image = DecodedImage.at_full_scale(Image.fromarray(pixels))
    parts = {pixels[top : top + 16, left : left + 16].tobytes() for top in range(5) for left in range(15)}
    crops = [augment(image, 16, settings, np.random.default_rng(seed)).tobytes() for seed in range(400)]
    assert 150 < sum(crop in parts for crop in crops) < 250
    assert len(parts.intersection(crops)) > 60
    assert augment(image, 24, replace(settings, unresized=1.0), np.random.default_rng(0)).shape == (24, 24, 3)
    with pytest.raises(UsageError, match="`unresized` requires `augmentation` crop"):
        replace(settings, augmentation="pad")


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixing_needs_one_class_per_image(name):
    with pytest.raises(UsageError, match=f"`{name}`"):
        replace(SETTINGS, multi_label=True, **{name: 0.2})
