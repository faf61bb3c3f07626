"""The images of a run: how they are decoded and split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densenet_cli.errors import UnreadableImageError
from densenet_cli.images.decoding import load
from densenet_cli.images.sources import from_object
from densenet_cli.training.batches import Subset, TrainingBatches
from densenet_cli.training.image_list import list_images
from densenet_cli.training.options import RunOptions
from densenet_cli.training.phases import Phase
from densenet_cli.training.run_files import RunPaths
from densenet_cli.training.run_images import open_subsets
from densenet_cli.training.settings import Settings
from tests.training.images import blurred_noise

SETTINGS = Settings(blocks=(2, 2), stem="cifar", input_size=32, sizes=(Phase(32, 2),), validation=2, batch_size=2)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two classes of ten large JPEGs with an EXIF orientation, and five small PNG files with transparency."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for position, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            image = blurred_noise(600, 480, 100 * position + number)
            image.save(tmp_path / "photos" / name / f"{number}.jpg", quality=90, exif=exif)
        for number in range(10, 15):
            image = blurred_noise(40, 60, 100 * position + number)
            image.putalpha(120)
            image.save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


def open_photos(photos: Path, settings: Settings = SETTINGS, val: Path | None = None, **options) -> tuple[Subset, ...]:
    paths = RunPaths(photos, val, photos.parent / "run", photos.parent / "cache")
    training = list_images(str(photos))
    validation = list_images(str(val), training.classes) if val else None
    return open_subsets(paths, training, validation, settings, RunOptions(**options), {})


@pytest.mark.parametrize("cache_limit", [8000, 0])
@pytest.mark.parametrize("has_folder", [False, True])
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"crop_area": 1.0},
        {"interpolation": "nearest"},
        {"preprocess": "keras"},
        {"preprocess": "squash", "interpolation": "bicubic"},
        {"sizes": (Phase(96, 2),)},
    ],
)
def test_validation_pixels_are_those_of_predict(photos, values, has_folder, cache_limit):
    settings = replace(SETTINGS, **values)
    _, validation = open_photos(photos, settings, photos if has_folder else None, cache_limit=cache_limit)
    assert len(validation) == (30 if has_folder else 4)
    assert_pixels_of_predict(validation, settings)


@pytest.mark.parametrize("values", [{}, {"interpolation": "nearest"}, {"preprocess": "keras"}, {"crop_area": 0.01}])
def test_features_are_computed_from_the_pixels_of_predict(photos, values):
    settings = replace(SETTINGS, start="tiny", freeze="all", **values)
    for subset in open_photos(photos, settings):
        assert_pixels_of_predict(subset, settings)


def assert_pixels_of_predict(subset: Subset, settings: Settings) -> None:
    from densenet_cli.training.features import make_views

    for index in subset.indices:
        path = subset.images.paths[index]
        expected = load(from_object(path), settings.preprocessing).pixels[0]
        np.testing.assert_array_equal(make_views(subset.images[index], 0, 0, settings)[0], expected, path)


def test_random_crops_are_not_enlarged(photos):
    """Also if they are views of images whose features are computed."""
    for values in ({}, {"start": "tiny", "freeze": "all", "views": 2}):
        training, _ = open_photos(photos, replace(SETTINGS, crop_area=0.01, **values))
        sizes = [training.images[n].image.size for n in training.indices if training.images.paths[n].endswith(".jpg")]
        assert min(map(min, sizes)) >= 320


def write_unreadable_images(photos: Path) -> None:
    for name in ("cat/0.jpg", "cat/3.jpg", "cat/12.png", "dog/1.jpg", "dog/11.png"):
        (photos / name).write_bytes(b"no image")


def test_the_cache_does_not_affect_the_split_and_the_batches(photos):
    """A run can thus be resumed with another ``cache_limit``, or after an image was found to be unreadable."""
    settings = replace(SETTINGS, seed=1)
    _, expected = open_photos(photos, settings)
    write_unreadable_images(photos)
    batches = []
    for cache_limit in (8000, 0):
        training, validation = open_photos(photos, settings, cache_limit=cache_limit, skip_unreadable=True)
        paths = {
            name: [part.images.paths[n] for n in part.indices] for name, part in (("t", training), ("v", validation))
        }
        assert not set(paths["t"]) & set(paths["v"])
        assert paths["v"] == [expected.images.paths[n] for n in expected.indices]
        epoch = list(TrainingBatches(training, settings, 1, skip_unreadable=True).epoch(1))
        batches.append(epoch)
        assert len(epoch) == 13
    for cached, decoded in zip(*batches, strict=True):
        np.testing.assert_array_equal(cached.pixels, decoded.pixels)
        np.testing.assert_array_equal(cached.targets, decoded.targets)


def test_a_class_whose_training_images_are_unreadable(photos):
    training, _ = open_photos(photos)
    for index in training.indices[training.targets == 1]:
        Path(training.images.paths[index]).write_bytes(b"no image")
    with pytest.raises(UnreadableImageError, match="'dog'"):
        open_photos(photos, skip_unreadable=True)


def test_an_image_without_others_of_the_same_labels_is_replaced_by_any(photos):
    write_unreadable_images(photos)
    images = open_photos(photos, cache_limit=0, skip_unreadable=True)[0].images
    indices = np.arange(6)
    targets = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1], [1, 0, 0], [1, 0, 1]])
    settings = replace(SETTINGS, multi_label=True, batch_size=6)
    batch = TrainingBatches(Subset(images, indices, targets), settings, 1, skip_unreadable=True).make(0, 0)
    unreadable = [n for n in indices if Path(images.paths[n]).read_bytes() == b"no image"]
    assert unreadable
    assert not [row for row in batch.targets.tolist() if row in targets[unreadable].tolist()]
