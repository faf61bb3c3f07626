"""Thumbnails: made as an image is decoded, whole and upright, and small whatever it shows."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from densenet_cli.errors import ImageError
from densenet_cli.images.decoding import load
from densenet_cli.images.preprocessing import DecodedImage, Preprocessing
from densenet_cli.images.previews import MOST_BYTES, Thumbnail
from densenet_cli.images.sources import from_object
from tests.support.decoding_memory import Recording
from tests.support.images import encode, photograph, rotated, translucent


def thumbnail_of(item: object, **settings) -> Image.Image:
    source = dataclasses.replace(from_object(item), thumbnail=Thumbnail())
    pixels = load(source, Preprocessing(**settings))
    np.testing.assert_array_equal(pixels, load(from_object(item), Preprocessing(**settings)))
    return Image.open(io.BytesIO(source.thumbnail.data))


def difference(item: Image.Image, other: Image.Image) -> float:
    pixels = [np.asarray(image.convert("RGB").resize(item.size), float) for image in (item, other)]
    return float(np.abs(pixels[0] - pixels[1]).mean())


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (2400, 1800), (100, 80), (3000, 1), (1, 3000)])
def test_the_whole_image_no_larger_than_it_is(size):
    item = photograph("chelsea", size)
    small = thumbnail_of(encode(item, "JPEG", quality=95))
    scale = min(160 / max(size), 1)
    assert small.format == "JPEG"
    assert small.size == tuple(max(1, round(side * scale)) for side in size)
    assert difference(small, item) < 7


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright(orientation):
    item = photograph("coffee", (1200, 800))
    small = thumbnail_of(rotated(item, orientation, quality=95))
    assert small.size == (160, 107)
    assert difference(small, item) < 7 < 14 < difference(small.transpose(Image.Transpose.FLIP_LEFT_RIGHT), item)


def test_transparency_is_laid_on_white():
    small = thumbnail_of(encode(translucent(photograph("coffee", (320, 200))), "PNG"))
    assert min(small.convert("RGB").getpixel((0, 50))) > 240


def test_with_keras_a_rotated_image_lies_as_the_network_sees_it():
    small = thumbnail_of(rotated(photograph("coffee", (600, 400)), 6), mode="keras")
    assert small.size == (107, 160)


def test_noise_keeps_to_its_bytes():
    rng = np.random.default_rng(0)
    for size in ((160, 160), (500, 500)):
        thumbnail = Thumbnail()
        noise = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        thumbnail.take(DecodedImage.whole(noise))
        assert 3000 < len(thumbnail.data) <= MOST_BYTES


def test_one_that_fails_has_none():
    source = dataclasses.replace(from_object(b"no image"), thumbnail=Thumbnail())
    with pytest.raises(ImageError):
        load(source, Preprocessing())
    assert source.thumbnail.data is None


def test_memory_is_reserved_for_it():
    """A network of tiny images resizes to less than a thumbnail."""
    data = encode(photograph("coffee", (2000, 1500)), "PNG")
    asked = []
    for thumbnail in (None, Thumbnail()):
        budget = Recording()
        load(dataclasses.replace(from_object(data), thumbnail=thumbnail), Preprocessing(input_size=32), budget)
        asked.append(budget.asked)
    assert asked[1] - asked[0] >= 4 * (160 - 50) * 1500
