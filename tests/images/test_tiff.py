"""TIFF files of all layouts: the pixels are those that tifffile reads, or the file is refused."""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from densenet_cli.errors import ImageError, UnreadableImageError
from densenet_cli.images.decoding import decode
from densenet_cli.images.sources import Source
from densenet_cli.images.tiff import ONLY_A_PREVIEW, CheckedTiffImage, read_pages
from tests.support.images import load_error, load_pixels, photograph

SIZE = (40, 27)
PHOTO = np.asarray(photograph("coffee", SIZE)).astype(float) / 255

SAMPLE_TYPES = {
    "1-bit": ("u1", 1),
    "uint8": ("u1", 8),
    "12-bit": ("u2", 12),
    "14-bit": ("u2", 14),
    "uint16": ("u2", 16),
    "uint32": ("u4", 32),
    "int8": ("i1", 8),
    "int16": ("i2", 16),
    "int32": ("i4", 32),
    "float16": ("f2", 16),
    "float32": ("f4", 32),
    "float64": ("f8", 64),
}
COUNTS = (1, 2, 3, 4, 5, 13)
COLOR_SPACES = {"minisblack": 1, "miniswhite": 1, "rgb": 3, "separated": 4, "cielab": 3, "ycbcr": 3}


def write(pixels: np.ndarray[Any, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, metadata=None, **options)
    return file.getvalue()


def read(data: bytes) -> np.ndarray[Any, Any]:
    """Return the pixels that the command uses, in [0, 1]."""
    return np.asarray(decode(Source("x", data, "bytes")).image).astype(float) / 255


def channels(count: int) -> np.ndarray[Any, Any]:
    """Return a photograph in [0, 1] with as many channels, all different."""
    return np.stack([np.roll(PHOTO[..., index % 3], index // 3 * 5, axis=0) for index in range(count)], axis=-1)


def quantized(values: np.ndarray[Any, Any], dtype: str, bits: int) -> np.ndarray[Any, Any]:
    if dtype[0] == "f":
        return values.astype(dtype)
    low = -(1 << (bits - 1)) if dtype[0] == "i" else 0
    return (np.rint(values * ((1 << bits) - 1)) + low).astype(dtype)


def layouts(bits: int, dtype: str) -> Iterator[dict[str, Any]]:
    """Yield options of ``tifffile.imwrite``, with ``samples``, that are valid for a sample type."""
    for samples, photometric, planes, compression, order, tile, predictor in itertools.product(
        COUNTS, COLOR_SPACES, ("contig", "separate"), (None, "deflate"), "<>", (None, (16, 16)), (False, True)
    ):
        if (
            samples < COLOR_SPACES[photometric]
            or (planes == "separate" and samples == 1)
            or (predictor and (compression is None or bits == 1 or dtype[0] == "f"))
            or (bits in (12, 14) and (compression or tile or samples > 1))
        ):
            continue
        options: dict[str, Any] = {"samples": samples, "photometric": photometric, "compression": compression}
        options |= {"byteorder": order, "tile": tile, "predictor": predictor or None}
        if samples > 1:
            options["planarconfig"] = planes
        if extra := samples - COLOR_SPACES[photometric]:
            options["extrasamples"] = ["unassalpha" if extra == 1 else "unspecified"] * extra
        yield options


def packed(levels: np.ndarray[Any, Any], bits: int, byteorder: str, **options: Any) -> bytes:
    """Write samples that do not fill their bytes, which tifffile cannot do without another package."""
    places = levels[..., None].astype(int) >> np.arange(bits - 1, -1, -1) & 1
    rows = np.packbits(places.reshape(levels.shape[0], -1), axis=1)
    data = write(rows, byteorder=byteorder, **options)
    return patched(data, {256: levels.shape[1], 258: bits}, byteorder=byteorder)


def patched(data: bytes, values: dict[int, int], byteorder: str = "<") -> bytes:
    """Replace the values of tags that are a single short or long integer."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        offsets = {tag.code: (tag.offset + 8, tag.dtype) for tag in file.pages.first.tags}
    changed = bytearray(data)
    for code, value in values.items():
        offset, kind = offsets[code]
        struct.pack_into(byteorder + {3: "H", 4: "I"}[kind], changed, offset, value)
    return bytes(changed)


def written(dtype: str, bits: int, samples: int, **options: Any) -> tuple[bytes, np.ndarray[Any, Any]]:
    """Return a file and its samples in [0, 1], as tifffile reads them."""
    values = quantized(channels(samples), dtype, bits)
    if bits == 1:
        values = values.astype(bool)
    if bits in (12, 14):
        return packed(values[..., 0], bits, **options), values / ((1 << bits) - 1)
    stored = values[..., 0] if samples == 1 else values
    if options.get("planarconfig") == "separate":
        stored = np.moveaxis(values, -1, 0)
    data = write(stored, **options)
    stored = tifffile.imread(io.BytesIO(data))
    values = stored[..., None] if samples == 1 else stored
    if options.get("planarconfig") == "separate":
        values = np.moveaxis(stored, 0, -1)
    values = values.astype(float)
    if dtype[0] == "i":
        values += 1 << (bits - 1)
    return data, values if dtype[0] == "f" else values / ((1 << bits) - 1)


def colors(values: np.ndarray[Any, Any], photometric: str) -> np.ndarray[Any, Any]:
    """Return the RGB colors of samples in [0, 1] on a white background, by definition."""
    count = COLOR_SPACES[photometric]
    rgb = values[..., :count]
    if photometric == "miniswhite":
        rgb = 1 - rgb
    if photometric in ("separated", "cielab", "ycbcr"):
        mode = {"separated": "CMYK", "cielab": "LAB", "ycbcr": "YCbCr"}[photometric]
        bands = np.rint(rgb * 255).astype(np.uint8)
        rgb = np.asarray(Image.frombytes(mode, bands.shape[1::-1], bands.tobytes()).convert("RGB")) / 255
        if mode == "LAB":  # Pillow's own encoding of a and b differs from the file's
            rgb = read(write(bands, photometric="cielab"))
    if values.shape[-1] == count + 1:
        rgb = rgb * values[..., -1:] + 1 - values[..., -1:]
    return np.broadcast_to(rgb, (*rgb.shape[:2], 3))


@pytest.mark.parametrize(("dtype", "bits"), SAMPLE_TYPES.values(), ids=SAMPLE_TYPES)
def test_every_layout_is_read_correctly_or_refused(dtype, bits):
    """No combination of bits, sample format, planes, color space, byte order, and compression is misread."""
    outcomes = {"read": 0, "refused": 0}
    for options in layouts(bits, dtype):
        data, values = written(dtype, bits, **options)
        try:
            pixels = read(data)
        except ImageError as error:
            outcomes["refused"] += 1
            assert type(error) is UnreadableImageError and "damaged" not in str(error), (options, str(error))
            assert f"{options['samples']} sample" in str(error) and f"{bits} bit" in str(error)
        else:
            outcomes["read"] += 1
            assert np.abs(pixels - colors(values, options["photometric"])).mean() < 0.02, options
    expected_to_be_read = bits != 14 and dtype not in ("i1", "f2", "f8")
    assert (outcomes["read"] > 0) == expected_to_be_read and outcomes["refused"] > 0, outcomes


@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("samples", [3, 4])
def test_16_bit_planes_without_compression_match_8_bits(samples, order, tile):
    values = channels(samples)
    extra = {"extrasamples": ["unassalpha"]} if samples == 4 else {}
    planes = np.moveaxis(np.rint(values * 65535).astype("u2"), -1, 0)
    data = write(planes, photometric="rgb", planarconfig="separate", byteorder=order, tile=tile, **extra)
    expected = read(write(np.rint(values * 255).astype("u1"), photometric="rgb", **extra))
    assert np.abs(read(data) - expected).max() <= 1.01 / 255
    assert np.abs(load_pixels(data)[0].astype(int)).std() > 20
    error = load_error(data, mode="keras")
    assert type(error) is UnreadableImageError and "load_img" in str(error)


@pytest.mark.parametrize(("dtype", "scale"), [("f4", 1), ("i2", 32767), ("i4", 65535)])
def test_compressed_big_endian_samples_are_not_swapped(dtype, scale):
    levels = (PHOTO[..., 0] * scale).astype(dtype)
    levels[0, :2] = -scale, scale  # the range
    big, little = (write(levels, photometric="minisblack", compression="deflate", byteorder=order) for order in "><")
    assert np.array_equal(read(big), read(little))
    assert np.abs(read(big)[1:, :, 0] - (PHOTO[1:, :, 0] + 1) / 2).max() < 0.01


def test_color_map_of_8_bits():
    colormap = np.stack([np.arange(256), np.arange(256)[::-1], np.full(256, 7)]).astype("u2")
    data = write(np.arange(256, dtype="u1").reshape(16, 16), photometric="palette", colormap=colormap)
    assert np.array_equal(np.rint(read(data) * 255).reshape(256, 3), colormap.T)


def test_unsigned_32_bit_values_above_the_signed_range():
    levels = np.linspace(0, 2**32 - 1, 256).astype("u4").reshape(16, 16)
    assert np.abs(read(write(levels, photometric="minisblack"))[..., 0].ravel() * 255 - np.arange(256)).max() <= 1


def test_white_is_zero_with_a_bit_depth():
    levels = np.arange(0, 65536, 257, dtype="u2").reshape(16, 16)
    assert np.array_equal(read(write(levels, photometric="miniswhite"))[..., 0].ravel() * 255, np.arange(256)[::-1])


@pytest.mark.parametrize(
    ("samples", "options", "facts"),
    [
        (np.zeros((9, 9), "f2"), {}, ("1 sample", "16 bits", "floating-point")),
        (np.zeros((9, 9, 13), "u2"), {"planarconfig": "contig"}, ("13 samples", "16 bits")),
        (np.zeros((13, 9, 9), "u1"), {"planarconfig": "separate"}, ("13 samples", "8 bits", "separate planes")),
        (np.zeros((9, 9), "c8"), {}, ("64 bits", "complex")),
        (np.zeros((9, 9), "i1"), {}, ("8 bits", "signed integer")),
    ],
    ids=["float16", "13 bands", "13 planes", "complex", "int8"],
)
def test_an_unsupported_layout_is_named(samples, options, facts):
    message = str(load_error(write(samples, photometric="minisblack", **options)))
    assert all(fact in message for fact in facts) and "damaged" not in message


@pytest.mark.parametrize(("code", "name"), [(34887, "LERC"), (34712, "JPEG 2000"), (50002, "JPEG XL"), (4711, "4711")])
def test_an_unsupported_compression_is_named(code, name):
    data = write(np.zeros((9, 9), "u1"), photometric="minisblack", compression="deflate")
    assert f"{name} compression" in str(load_error(patched(data, {259: code})))


def test_raw_ycbcr_with_fewer_color_samples_is_refused():
    data = write(np.zeros((16, 16, 3), "u1"), photometric="ycbcr")
    subsampled = data.replace(struct.pack("<HHIHH", 530, 3, 2, 1, 1), struct.pack("<HHIHH", 530, 3, 2, 2, 2))
    assert subsampled != data and "YCbCr" in str(load_error(subsampled))


def raw_like(*pages: dict[str, Any], **common: Any) -> bytes:
    """Write pages as gray images of levels 10, 20, and so on."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for index, options in enumerate(pages):
            level = np.full((8 << index, 8 << index), 10 * (index + 1), "u1")
            writer.write(level, metadata=None, **{"photometric": "minisblack", **common, **options})
    return file.getvalue()


CAMERA_RAW = "Camera raw files are not supported: only their preview could be read."
SENSOR = {"photometric": 32803, "extratags": [(33421, 3, 2, (2, 2), True), (33422, 1, 4, (0, 1, 1, 2), True)]}


@pytest.mark.parametrize(
    ("pages", "message"),
    [
        (({"subfiletype": 1, "subifds": 1}, SENSOR), CAMERA_RAW),
        (({"subifds": 1}, SENSOR), CAMERA_RAW),
        (({"extratags": [(50706, 1, 4, (1, 4, 0, 0), True)]},), CAMERA_RAW),
        ((SENSOR,), CAMERA_RAW),
        (({"subfiletype": 1, "subifds": 1}, {}), ONLY_A_PREVIEW),
        (({"subfiletype": 1},), ONLY_A_PREVIEW),
        (({"extratags": [(255, 3, 1, 2, True)]}, {"subfiletype": 1}), ONLY_A_PREVIEW),
    ],
    ids=["DNG", "preview without its flag", "DNG version", "sensor data", "part", "alone", "old flag"],
)
@pytest.mark.parametrize("mode", ["crop", "keras"])
def test_a_preview_is_not_classified(pages, message, mode):
    error = load_error(raw_like(*pages), mode=mode)
    assert type(error) is UnreadableImageError and str(error) == message


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_the_full_image_behind_a_preview_is_used(compression, bigtiff):
    file = io.BytesIO()
    with tifffile.TiffWriter(file, bigtiff=bigtiff) as writer:
        for level, kind in ((10, 1), (20, 1), (30, 0), (40, 0)):
            pixels = np.full((level, level), level, "u1")
            writer.write(pixels, subfiletype=kind, photometric="minisblack", compression=compression, metadata=None)
    pixels = read(file.getvalue())
    assert pixels.shape == (30, 30, 3) and (np.rint(pixels * 255) == 30).all()
    assert "load_img" in str(load_error(file.getvalue(), mode="keras"))


def test_the_first_level_of_a_pyramid_is_used():
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for side, kind in ((64, 0), (32, 1), (16, 1)):
            writer.write(np.full((side, side), side, "u1"), subfiletype=kind, photometric="minisblack", metadata=None)
    assert read(file.getvalue()).shape == (64, 64, 3)


def test_every_page_is_checked():
    file = io.BytesIO()
    with tifffile.TiffWriter(file, byteorder=">") as writer:
        for dtype in ("u1", "f4", "f2"):
            pixels = np.linspace(0, 1, 64).reshape(8, 8).astype(dtype)
            writer.write(pixels, photometric="minisblack", compression="deflate", metadata=None)
    stream = io.BytesIO(file.getvalue())
    gray, floats, half_floats = (offset for offset, _ in read_pages(stream))
    with CheckedTiffImage(stream, floats) as image:
        assert image.is_corrected and np.allclose(np.asarray(image).ravel(), np.linspace(0, 1, 64))
    with CheckedTiffImage(stream, gray) as image:
        assert not image.is_corrected and image.mode == "L"
    with pytest.raises(UnreadableImageError, match="16 bits"):
        CheckedTiffImage(stream, half_floats)


@pytest.mark.parametrize("offset", [0, 8, 3, 1 << 31, (1 << 32) - 1])
def test_an_invalid_directory_is_damage(offset):
    data = b"II*\0" + struct.pack("<I", offset) + bytes(20)
    assert "damaged" in str(load_error(data))
