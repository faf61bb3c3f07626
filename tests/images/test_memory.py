"""The estimate of what decoding takes, held against what it took, on Linux."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densenet_cli.images.formats import has_single_scan, read_icon_size, read_jpeg2000_codestream, read_webp_size
from tests.support.images import ENCODINGS, PILLOW_MODES, animation, encode, photograph, rotated

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured through /proc")

SIZE = (1400, 1000)
SMALL = (600, 400)
"""For what Python code decodes."""

MARGIN = 3 << 20
"""Bytes by which a measurement may differ from one run to the next: what the allocator keeps."""


@pytest.fixture(scope="module")
def asked_and_taken() -> Iterator[Callable[..., tuple[int, int]]]:
    """What is reserved for the image in a file, and what decoding it took, in bytes."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.decoding_memory"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin and process.stdout

        def ask(path: Path, exact: bool = True) -> tuple[int, int]:
            process.stdin.write(f"{'exact' if exact else 'reduced'} {path}\n")
            process.stdin.flush()
            asked, taken = process.stdout.readline().split()
            return int(asked), int(taken)

        yield ask
        process.stdin.close()


def flat_netpbm(header: bytes, channels: int, dtype: str, most: int) -> Callable[[], bytes]:
    def make() -> bytes:
        levels = np.arange(SMALL[0] * SMALL[1] * channels) % (most + 1)
        return header + b" %d %d %d\n" % (*SMALL, most) + levels.astype(dtype).tobytes()

    return make


def digits() -> bytes:
    return b"P3 %d %d 255\n" % SMALL + b"255 17 4 " * (SMALL[0] * SMALL[1])


def run_length_bmp() -> bytes:
    row = b"".join(bytes([10, index % 256]) for index in range(SIZE[0] // 10)) + b"\0\0"
    data = row * SIZE[1] + b"\0\1"
    palette = bytes(index // 4 for index in range(1024))
    info = struct.pack("<IiiHHIIiiII", 40, *SIZE, 1, 8, 1, len(data), 0, 0, 256, 256)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(data), 0, 0, 54 + 1024) + info + palette + data


def large(mode: str = "RGB") -> Image.Image:
    return PILLOW_MODES[mode](photograph("coffee", SIZE))


OTHERS: dict[str, Callable[[], bytes]] = {
    "AVIF full color": lambda: encode(large(), "AVIF", subsampling="4:4:4"),
    "JPEG2000 irreversible": lambda: encode(large(), "JPEG2000", irreversible=True),
    "JPEG2000 in blocks of 4x4": lambda: encode(photograph(), "JPEG2000", codeblock_size=(4, 4)),
    "JPEG2000 in small precincts": lambda: encode(
        photograph(), "JPEG2000", codeblock_size=(4, 4), precinct_size=(16, 16), num_resolutions=3
    ),
    "PPM in digits": digits,
    "PGM of 1000 levels": flat_netpbm(b"P5", 1, ">u2", 1000),
    "PPM of 1000 levels": flat_netpbm(b"P6", 3, ">u2", 1000),
    "BMP in runs": run_length_bmp,
    "TIFF in one strip": lambda: encode(large(), "TIFF", compression="tiff_lzw", tiffinfo={278: SIZE[1]}),
    "GIF film": lambda: animation("GIF", frames=2, size=SMALL),
    "WebP film": lambda: animation("WEBP", frames=2, size=SIZE),
    "JPEG to be turned": lambda: rotated(large(), 6),
    "PNG to be turned": lambda: rotated(large(), 6, "PNG"),
    "TIFF to be turned": lambda: rotated(large(), 6, "TIFF", compression="tiff_lzw"),
    "long": lambda: encode(photograph("coffee", (20, 70_000)), "PNG"),
    "icon": lambda: encode(photograph("coffee", (256, 256)), "ICO"),
}
GENEROUS = ("JPEG2000 in small precincts", "long")
"""Rare images for which more is asked than they take."""

CASES = {
    str(encoding): (lambda e=encoding: e.encode(large()))
    for encoding in ENCODINGS
    if encoding.format != "ICO"
    and (encoding.options.get("compression") in (None, "jpeg", "tiff_lzw") or encoding.mode in ("1", "RGB"))
}


@pytest.mark.parametrize("name", [*CASES, *OTHERS])
def test_decoding_takes_no_more_than_was_asked_for(name, asked_and_taken, tmp_path):
    (tmp_path / "x").write_bytes({**CASES, **OTHERS}[name]())
    asked, taken = asked_and_taken(tmp_path / "x")
    assert taken <= asked + MARGIN
    if name not in GENEROUS:  # nor so much more that images wait, or are refused, for nothing
        assert asked <= 2 * taken + 2 * MARGIN


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"progressive": True, "subsampling": 0}])
def test_a_jpeg_counts_at_its_reduced_scale(options, asked_and_taken, tmp_path):
    (tmp_path / "x").write_bytes(encode(photograph("coffee", (6000, 4000)), "JPEG", **options))
    asked, taken = asked_and_taken(tmp_path / "x", exact=False)
    assert taken <= asked + MARGIN
    assert asked < 6000 * 4000 * (2 if not options else 7 if options.get("subsampling") == 0 else 4)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_of_several_scans_is_told_apart(mode):
    image = PILLOW_MODES[mode](photograph("coffee", (60, 40)))
    assert has_single_scan(opened(encode(image, "JPEG")))
    assert not has_single_scan(opened(encode(image, "JPEG", progressive=True)))


def test_a_scan_for_each_channel_is_told_apart():
    data = bytearray(encode(photograph("coffee", (60, 40)), "JPEG"))
    scan = data.index(b"\xff\xda")
    data[scan : scan + 14] = b"\xff\xda\0\x08\x01\x01\0\0\x3f\0"
    assert not has_single_scan(opened(bytes(data)))


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0II*\0"}])
@pytest.mark.parametrize("size", [(1, 1), (301, 203), (16383, 2)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_size_of_a_webp(mode, size, options):
    assert read_webp_size(io.BytesIO(encode(Image.new(mode, size), "WEBP", **options))) == size


@pytest.mark.parametrize("bitmap", ["bmp", "png"])
def test_the_size_of_an_icon_is_that_of_its_images(bitmap):
    data = bytearray(encode(photograph("coffee", (64, 48)).convert("RGBA"), "ICO", bitmap_format=bitmap))
    data[6:8] = b"\x10\x10"  # what the table says of it
    width, height = read_icon_size(io.BytesIO(data))
    assert (width, height) in ((64, 48), (64, 96))  # a BMP counts its mask in its height


@pytest.mark.parametrize("no_jp2", [True, False])
def test_the_codestream_of_a_jpeg_2000(no_jp2):
    data = encode(photograph("coffee", (61, 43)), "JPEG2000", no_jp2=no_jp2, codeblock_size=(8, 16))
    codestream = read_jpeg2000_codestream(io.BytesIO(data))
    assert (codestream.size, codestream.components, codestream.min_block_pixels) == ((61, 43), 3, 128)
