"""The cache of decoded images."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densenet_cli.errors import ImageError, OutputError
from densenet_cli.training.image_cache import DecodedOnDemand, MappedImages, open_images
from tests.training.images import blurred_noise


@pytest.fixture
def paths(tmp_path) -> list[str]:
    """A large JPEG, an image with an EXIF orientation, a grayscale image, and a file that is not an image."""
    blurred_noise(900, 600).save(tmp_path / "a.jpg", quality=90)
    exif = Image.Exif()
    exif[0x0112] = 6
    blurred_noise(24, 16, 1).save(tmp_path / "b.jpg", exif=exif)
    blurred_noise(16, 20, 2).convert("L").save(tmp_path / "c.png")
    (tmp_path / "d.png").write_bytes(b"no image")
    return [str(tmp_path / name) for name in ("a.jpg", "b.jpg", "c.png", "d.png")]


def open_with_progress(paths: list[str], folder: Path, max_megabytes: int = 10, min_side: int = 40):
    calls: list[tuple[int, int]] = []
    images = open_images(paths, min_side, folder, max_megabytes, 2, lambda *numbers: calls.append(numbers))
    return images, calls


def test_cached_images_equal_images_decoded_on_demand(paths, tmp_path):
    cached, calls = open_with_progress(paths, tmp_path / "cache")
    assert isinstance(cached, MappedImages)
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    on_demand = DecodedOnDemand(paths, 40)
    for index in range(3):
        actual, expected = cached[index], on_demand[index]
        assert (actual.size, actual.box) == (expected.size, expected.box)
        np.testing.assert_array_equal(np.asarray(actual.image), np.asarray(expected.image))
    assert cached[0].size == (900, 600)
    assert min(cached[0].image.size) == 75, "a large JPEG is decoded at reduced scale"
    assert cached[1].size == (16, 24), "the EXIF orientation is applied"
    for images in (cached, on_demand):
        with pytest.raises(ImageError):
            images[3]
    assert list(cached.errors()) == [3]


def test_images_are_decoded_once(paths, tmp_path):
    open_with_progress(paths, tmp_path / "cache")
    _, calls = open_with_progress(paths, tmp_path / "cache")
    assert calls == []
    blurred_noise(seed=9).save(paths[2])
    _, calls = open_with_progress(paths, tmp_path / "cache")
    assert len(calls) == 4, "a changed file invalidates the cache"


@pytest.mark.skipif(sys.platform != "linux", reason="file names are Unicode")
def test_errors_name_files_that_are_not_utf8(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path / "caf") + b"\xe9.png")
    Path(path).write_bytes(b"no image")
    cached, _ = open_with_progress([path], tmp_path / "cache")
    for images in (cached, DecodedOnDemand([path], 40)):
        with pytest.raises(ImageError, match=r"caf\\xe9\.png: "):
            images[0]


@pytest.mark.parametrize("suffix", [".pixels", ".index"])
@pytest.mark.parametrize("size", [None, 0, 100])
def test_an_incomplete_cache_is_written_again(paths, tmp_path, suffix, size):
    open_with_progress(paths, tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob(f"*{suffix}")
    content = file.read_bytes()
    file.unlink()
    if size is not None:
        file.write_bytes(content[:size])
    images, calls = open_with_progress(paths, tmp_path / "cache")
    assert len(calls) == 4
    assert file.read_bytes() == content
    assert images[2].image.size == (16, 20)


def test_a_dataset_above_the_limit_is_not_cached(paths, tmp_path):
    images, calls = open_with_progress(paths, tmp_path / "cache", max_megabytes=0)
    assert isinstance(images, DecodedOnDemand)
    assert calls == []
    assert not (tmp_path / "cache").exists()


def test_a_cache_folder_that_cannot_be_written_is_an_error(paths, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OutputError, match="cache"):
        open_with_progress(paths, tmp_path / "cache")
