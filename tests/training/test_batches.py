"""Augmentation and batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from densenet_cli.errors import ImageError
from densenet_cli.images.normalization import MEAN, normalize, pad_color
from densenet_cli.images.preprocessing import DecodedImage
from densenet_cli.training.batches import (
    Subset,
    TrainingBatches,
    augment,
    padded_crop,
    random_resized_crop,
    validation_batches,
)
from densenet_cli.training.phases import Phase
from densenet_cli.training.settings import Settings
from tests.training.images import blurred_noise

SETTINGS = Settings(sizes=(Phase(8, 2), Phase(12, 1)), batch_size=4, input_size=16, blocks=(2, 2), stem="cifar")


def test_a_crop_of_the_whole_image_only_resizes_it():
    class WholeImage:
        """A generator that selects all of a square image."""

        def uniform(self, low, high):
            return 1.0 if high == 1 else 0.0

        def random(self):
            return 0.0

    image = blurred_noise(16, 16)
    crop = random_resized_crop(DecodedImage.at_full_scale(image), 8, 0.3, WholeImage())
    np.testing.assert_array_equal(crop, np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR)))


def test_random_crops_stay_in_the_range_of_area_and_aspect_ratio():
    # Each pixel contains its column and row, so the corners of a crop show where it was cut.
    side = 240
    columns, rows = np.meshgrid(np.arange(side), np.arange(side))
    whole = DecodedImage.at_full_scale(Image.fromarray(np.stack([columns, rows, rows], axis=2).astype(np.uint8)))
    generator = np.random.default_rng(0)
    areas, aspects = [], []
    for _ in range(300):
        crop = random_resized_crop(whole, 60, 0.35, generator).astype(float)
        width, height = ((crop[-1, -1, n] - crop[0, 0, n]) * 60 / 59 for n in (0, 1))
        areas.append(width * height / side**2)
        aspects.append(width / height)
    assert min(areas) > 0.3
    assert max(areas) < 1.02
    assert np.mean(areas) == pytest.approx(0.65, abs=0.06)
    assert min(aspects) > 0.72
    assert max(aspects) < 1.4


def test_padded_crops_shift_by_up_to_an_eighth():
    pixels = np.arange(32 * 32 * 3, dtype=np.uint32).reshape(32, 32, 3).astype(np.uint8)
    whole = DecodedImage.at_full_scale(Image.fromarray(pixels))
    padded = np.full((40, 40, 3), pad_color(MEAN), np.uint8)
    padded[4:36, 4:36] = pixels
    windows = {padded[y : y + 32, x : x + 32].tobytes() for y in range(9) for x in range(9)}
    generator = np.random.default_rng(0)
    crops = {padded_crop(whole, 32, generator).tobytes() for _ in range(600)}
    assert crops <= windows
    assert len(crops) > 70


def test_half_of_the_images_are_flipped():
    whole = DecodedImage.at_full_scale(blurred_noise(8, 8))
    original = np.asarray(whole.image)
    settings = replace(SETTINGS, augmentation="none")
    generator = np.random.default_rng(0)
    flipped = 0
    for _ in range(200):
        augmented = augment(whole, 8, settings, generator)
        is_original = (augmented == original).all()
        assert is_original or (augmented == original[:, ::-1]).all()
        flipped += not is_original
    assert 70 < flipped < 130
    assert (augment(whole, 8, replace(settings, flip=False), generator) == original).all()


def test_images_are_normalized_and_resized_as_the_settings_state():
    settings = replace(
        SETTINGS,
        sizes=(Phase(12, 1),),
        preprocess="squash",
        flip=False,
        mean=(0.1, 0.2, 0.3),
        std=(0.5, 0.25, 2.0),
        interpolation="bicubic",
    )
    bicubic = np.stack([np.asarray(TenImages()[n].image.resize((12, 12), Image.Resampling.BICUBIC)) for n in range(10)])
    expected = normalize(bicubic, settings.mean, settings.std)
    batch = TrainingBatches(subset(), replace(settings, augmentation="none", batch_size=10), 1).make(0, 0)
    assert {image.tobytes() for image in batch.pixels} == {image.tobytes() for image in expected}
    preprocessing = replace(settings, input_size=12).preprocessing
    (validation,) = validation_batches(subset(), preprocessing, 10, 1)
    np.testing.assert_array_equal(validation.pixels, expected)
    gray = DecodedImage.at_full_scale(Image.new("RGB", (16, 16), pad_color(settings.mean)))
    padded = augment(gray, 16, replace(settings, augmentation="pad"), np.random.default_rng(0))
    assert (padded == pad_color(settings.mean)).all()
    crops = [
        random_resized_crop(TenImages()[0], 8, 0.3, np.random.default_rng(1), method)
        for method in ("bicubic", "bilinear")
    ]
    assert (crops[0] != crops[1]).any()


class TenImages:
    """Ten images, some of which cannot be decoded."""

    def __init__(self, unreadable: frozenset[int] = frozenset()) -> None:
        self._unreadable = unreadable

    def __getitem__(self, index: int, /) -> DecodedImage:
        if index in self._unreadable:
            raise ImageError(f"{index} is unreadable")
        return DecodedImage.at_full_scale(blurred_noise(16, 16, seed=int(index)))


def subset(images: TenImages | None = None) -> Subset:
    return Subset(images or TenImages(), np.arange(10), np.arange(10) % 2)


def test_batches_do_not_depend_on_threads_or_the_first_batch():
    one_thread = [list(TrainingBatches(subset(), SETTINGS, 1).epoch(epoch)) for epoch in range(3)]
    three_threads = [list(TrainingBatches(subset(), SETTINGS, 3).epoch(epoch)) for epoch in range(3)]
    assert [batch.pixels.shape for batch in one_thread[2]] == [(4, 12, 12, 3)] * 2
    for epoch, other_epoch in zip(one_thread, three_threads, strict=True):
        for batch, other in zip(epoch, other_epoch, strict=True):
            np.testing.assert_array_equal(batch.pixels, other.pixels)
            np.testing.assert_array_equal(batch.targets, other.targets)
    (last,) = TrainingBatches(subset(), SETTINGS, 2).epoch(1, first=1)
    np.testing.assert_array_equal(last.pixels, one_thread[1][1].pixels)
    assert not np.array_equal(one_thread[0][0].pixels, one_thread[1][0].pixels)


def test_targets_belong_to_their_images():
    settings = replace(SETTINGS, augmentation="none", flip=False, sizes=(Phase(16, 1),))
    (first, *_) = TrainingBatches(subset(), settings, 1).epoch(0)
    seeds = {normalize(np.asarray(blurred_noise(16, 16, seed))[None])[0].tobytes(): seed for seed in range(10)}
    assert [seeds[pixels.tobytes()] % 2 for pixels in first.pixels] == first.targets.tolist()


def test_an_unreadable_image_ends_the_epoch_or_is_replaced():
    images = subset(TenImages(frozenset({2, 4})))
    with pytest.raises(ImageError, match="is unreadable"):
        for epoch in range(3):
            list(TrainingBatches(images, SETTINGS, 2).epoch(epoch))
    for epoch in range(3):
        for batch in TrainingBatches(images, SETTINGS, 2, skip_unreadable=True).epoch(epoch):
            assert len(batch.pixels) == 4
