"""Previews are made while an image is decoded: whole, upright, and small, whatever the image shows."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from densenet_cli.images.decoding import load
from densenet_cli.images.preprocessing import DecodedImage, Preprocessing
from densenet_cli.images.previews import MAX_JPEG_BYTES, PREVIEWS, DisplayImage, Thumbnail
from densenet_cli.images.sources import from_object
from tests.support.decoding_memory import RecordingBudget
from tests.support.images import encode, photograph, rotated, translucent


def thumbnail_of(item: object, **settings) -> Image.Image:
    """The thumbnail of an image; making it does not change the pixels."""
    source, preprocessing = from_object(item), Preprocessing(**settings)
    loaded = load(source, preprocessing, preview=Thumbnail)
    np.testing.assert_array_equal(loaded.pixels, load(source, preprocessing).pixels)
    return Image.open(io.BytesIO(loaded.preview.jpeg))


def difference(item: Image.Image, other: Image.Image) -> float:
    pixels = [np.asarray(image.convert("RGB").resize(item.size), float) for image in (item, other)]
    return float(np.abs(pixels[0] - pixels[1]).mean())


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (2400, 1800), (100, 80), (3000, 1), (1, 3000)])
def test_thumbnail_shows_the_whole_image_and_never_enlarges_it(size):
    item = photograph("chelsea", size)
    small = thumbnail_of(encode(item, "JPEG", quality=95))
    scale = min(160 / max(size), 1)
    assert small.format == "JPEG"
    assert small.size == tuple(max(1, round(side * scale)) for side in size)
    assert difference(small, item) < 7


@pytest.mark.parametrize("orientation", range(1, 9))
def test_thumbnail_is_upright(orientation):
    item = photograph("coffee", (1200, 800))
    small = thumbnail_of(rotated(item, orientation, quality=95))
    assert small.size == (160, 107)
    assert difference(small, item) < 7 < 14 < difference(small.transpose(Image.Transpose.FLIP_LEFT_RIGHT), item)


def test_thumbnail_has_a_white_background():
    small = thumbnail_of(encode(translucent(photograph("coffee", (320, 200))), "PNG"))
    assert min(small.convert("RGB").getpixel((0, 50))) > 240


def test_thumbnail_in_keras_mode_is_not_rotated():
    small = thumbnail_of(rotated(photograph("coffee", (600, 400)), 6), mode="keras")
    assert small.size == (107, 160)


def test_thumbnail_of_noise_is_small():
    rng = np.random.default_rng(0)
    for size in ((160, 160), (500, 500)):
        noise = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        assert 3000 < len(Thumbnail.make(DecodedImage.at_full_scale(noise)).jpeg) <= MAX_JPEG_BYTES


@pytest.mark.parametrize("kind", PREVIEWS.values())
def test_serialization(kind):
    decoded = DecodedImage.at_full_scale(photograph("coffee", (1200, 800)))
    preview = kind.make(decoded)
    data = preview.to_bytes()
    assert len(data) <= kind.max_bytes
    assert kind.from_bytes(data).to_bytes() == data


@given(cut=st.integers(0, 40), orientation=st.sampled_from([0, 9, 1 << 31]))
def test_damaged_data_is_rejected(cut, orientation):
    data = DisplayImage.make(DecodedImage.at_full_scale(photograph("coffee", (30, 20)))).to_bytes()
    wrong = data[:16] + orientation.to_bytes(4, "little") + data[20:]
    for damaged in (data[:cut], data[:-1], data + b"x", bytes(20) + data[20:], wrong):
        with pytest.raises(ValueError):
            DisplayImage.from_bytes(damaged)
    with pytest.raises(ValueError):
        Thumbnail.from_bytes(b"")


def test_memory_is_reserved_for_the_preview():
    """A small network input is resized to less than a thumbnail."""
    data = encode(photograph("coffee", (2000, 1500)), "PNG")
    reserved = []
    for preview in (None, Thumbnail):
        budget = RecordingBudget()
        load(from_object(data), Preprocessing(input_size=32), budget, preview)
        reserved.append(budget.reserved)
    assert reserved[1] - reserved[0] >= 4 * (160 - 50) * 1500
