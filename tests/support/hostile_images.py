"""Hostile images: an endless, reproducible stream of damaged images of every format and mode."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache

from PIL import Image

from densenet_cli.images.walking import SUFFIXES
from tests.support.images import ENCODINGS, animation, encode, photograph

SIZES = ((97, 61), (1, 1), (3, 260), (320, 240))
EXTREMES = (0, 1, 127, 128, 255, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
SIDES = (0, 1, 2, 257, 4_000, 9_000, 16_383, 30_000, 65_535, 1 << 20, (1 << 31) - 1, (1 << 32) - 1)

INDICES: dict[str, list[int]] = {}
"""Format -> indices of its encodings."""
for _index, _encoding in enumerate(ENCODINGS):
    INDICES.setdefault(_encoding.format, []).append(_index)

SUFFIXES_OF_FORMATS = {"JPEG": ".jpg", "JPEG2000": ".jp2", "TIFF": ".tif", "PPM": ".ppm"}
"""Format -> file extension, if it differs from the name."""


def hostile_images(seed: int) -> Iterator[tuple[str, str, bytes]]:
    """Yield a description, a file extension, and the bytes of a file, without end. A seed determines all of them."""
    rng = random.Random(seed)
    kinds = list(KINDS)
    while True:
        kind = rng.choices(kinds, [KINDS[name][0] for name in kinds])[0]
        format, data = KINDS[kind][1](rng)
        suffix = SUFFIXES_OF_FORMATS.get(format, f".{format.lower()}")
        if suffix not in SUFFIXES or rng.random() < 0.2:
            suffix = rng.choice(sorted(SUFFIXES))
        yield f"{kind} {format}", suffix, data


@cache
def _encoded(index: int, size: tuple[int, int]) -> bytes:
    return ENCODINGS[index].encode(photograph("coffee", size))


def intact(rng: random.Random) -> tuple[str, bytes]:
    """A valid image. Its extension may belong to another format."""
    index = rng.choice(INDICES[rng.choice(list(INDICES))])
    size = rng.choice(SIZES)
    if ENCODINGS[index].format == "ICO":
        size = min(size[0], 256), min(size[1], 256)
    return ENCODINGS[index].format, _encoded(index, size)


def truncated(rng: random.Random) -> tuple[str, bytes]:
    """Truncated in the signature, in the header, anywhere, or by the last bytes."""
    format, data = intact(rng) if rng.random() < 0.8 else animated(rng)
    return format, data[: rng.choice((rng.randrange(33), rng.randrange(513), rng.randrange(len(data)), -1, -9))]


def flipped(rng: random.Random) -> tuple[str, bytes]:
    """With some bits flipped, more often near the beginning."""
    format, data = intact(rng) if rng.random() < 0.8 else animated(rng)
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        end = rng.choice((64, 512, len(out)))
        out[rng.randrange(min(end, len(out)))] ^= 1 << rng.randrange(8)
    return format, bytes(out)


def overwritten(rng: random.Random) -> tuple[str, bytes]:
    """With some numbers replaced by extreme ones, or some pieces by other pieces."""
    format, data = intact(rng) if rng.random() < 0.8 else animated(rng)
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        position = rng.randrange(min(rng.choice((64, 512, len(out))), len(out)))
        if rng.random() < 0.7:
            width = rng.choice((1, 2, 4, 8))
            number = rng.choice((*EXTREMES, len(data), rng.randrange(1 << 32))) & (1 << 8 * width) - 1
            piece = number.to_bytes(width, rng.choice(("big", "little")))
        else:
            start = rng.randrange(len(data))
            piece = data[start : start + rng.randrange(1, 64)]
        out[position : position + len(piece)] = piece
    return format, bytes(out)


def spliced(rng: random.Random) -> tuple[str, bytes]:
    """The beginning of one image and the end of another, or one with a piece removed or duplicated."""
    format, data = intact(rng)
    if rng.random() < 0.5:
        _, other = intact(rng)
        return format, data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]
    first, second = sorted((rng.randrange(len(data)), rng.randrange(len(data))))
    return format, data[:second] + data[first if rng.random() < 0.5 else second + second - first :]


def resized_header(rng: random.Random) -> tuple[str, bytes]:
    """With another size in the header."""
    format, data = intact(rng)
    return format, with_size(format, data, rng.choice(SIDES), rng.choice(SIDES))


def with_size(format: str, data: bytes, width: int, height: int) -> bytes:
    """Return an image file with another size in its header, truncated to the bits that the header has."""
    if format == "PPM":
        magic, size, rest = data.split(b"\n", 2) if data[2:3] == b"\n" else data.split(b" ", 2)
        return b"%s\n%d %d\n%s" % (magic, width, height, rest) if b" " in size else data
    out = bytearray(data)
    for at, order, bytes_each in _size_fields(format, data):
        for place, side in enumerate((width, height)):
            field = (side & (1 << 8 * bytes_each) - 1).to_bytes(bytes_each, order)
            out[at + place * bytes_each : at + (place + 1) * bytes_each] = field
    if format == "JPEG":  # stores the height first
        for at, _, _ in _size_fields(format, data):
            out[at : at + 4] = out[at + 2 : at + 4] + out[at : at + 2]
    if format == "TIFF":
        out = _with_tiff_size(out, width, height)
    if format == "PNG":
        out[29:33] = zlib.crc32(out[12:29]).to_bytes(4, "big")
    return bytes(out)


def _size_fields(format: str, data: bytes) -> list[tuple[int, str, int]]:
    """Return where the width is stored, followed by the height: position, byte order, and bytes of each."""
    match format:
        case "PNG":
            return [(16, "big", 4)]
        case "GIF":
            frame = data.find(b"\x2c\0\0\0\0")
            return [(6, "little", 2)] + ([(frame + 5, "little", 2)] if frame > 0 else [])
        case "WEBP":
            return [(24, "little", 3)] if data[12:16] == b"VP8X" else [(26, "little", 2)]
        case "BMP":
            return [(18, "little", 4)]
        case "TGA":
            return [(12, "little", 2)]
        case "ICO":
            return [(22 + 16, "big", 4)] if data[23:26] == b"PNG" else [(22 + 4, "little", 4)]
        case "JPEG":
            start = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
            return [(start + 5, "big", 2)] if start > 0 else []
        case "JPEG2000":
            fields = [(data.find(b"\xff\x51") + 6, "big", 4)]
            return fields + ([(data.find(b"ihdr") + 4, "big", 4)] if b"ihdr" in data else [])
        case "AVIF":
            return [(data.find(b"ispe") + 8, "big", 4)]
    return []


def _with_tiff_size(data: bytearray, width: int, height: int) -> bytearray:
    order = "<" if data[:2] == b"II" else ">"
    (directory,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, directory)
    for at in range(directory + 2, directory + 2 + 12 * count, 12):
        (tag,) = struct.unpack_from(f"{order}H", data, at)
        if tag in (256, 257):
            struct.pack_into(f"{order}HHII", data, at, tag, 4, 1, width if tag == 256 else height)
    return data


def with_invalid_metadata(rng: random.Random) -> tuple[str, bytes]:
    """With an invalid color profile and EXIF block."""
    format = rng.choice(("JPEG", "PNG", "WEBP", "TIFF", "AVIF"))
    mode = rng.choice(("L", "RGB", "CMYK") if format == "JPEG" else ("RGB", "RGBA"))
    image = photograph("coffee", (97, 61)).convert(mode)
    options = {}
    if rng.random() < 0.7:
        options["icc_profile"] = garbage(rng)
    if format == "AVIF":  # the encoder validates the block, so replace a valid one afterwards
        return format, encode(image, format, **options, exif=VALID_EXIF).replace(
            VALID_EXIF, garbage(rng)[: len(VALID_EXIF)], 1
        )
    if format != "TIFF" and rng.random() < 0.7:
        options["exif"] = b"Exif\0\0" + garbage(rng)
    return format, encode(image, format, **options)


VALID_EXIF = b"II*\0\x08\0\0\0\0\0\0\0\0\0" + bytes(range(200))
"""An EXIF block with an empty directory."""


def garbage(rng: random.Random) -> bytes:
    """Return invalid metadata: noise, zeros, or directories that contain themselves or claim gigabytes."""
    order, name = rng.choice((("<", b"II*\0"), (">", b"MM\0*")))
    entry = struct.pack(
        f"{order}HHII", rng.choice((0x112, 0x8769, 0x201, 0xFFFF)), rng.randrange(20), rng.choice(EXTREMES), 8
    )
    return rng.choice(
        (
            b"",
            rng.randbytes(rng.choice((1, 7, 128, 5000))),
            bytes(rng.choice((1, 200))),
            name + struct.pack(f"{order}I", 8) + struct.pack(f"{order}H", 0xFFFF) + entry * 40,
            name + struct.pack(f"{order}IH", 8, 1) + entry + struct.pack(f"{order}I", 8),
            name + struct.pack(f"{order}I", rng.choice(EXTREMES)),
            struct.pack(">I", 128) + rng.randbytes(32) + b"acsp" + rng.randbytes(92),
        )
    )


def animated(rng: random.Random) -> tuple[str, bytes]:
    """With a few frames, or with thousands."""
    format = rng.choice(tuple(MAX_FRAMES))
    if format == "ICO":
        return format, icons(rng.choice((2, MAX_FRAMES[format])))
    return format, _animation(format, rng.choice((2, 5, MAX_FRAMES[format])))


MAX_FRAMES = {"GIF": 5000, "PNG": 2000, "WEBP": 200, "TIFF": 300, "AVIF": 60, "ICO": 5000}


@cache
def _animation(format: str, frames: int) -> bytes:
    if format == "GIF":  # repeat the second of two frames
        data = animation(format, 2, (8, 8))
        second = data.rindex(b"\x21\xf9\x04")
        return data[:second] + data[second:-1] * (frames - 1) + data[-1:]
    return animation(format, frames, (40, 30) if frames < 10 else (8, 8))


@cache
def icons(count: int) -> bytes:
    """Return an icon with ``count`` entries that share one small image."""
    data = encode(photograph("coffee", (16, 16)).convert("RGBA"), "ICO")
    entry, image = data[6:22], data[22:]
    offset = 6 + 16 * count
    entries = b"".join(entry[:12] + struct.pack("<I", offset) for _ in range(count))
    return data[:4] + struct.pack("<H", count) + entries + image


def bomb(rng: random.Random) -> tuple[str, bytes]:
    """A small file with a large image."""
    return _bomb(rng.randrange(len(BOMBS)))


@cache
def _bomb(number: int) -> tuple[str, bytes]:
    format, mode, size, options = BOMBS[number]
    return format, encode(Image.new(mode, size), format, **options)


BOMBS = (
    ("PNG", "RGBA", (4000, 3500), {"compress_level": 1}),
    ("PNG", "1", (20_000, 4000), {}),
    ("PNG", "L", (1, 1_000_000), {}),
    ("GIF", "L", (6000, 6000), {}),
    ("TIFF", "1", (12_000, 8000), {"compression": "group4"}),
    ("TIFF", "RGB", (4000, 4000), {"compression": "tiff_adobe_deflate"}),
    ("WEBP", "RGBA", (4000, 3000), {"lossless": True, "method": 0}),
    ("JPEG", "RGB", (8000, 6000), {"progressive": True}),
    ("JPEG2000", "RGB", (3000, 2000), {}),
    ("AVIF", "RGB", (4000, 3000), {"speed": 10}),
    ("TGA", "RGB", (5000, 5000), {"compression": "tga_rle"}),
)


def not_an_image(rng: random.Random) -> tuple[str, bytes]:
    """Another file, or the signature of an image followed by noise."""
    noise = rng.randbytes(rng.choice((0, 1, 40, 3000)))
    start = rng.choice(
        (
            *(b"", b"\0\0\1\0", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"BM", b"II*\0"),
            *(b"\0\0\0\x18ftypavif", b"\0\0\0\x18ftypheic", b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
            *(b"%!PS-Adobe-3.0 EPSF-3.0\n", b"%PDF-1.7\n", b"<svg ", b"MM\0+", b"\x7fELF", b"PK\3\4", b"8BPS"),
            *(b"P%d %d %d 255\n" % (kind, 10, 1 << rng.randrange(40)) for kind in range(1, 8)),
            *(b"Pf\n%d 7\n-1\n" % (1 << rng.randrange(34)), b"\0\0\2" + bytes(9) + b"\xff\xff\xff\xff\x20\0"),
        )
    )
    return "BMP" if start == b"BM" else "JPEG", start + noise


Generator = Callable[[random.Random], tuple[str, bytes]]

KINDS: dict[str, tuple[float, Generator]] = {
    "intact": (8, intact),
    "truncated": (20, truncated),
    "flipped": (20, flipped),
    "overwritten": (20, overwritten),
    "spliced": (8, spliced),
    "resized header": (10, resized_header),
    "with invalid metadata": (6, with_invalid_metadata),
    "animated": (2, animated),
    "not an image": (6, not_an_image),
    "bomb": (0.5, bomb),
}
"""Description -> relative frequency and generator."""
