"""Conversion to RGB: transparency, bit depths, value ranges, and color spaces."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from densenet_cli.errors import UsageError
from densenet_cli.images.conversion import to_rgb
from densenet_cli.images.decoding import load
from densenet_cli.images.preprocessing import Preprocessing
from densenet_cli.images.sources import from_object
from tests.support.images import ENCODINGS, PILLOW_MODES, animation, encode, gray16, load_pixels, photograph, png

PHOTO = photograph("coffee", (96, 64))
GRAY = np.asarray(PHOTO.convert("L"))


def rgb(data: bytes) -> np.ndarray:
    """Load the pixels of a square image at its own size."""
    image = Image.open(io.BytesIO(data))
    assert image.width == image.height
    return load_pixels(data, mode="squash", input_size=image.width)[0]


def on_white(layer: Image.Image) -> np.ndarray:
    """Compose RGBA on white, by definition."""
    pixels = np.asarray(layer.convert("RGBA")).astype(float)
    alpha = pixels[..., 3:] / 255
    return pixels[..., :3] * alpha + 255 * (1 - alpha)


@pytest.mark.parametrize(
    "mode", ["RGBA", "LA", "PA", "P transparent", "L transparent", "RGB transparent", "RGBa", "La"]
)
def test_transparency_becomes_white(mode):
    layer = PILLOW_MODES[mode](PHOTO)
    straight = layer.convert("LA" if mode == "La" else "RGBA")
    pixels = np.asarray(to_rgb(layer)).astype(float)
    assert np.abs(pixels - on_white(straight)).max() <= 0.5 + 1e-9
    assert (np.asarray(straight.convert("RGBA"))[..., 3] < 255).any()


def test_fully_transparent_pixels_are_white_whatever_their_color():
    pixels = np.zeros((4, 4, 4), np.uint8)
    assert (np.asarray(to_rgb(Image.fromarray(pixels, "RGBA"))) == 255).all()


def test_bilevel_image_with_a_transparent_color():
    image = Image.new("1", (8, 8), 0)
    image.info["transparency"] = 0
    assert (np.asarray(to_rgb(image)) == 255).all()


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_transparent_color_of_a_gray_png(depth):
    levels = np.arange(64).reshape(8, 8) * 1000 % (1 << depth)
    transparent = int(levels[0, 3])
    pixels = rgb(png(levels, depth, 0, tRNS=transparent.to_bytes(2, "big")))
    expected = np.rint(levels * 255 / ((1 << depth) - 1))
    expected[levels == transparent] = 255
    assert np.array_equal(pixels, np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize("depth", [8, 16])
def test_transparent_color_of_an_rgb_png(depth):
    colors = (np.arange(8 * 8 * 3).reshape(8, 24) * 641) % (1 << depth)
    transparent = colors[0, 3:6]
    pixels = rgb(png(colors, depth, 2, tRNS=transparent.astype(">u2").tobytes()))
    expected = colors.reshape(8, 8, 3) >> (depth - 8)
    expected[0, 1] = 255
    assert np.array_equal(pixels, expected)


def test_palette_with_alpha():
    palette = bytes([255, 0, 0, 0, 255, 0, 0, 0, 255])
    pixels = rgb(png(np.array([[0, 1], [2, 2]]), 8, 3, PLTE=palette, tRNS=bytes([0, 128])))
    assert pixels.tolist() == [[[255, 255, 255], [127, 255, 127]], [[0, 0, 255], [0, 0, 255]]]


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I", "F"])
def test_other_bit_depths_match_8_bits(mode):
    assert np.array_equal(np.asarray(to_rgb(PILLOW_MODES[mode](PHOTO)))[..., 0], GRAY)


@pytest.mark.parametrize(
    "values",
    [
        GRAY.astype(np.float32),
        (GRAY / 255).astype(np.float32),
        GRAY.astype(np.int32),
        GRAY.astype(np.int32) * 257,
        GRAY.astype(np.uint16) * 257,
    ],
    ids=["float to 255", "float to 1", "int to 255", "int to 65535", "16 bits"],
)
def test_every_value_range_matches_8_bits(values):
    assert np.array_equal(np.asarray(to_rgb(Image.fromarray(values)))[..., 1], GRAY)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG2000", "PPM"])
def test_16_bit_files_match_8_bits(format):
    sixteen_bit = encode(Image.fromarray(gray16(PHOTO)), format)
    eight_bit = encode(PHOTO.convert("L"), "PNG")
    assert np.array_equal(load_pixels(sixteen_bit), load_pixels(eight_bit))


def test_dark_16_bit_image_stays_dark_if_it_says_so():
    dark = np.arange(64).reshape(8, 8) // 2
    assert np.array_equal(rgb(png(dark * 257, 16, 0))[..., 0], dark)  # 8 bits expanded to 16, two ways
    assert np.abs(rgb(png(dark * 256, 16, 0))[..., 0].astype(int) - dark).max() <= 1
    levels = np.full((8, 8), 255)
    assert (load_pixels(png(levels, 16, 0), bit_depth="full") == 1).all()
    pgm = b"P5 8 8 65535\n" + levels.astype(">u2").tobytes()
    assert (rgb(pgm) == 1).all()


def test_16_bits_round_to_the_nearest_level():
    values = np.arange(65536).reshape(256, 256)
    expected = (values + 128) // 257
    assert np.array_equal(rgb(png(values, 16, 0))[..., 0], expected)


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        ([-1, 0, 1], [0, 128, 255]),
        ([0, 500, 1000], [0, 125, 249]),
        ([100, 300], [25, 75]),
        ([300, 300], [75, 75]),
        ([0, 35_000, 70_000], [0, 128, 255]),
        ([70_000, 70_000], [0, 0]),
        ([0, 1], [0, 255]),
        ([0, 0.5], [0, 128]),
        ([0, 128, 255], [0, 128, 255]),
        ([np.nan, 0, 1], [0, 0, 255]),
        ([-np.inf, 0, 1, np.inf], [0, 0, 255, 255]),
        ([np.nan, np.nan], [0, 0]),
        ([np.inf, -np.inf], [255, 0]),
        ([-3e38, 0, 3e38], [0, 128, 255]),
    ],
)
def test_floats(values, levels):
    image = Image.fromarray(np.array([values], np.float32))
    assert np.asarray(to_rgb(image))[0, :, 0].tolist() == levels


CONTAINERS = {"16 bits": np.uint16, "32 bits": np.int32, "float": np.float32}


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_the_same_numbers_give_the_same_levels_in_every_container(bits, container):
    values = np.linspace(0, 2**bits - 1, 4096).reshape(64, 64).astype(np.int64)
    expected = np.rint(values * 255 / (2**bits - 1))
    for bit_depth in ("auto", str(bits), f"0:{2**bits - 1}"):
        notes = set()
        levels = np.asarray(to_rgb(Image.fromarray(values.astype(container)), bit_depth, notes))[..., 0]
        assert np.abs(levels - expected).max() <= (1 if bits == 16 else 0) and not notes


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_a_12_bit_photograph_in_16_bits(format):
    gray = np.asarray(photograph("coffee").convert("L")).astype(float)
    values = np.rint(gray / 255 * 4095).astype(np.uint16)
    actual = load_pixels(encode(Image.fromarray(values), format)).astype(int)
    assert np.abs(actual - load_pixels(encode(photograph("coffee").convert("L"), "PNG"))).max() <= 1


def rgb_tiff(values, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, values, photometric="rgb", metadata=None, **options)
    return file.getvalue()


COLOR_FILES = {
    "PNG": lambda values: png(values.reshape(len(values), -1), 16, 2),
    "TIFF": rgb_tiff,
    "big-endian TIFF": lambda values: rgb_tiff(values, byteorder=">"),
    "compressed TIFF": lambda values: rgb_tiff(values, compression="deflate"),
    "compressed big-endian TIFF": lambda values: rgb_tiff(values, compression="deflate", byteorder=">"),
    "TIFF with planes": lambda values: rgb_tiff(np.moveaxis(values, -1, 0), planarconfig="separate"),
}


@pytest.mark.parametrize("encode_colors", COLOR_FILES.values(), ids=COLOR_FILES)
@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_16_bit_colors_give_the_levels_of_the_same_gray_values(bits, encode_colors):
    values = np.linspace(0, 2**bits - 1, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint16)
    expected = np.rint(values * (255 / (2**bits - 1)))
    for bit_depth in ("auto", str(bits), f"0:{2**bits - 1}"):
        loaded = load(from_object(encode_colors(values)), Preprocessing("squash", 64, bit_depth=bit_depth))
        assert np.array_equal(loaded.pixels[0], expected) and not loaded.notes
    high_bytes = load(from_object(encode_colors(values)), Preprocessing("squash", 64, bit_depth="full"))
    assert np.array_equal(high_bytes.pixels[0], values >> 8)
    assert high_bytes.notes == (("narrow_range",) if bits <= 12 else ())


@pytest.mark.parametrize("factor", [256, 257])
def test_dark_16_bit_colors_stay_dark_if_they_were_expanded_from_8_bits(factor):
    values = np.arange(48, dtype=np.uint16).reshape(4, 4, 3) * factor
    assert np.array_equal(rgb(png(values.reshape(4, -1), 16, 2)), values >> 8)


def test_16_bit_colors_keep_alpha_and_orientation():
    values = np.random.default_rng(0).integers(0, 4096, (8, 8, 4)).astype(np.uint16)
    values[..., 3] = 65535
    values[0, 0] = 4095, 0, 0, 0
    transparent = rgb(png(values.reshape(8, -1), 16, 6))
    assert transparent[0, 0].tolist() == [255, 255, 255]
    assert np.array_equal(transparent[1:], np.rint(values[1:, :, :3] * (255 / 4095)))
    turned = rgb_tiff(values[..., :3], extratags=[(274, "H", 1, 6)])
    assert np.array_equal(rgb(turned), np.rot90(np.rint(values[..., :3] * (255 / 4095)), -1))


@pytest.mark.parametrize(
    ("values", "bit_depth", "levels"),
    [
        ([0, 100, 65535], "full", [0, 0, 255]),
        ([0, 2048, 4095, 60000], "12", [0, 128, 255, 255]),
        ([0, 1000, 1500, 2000, 9999], "1000:2000", [0, 0, 128, 255, 255]),
        ([0, 1], "auto", [0, 255]),
    ],
)
def test_chosen_range(values, bit_depth, levels):
    image = Image.fromarray(np.array([values], np.uint16))
    assert np.asarray(to_rgb(image, bit_depth))[0, :, 0].tolist() == levels


def test_the_whole_range_of_a_data_type():
    assert np.asarray(to_rgb(Image.fromarray(np.array([[0, 2**30]], np.int32)), "full"))[0, :, 0].tolist() == [0, 128]
    assert np.asarray(to_rgb(Image.fromarray(np.array([[-1, 0.5]], np.float32)), "full"))[0, :, 0].tolist() == [0, 128]


@pytest.mark.parametrize("bit_depth", ["", "0", "33", "x", "5:", ":5", "9:1", "1:1", "nan:1", "0:inf", "1.5"])
def test_a_range_is_checked(bit_depth):
    with pytest.raises(UsageError, match="bit_depth"):
        Preprocessing(bit_depth=bit_depth)


def test_keras_mode_has_no_range():
    with pytest.raises(UsageError, match="keras"):
        Preprocessing("keras", bit_depth="12")


def tiff(values: np.ndarray, no_data: str | None = None) -> bytes:
    return encode(Image.fromarray(values), "TIFF", tiffinfo={42113: no_data} if no_data else {})


@pytest.mark.parametrize("container", [np.int32, np.float32])
def test_no_data_values_do_not_count(container):
    values = np.linspace(0, 1023, 64).reshape(8, 8).astype(container)
    expected = rgb(tiff(values))
    values[0, 0] = -9999  # was 0
    assert np.array_equal(rgb(tiff(values)), expected)
    assert np.array_equal(rgb(tiff(values, "-9999")), expected)
    values[0, 0] = 30_000
    assert np.array_equal(rgb(tiff(values, "30000")), expected)
    assert not np.array_equal(rgb(tiff(values)), expected)


def test_no_data_in_16_bits_and_as_the_lowest_float():
    values = np.linspace(0, 1023, 64).reshape(8, 8)
    deep = values.astype(np.uint16)
    expected = rgb(tiff(deep))
    deep[0, 0] = 65535
    assert np.array_equal(rgb(tiff(deep, "65535")), expected)
    lowest = values.astype(np.int64).astype(np.float32)
    lowest[0, 0] = np.finfo(np.float32).min
    assert np.array_equal(rgb(tiff(lowest)), expected)
    assert np.array_equal(rgb(tiff(lowest, "-3.4028234663852886e+38")), expected)
    assert np.array_equal(rgb(tiff(lowest, "not a number")), expected)


def test_an_image_of_nothing_but_no_data():
    assert (rgb(tiff(np.full((8, 8), -9999, np.int32), "-9999")) == 0).all()
    assert rgb(tiff(np.full((8, 8), -9999, np.int32))).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("values", "bit_depth", "noted"),
    [
        ([0, 4000], "auto", False),
        ([0, 4000], "full", True),
        ([3000, 3200], "auto", True),
        ([0, 16], "8", False),
        ([0, 15], "8", True),
        ([0, 60000], "10", False),
    ],
)
def test_a_narrow_range_is_noted(values, bit_depth, noted):
    data = encode(Image.fromarray(np.array([values] * 2, np.uint16)), "PNG")
    notes = load(from_object(data), Preprocessing(bit_depth=bit_depth)).notes
    assert notes == (("narrow_range",) if noted else ())


@pytest.mark.filterwarnings("error")
@settings(max_examples=100, deadline=None)
@given(arrays.arrays(np.float32, (3, 5), elements=st.floats(width=32)))
def test_float_order_is_preserved(values):
    levels = np.asarray(to_rgb(Image.fromarray(values)))[..., 0]
    finite = np.isfinite(values)
    order = np.argsort(values[finite], kind="stable")
    assert (np.diff(levels[finite][order].astype(int)) >= 0).all()


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "HSV"])
def test_other_color_spaces(mode):
    difference = np.abs(np.asarray(to_rgb(PILLOW_MODES[mode](PHOTO))).astype(int) - np.asarray(PHOTO))
    assert difference.mean() < 2.5


def test_opaque_rgb_image_is_not_copied():
    image = photograph("chelsea")
    assert to_rgb(image) is image


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_every_format_and_mode_resembles_the_original(encoding):
    image = photograph("coffee", (256, 256))
    pixels = load_pixels(encoding.encode(image), mode="squash")[0].astype(float)
    layer = PILLOW_MODES[encoding.mode](image)
    if encoding.format == "BMP":  # drops the alpha channel
        layer = layer.convert("RGB")
    if encoding.format == "GIF" and encoding.mode == "RGBA":  # has only alpha 0 and 255
        layer.putalpha(layer.getchannel("A").point(lambda alpha: 255 * (alpha > 0)))
    expected = load_pixels(layer, mode="squash")[0].astype(float)
    assert np.abs(pixels - expected).mean() < (9 if encoding.format == "GIF" else 4)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_first_frame_of_an_animation_is_used(format):
    pixels = load_pixels(animation(format))[0].astype(int)
    first = load_pixels(photograph("chelsea", (120, 80)))[0]
    assert np.abs(pixels - first).mean() < 6


@pytest.mark.parametrize("format", ["BMP", "TGA"])
def test_an_alpha_channel_of_zeros_is_ignored(format):
    """Programs that write 32 bits per pixel without transparency leave the fourth byte at 0."""
    layer = photograph("coffee", (40, 40)).convert("RGBA")
    layer.putalpha(0)
    if format == "TGA":
        data = encode(layer, "TGA")
    else:
        pixels = np.asarray(layer)[::-1, :, [2, 1, 0, 3]].tobytes()
        masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
        header = struct.pack("<IiiHHIIiiII", 56, 40, 40, 1, 32, 3, len(pixels), 0, 0, 0, 0) + masks
        data = b"BM" + struct.pack("<IHHI", 70 + len(pixels), 0, 0, 70) + header + pixels
    assert np.array_equal(rgb(data), np.asarray(layer)[..., :3])
