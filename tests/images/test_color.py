"""Embedded color profiles: which are converted, to which values, and which are ignored."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageCms

from densenet_cli.images.color import MAX_PROFILES, _converters, find_converter, is_srgb
from densenet_cli.images.decoding import load
from densenet_cli.images.isolation import WorkerPool
from densenet_cli.images.memory import DecodeBudget
from densenet_cli.images.preprocessing import Preprocessing
from densenet_cli.images.previews import DisplayImage
from densenet_cli.images.sources import from_object
from tests.support import color_profiles as profiles
from tests.support.images import encode, load_pixels, photograph

PHOTO = photograph("coffee", (240, 200))
EXACT = {"mode": "squash", "input_size": 200}


def pixels(data: object) -> np.ndarray:
    return load_pixels(data, **EXACT)[0].astype(float)


def square(image: Image.Image = PHOTO) -> Image.Image:
    return image.resize((200, 200))


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG", "AVIF"])
def test_colors_are_converted_to_srgb(format):
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}, "AVIF": {"quality": 95}}.get(format, {})
    tagged = encode(square(), format, icc_profile=profiles.rgb_profile(), **options)
    plain = pixels(encode(square(), format, **options))
    assert np.abs(pixels(tagged) - profiles.to_srgb(plain)).max() < 1.6
    assert np.abs(pixels(tagged) - plain).max() > 30


def test_display_p3():
    data = encode(square(), "PNG", icc_profile=profiles.rgb_profile(profiles.DISPLAY_P3, profiles.srgb_table()))
    source = ((np.asarray(square()) / 255 + 0.055) / 1.055) ** 2.4  # the dark end is linear, so compare above it
    bright = (np.asarray(square()) > 20).all(axis=2)
    expected = profiles.to_srgb(255 * source, profiles.DISPLAY_P3, 1.0)
    assert np.abs(pixels(data) - expected)[bright].max() < 1.6


def test_profiles_do_not_matter_in_keras_mode():
    data = encode(PHOTO, "PNG", icc_profile=profiles.rgb_profile())
    assert np.array_equal(load_pixels(data, mode="keras"), load_pixels(encode(PHOTO, "PNG"), mode="keras"))


@pytest.mark.parametrize("mode", ["RGBA", "P", "RGB transparent"])
def test_other_modes_with_an_rgb_profile(mode):
    image = square()
    options = {}
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    elif mode == "P":
        image = image.quantize(64)
    else:
        options["transparency"] = image.getpixel((0, 0))
    layer = np.asarray(Image.open(io.BytesIO(encode(image, "PNG", **options))).convert("RGBA")).astype(float)
    alpha = layer[..., 3:] / 255
    expected = profiles.to_srgb(layer[..., :3]) * alpha + 255 * (1 - alpha)
    assert np.abs(pixels(encode(image, "PNG", icc_profile=profiles.rgb_profile(), **options)) - expected).max() < 2


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_gray_profiles(mode):
    gray = square().convert("L")
    levels = np.asarray(gray).astype(float)
    image = Image.fromarray((levels * 257).astype(np.uint16)) if mode == "I;16" else gray.convert(mode)
    expected = profiles.to_srgb(levels[..., None].repeat(3, 2), profiles.SRGB, 1.8)
    actual = pixels(encode(image, "PNG" if mode != "I;16" else "TIFF", icc_profile=profiles.gray_profile()))
    bright = levels > 10
    assert np.abs(actual - expected)[bright].max() < 2 and np.ptp(actual, axis=2).max() == 0


def test_cmyk_profiles():
    inks = np.zeros((200, 200, 4), np.uint8)
    inks[:100, :, 3] = 255
    inks[:, :100, 0] = 255
    image = Image.fromarray(inks, "CMYK")
    data = encode(image, "TIFF", icc_profile=profiles.cmyk_profile())
    actual = pixels(data)
    assert np.abs(actual[150, 150] - 255).max() <= 1 and actual[50, 150].max() <= 1
    assert actual[150, 50].max() <= 1  # black ink by this profile, but cyan by a formula
    assert pixels(encode(image, "TIFF"))[150, 50].max() == 255


@pytest.mark.parametrize(
    "profile",
    [
        profiles.rgb_profile(profiles.SRGB, profiles.srgb_table()),
        profiles.rgb_profile(profiles.SRGB, profiles.srgb_table(64)),
        profiles.rgb_profile(profiles.SRGB, profiles.srgb_function()),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    ],
    ids=["table", "short table", "function", "Little CMS"],
)
def test_an_srgb_profile_changes_nothing(profile):
    assert is_srgb(profile)
    assert np.array_equal(pixels(encode(PHOTO, "PNG", icc_profile=profile)), pixels(encode(PHOTO, "PNG")))


def test_a_gray_profile_with_the_curve_of_srgb_changes_nothing():
    assert is_srgb(profiles.gray_profile(profiles.srgb_table()))
    assert not is_srgb(profiles.gray_profile())


def test_the_name_of_a_profile_does_not_matter():
    assert not is_srgb(profiles.rgb_profile(name=b"sRGB IEC61966-2.1"))
    assert not is_srgb(profiles.rgb_profile(profiles.SRGB, profiles.gamma_curve(2.2)))
    assert not is_srgb(profiles.rgb_profile(profiles.DISPLAY_P3, profiles.srgb_table()))


def damaged_profiles():
    profile = profiles.rgb_profile()
    yield b""
    yield b"x"
    yield b"x" * 500
    yield profile[:130]
    yield profile[:200]
    yield profile[:128] + b"\xff" * 300
    yield profile.replace(b"acsp", b"xxxx")
    yield profile.replace(b"curv", b"xxxx")
    yield profile.replace(b"RGB ", b"GRAY")  # of another kind than the image
    yield profiles.gray_profile()
    yield profiles.cmyk_profile()
    yield profile + bytes(5 << 20)


@pytest.mark.parametrize("profile", list(damaged_profiles()))
def test_a_damaged_or_foreign_profile_is_ignored(profile):
    assert np.array_equal(pixels(encode(PHOTO, "TIFF", icc_profile=profile)), pixels(encode(PHOTO, "TIFF")))


def test_a_random_profile_never_fails():
    rng = np.random.default_rng(0)
    for original in (profiles.rgb_profile(curve=profiles.srgb_table(100)), profiles.cmyk_profile()):
        for _ in range(100):
            data = bytearray(original)
            for position in rng.integers(0, min(len(data), 600), 5):
                data[position] = rng.integers(256)
            is_srgb(bytes(data))
            image = Image.new("CMYK" if b"CMYK" in original else "RGB", (8, 8))
            image.info["icc_profile"] = bytes(data)
            load_pixels(image)


def test_previews_follow_and_a_callers_image_is_not_changed():
    image = Image.open(io.BytesIO(encode(PHOTO, "PNG", icc_profile=profiles.rgb_profile())))
    image.load()
    before = image.tobytes()
    preview = load(from_object(image), Preprocessing(), preview=DisplayImage).preview
    assert isinstance(preview, DisplayImage)
    assert np.abs(np.asarray(preview.image) - profiles.to_srgb(np.asarray(PHOTO).astype(float))).max() < 1.6
    assert image.tobytes() == before


def test_isolated_decoding_converts_too():
    data = encode(PHOTO, "PNG", icc_profile=profiles.rgb_profile())
    pool = WorkerPool(DecodeBudget(100))
    try:
        assert np.array_equal(pool.load(from_object(data), Preprocessing()).pixels, load_pixels(data))
    finally:
        pool.close()


def test_few_profiles_are_remembered():
    for number in range(MAX_PROFILES + 5):
        image = Image.new("RGB", (4, 4))
        image.info["icc_profile"] = profiles.rgb_profile(name=str(number).encode())
        converter = find_converter(image)
        assert converter is find_converter(image)
    assert len(_converters) == MAX_PROFILES


def test_little_cms_is_imported_only_for_other_profiles(tmp_path):
    (tmp_path / "srgb.png").write_bytes(
        encode(PHOTO, "PNG", icc_profile=profiles.rgb_profile(profiles.SRGB, profiles.srgb_table()))
    )
    (tmp_path / "adobe.png").write_bytes(encode(PHOTO, "PNG", icc_profile=profiles.rgb_profile()))
    script = (
        "import sys; from densenet_cli.images import decoding, preprocessing, sources\n"
        "decoding.load(sources.from_object(sys.argv[1]), preprocessing.Preprocessing())\n"
        "print('PIL.ImageCms' in sys.modules)"
    )
    for name, imported in (("srgb.png", "False"), ("adobe.png", "True")):
        command = [sys.executable, "-c", script, str(tmp_path / name)]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == imported
