"""Preprocessing gives the pixels of torchvision and Keras, in bounded memory for images of any shape."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from densenet_cli.errors import UsageError
from densenet_cli.images.normalization import MEAN, normalize, pad_color
from densenet_cli.images.preprocessing import MODES, WORKSPACE_PIXELS, Preprocessing, crop_ratio
from tests.support.images import (
    ENCODINGS,
    PHOTOGRAPHS,
    PILLOW_MODES,
    animation,
    encode,
    load_pixels,
    photograph,
    rotated,
)

pytestmark = pytest.mark.filterwarnings("ignore:Palette images:UserWarning")  # Pillow's, when Keras loads the image


def torchvision(image: Image.Image, resize: int = 256, crop: int = 224) -> np.ndarray:
    """Compute ``CenterCrop(crop)(Resize(resize)(image))`` as torchvision documents it for PIL images.

    Resize: the smaller edge is matched to ``size``, the other is ``int(size * longer / shorter)``, by
    ``PIL.Image.resize`` with BILINEAR. CenterCrop: the corner is at ``int(round((side - crop) / 2.0))``.
    """
    width, height = image.size
    shorter, longer = (width, height) if width <= height else (height, width)
    new_longer = int(resize * longer / shorter)
    size = (resize, new_longer) if width <= height else (new_longer, resize)
    resized = image if size == image.size else image.resize(size, Image.BILINEAR)
    left, top = int(round((size[0] - crop) / 2.0)), int(round((size[1] - crop) / 2.0))  # noqa: RUF046
    return np.asarray(resized.crop((left, top, left + crop, top + crop)))


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_crop_matches_torchvision(name):
    image = photograph(name)
    assert np.array_equal(load_pixels(image)[0], torchvision(image))
    assert np.array_equal(load_pixels(encode(image, "PNG"))[0], torchvision(image))


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 700), height=st.integers(1, 700), input_size=st.sampled_from([32, 64, 224, 299]))
def test_crop_matches_torchvision_at_any_size(width, height, input_size):
    image = photograph("coffee", (width, height))
    resize = round(input_size * 256 / 224)
    assume(resize * resize * max(width, height) // min(width, height) <= WORKSPACE_PIXELS)
    assert np.array_equal(load_pixels(image, input_size=input_size)[0], torchvision(image, resize, input_size))


@pytest.mark.parametrize("size", [(3, 400), (400, 3), (40, 4000), (4000, 40), (1, 300), (7, 1001)])
def test_elongated_images_match_resizing_as_a_whole(size):
    """Only the visible part is resized. The pixels are the same except for rounding."""
    assert 256 * 256 * max(size) // min(size) > WORKSPACE_PIXELS
    image = photograph("rocket", size)
    difference = np.abs(load_pixels(image)[0].astype(int) - torchvision(image))
    assert difference.max() <= 1 and difference.mean() < 0.05


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 3), (1, 200_000), (224, 224), (256, 256)])
def test_any_shape_in_bounded_memory(mode, size, monkeypatch):
    """No intermediate image is larger than the limit or the image itself."""
    largest = 0
    resize = Image.Image.resize

    def recording_resize(self, size, resample=None, box=None, reducing_gap=None):
        nonlocal largest
        rows = (box[3] - box[1] if box else self.height) + 4
        largest = max(largest, size[0] * size[1], size[0] * rows)
        return resize(self, size, resample, box, reducing_gap)

    image = photograph("coffee", size)
    monkeypatch.setattr(Image.Image, "resize", recording_resize)
    assert load_pixels(image, mode=mode).shape == (1, 224, 224, 3)
    if mode != "keras":  # nearest-neighbor resizing has no intermediate image
        assert largest <= max(WORKSPACE_PIXELS + 4 * 256, size[0] * size[1])


@settings(max_examples=80, deadline=None)
@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    mode=st.sampled_from(sorted(MODES)),
    pillow_mode=st.sampled_from(sorted(PILLOW_MODES)),
    input_size=st.integers(1, 100),
)
def test_any_mode_size_and_pillow_mode(width, height, mode, pillow_mode, input_size):
    assume(mode != "keras" or pillow_mode != "La")  # Pillow cannot convert La to RGB
    image = PILLOW_MODES[pillow_mode](photograph("rocket", (width, height)))
    pixels = load_pixels(image, mode=mode, input_size=input_size)
    assert pixels.shape == (1, input_size, input_size, 3)
    assert pixels.dtype == np.uint8


def test_squash_resizes_the_whole_image():
    image = photograph("chelsea")
    assert np.array_equal(load_pixels(image, mode="squash")[0], np.asarray(image.resize((224, 224), Image.BILINEAR)))


@pytest.mark.parametrize("size", [(400, 200), (200, 400), (300, 300), (1, 5000)])
def test_pad_keeps_the_aspect_ratio_and_fills_with_the_mean_color(size):
    image = Image.new("RGB", size, (255, 0, 0))
    pixels = load_pixels(image, mode="pad")[0]
    red = (pixels == (255, 0, 0)).all(axis=2)
    width, height = (max(1, round(224 * side / max(size))) for side in size)
    assert red.sum() == width * height
    assert red.any(axis=0).sum() == width and red.any(axis=1).sum() == height
    assert (pixels[~red] == pad_color(MEAN)).all()
    assert abs(int(red[:, :112].sum()) - int(red[:, 112:].sum())) <= height


def test_mean_color_is_nearly_zero_after_normalization():
    assert np.abs(normalize(np.full((1, 2, 2, 3), pad_color(MEAN), np.uint8))).max() < 0.01


def test_ten_crops_are_corners_center_and_mirror_images():
    image = photograph("coffee")
    crops = load_pixels(image, ten_crop=True)
    assert crops.shape == (10, 224, 224, 3)
    resized = np.asarray(image.resize((384, 256), Image.BILINEAR))
    assert image.size == (600, 400)
    for index, (top, left) in enumerate([(0, 0), (0, 160), (32, 0), (32, 160), (16, 80)]):
        assert np.array_equal(crops[index], resized[top : top + 224, left : left + 224])
    assert np.array_equal(crops[5:], crops[:5, :, ::-1])
    assert np.array_equal(crops[4], load_pixels(image)[0])


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_keras_mode_matches_keras_for_every_format(encoding, keras, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(encoding.encode(photograph("coffee", (301, 203) if encoding.format != "ICO" else (64, 48))))
    assert_same_as_keras(keras, path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_keras_mode_ignores_the_orientation_as_keras_does(orientation, keras, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(rotated(photograph("coffee"), orientation))
    assert_same_as_keras(keras, path)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_keras_mode_matches_keras_for_animations(format, keras, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(animation(format))
    assert_same_as_keras(keras, path)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (224, 224), (3000, 2000)])
def test_keras_mode_matches_keras_at_any_size(size, keras, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(encode(photograph("astronaut", size), "JPEG"))
    assert_same_as_keras(keras, path)


def assert_same_as_keras(keras, path) -> None:
    loaded = keras.utils.img_to_array(keras.utils.load_img(path, target_size=(224, 224)))
    expected = keras.applications.densenet.preprocess_input(loaded[None])
    actual = normalize(load_pixels(path, mode="keras"))
    assert actual.dtype == expected.dtype == np.float32
    assert np.array_equal(actual, expected)


def test_normalization_matches_keras_for_every_level(keras):
    levels = np.stack([np.arange(256, dtype=np.uint8)] * 3, axis=-1).reshape(1, 16, 16, 3)
    expected = keras.applications.densenet.preprocess_input(levels.astype(np.float32))
    assert np.array_equal(normalize(levels), expected)


def test_decoding_a_large_jpeg_at_reduced_scale_changes_little():
    collage = Image.new("RGB", (2400, 1700))  # photographs at full scale, with much detail
    for index in range(24):
        collage.paste(photograph(PHOTOGRAPHS[index % 4]), (index % 5 * 480, index // 5 * 350))
    data = encode(collage, "JPEG", quality=90)
    exact, reduced = load_pixels(data, exact=True)[0].astype(int), load_pixels(data)[0].astype(int)
    difference = np.abs(exact - reduced)
    assert difference.any()
    assert difference.max() <= 8 and difference.mean() < 0.5
    assert np.array_equal(exact, torchvision(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("mode", ["crop", "squash", "pad"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_scale_does_not_shift_the_image(mode, orientation):
    """The last column and row of a reduced image are padded: half of 1303x1101 is 652x551."""
    data = rotated(photograph("chelsea", (1303, 1101)), orientation, quality=95)
    exact, reduced = (
        load_pixels(data, mode=mode, exact=True)[0].astype(int),
        load_pixels(data, mode=mode)[0].astype(int),
    )
    difference = np.abs(exact - reduced)
    assert 0 < difference.max() <= 6 and difference.mean() < 0.4


@pytest.mark.parametrize("size", [(1000, 1000), (1023, 4000)])
def test_smaller_jpegs_are_decoded_at_full_scale(size):
    data = encode(photograph("chelsea", size), "JPEG")
    assert np.array_equal(load_pixels(data), load_pixels(data, exact=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "center"}, "crop, squash, pad, keras"),
        ({"ten_crop": True, "mode": "pad"}, "requires"),
        ({"input_size": 0}, "at least 1"),
    ],
)
def test_invalid_settings(settings, message):
    with pytest.raises(UsageError, match=message):
        Preprocessing(**settings)


@given(input_size=st.integers(1, 1000), margin=st.integers(0, 1000))
def test_a_crop_ratio_stands_for_every_number_of_pixels(input_size, margin):
    """224 / (224 / size) is below many a size, because of rounding."""
    resize_side = input_size + min(margin, 98 * input_size)
    ratio = crop_ratio(input_size, resize_side)
    assert Preprocessing(input_size=input_size, crop_ratio=ratio).resize_side == resize_side


@pytest.mark.parametrize("input_size", [1, 32, 64, 223, 224, 299, 331])
def test_resized_image_is_never_smaller_than_the_crop(input_size):
    side = Preprocessing(input_size=input_size).resize_side
    assert side >= input_size
    assert math.isclose(side, input_size * 256 / 224, abs_tol=0.5)
