"""Images for tests: photographs in every Pillow mode and every supported format."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import skimage.data
from PIL import Image

from densenet_cli.errors import ImageError
from densenet_cli.images.decoding import load
from densenet_cli.images.memory import DecodeBudget
from densenet_cli.images.preprocessing import Preprocessing
from densenet_cli.images.sources import from_object

PHOTOGRAPHS = ("chelsea", "coffee", "rocket", "astronaut")


@cache
def _photograph(name: str) -> Image.Image:
    return Image.fromarray(getattr(skimage.data, name)())


def photograph(name: str = "chelsea", size: tuple[int, int] | None = None) -> Image.Image:
    """Return a photograph in RGB, at its original size (about 500 pixels) or another."""
    image = _photograph(name)
    return image.resize(size, Image.Resampling.BICUBIC) if size else image.copy()


def gray16(image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Return 16-bit gray levels: exactly 257 times the 8-bit levels."""
    return np.asarray(image.convert("L")).astype(np.uint16) * 257


def translucent(image: Image.Image) -> Image.Image:
    """Return the image in RGBA, from transparent on the left to opaque on the right."""
    ramp = np.linspace(0, 255, image.width).round().astype(np.uint8)
    layer = image.convert("RGBA")
    layer.putalpha(Image.fromarray(np.tile(ramp, (image.height, 1))))
    return layer


def _palette_with_transparency(image: Image.Image) -> Image.Image:
    result = image.convert("P", palette=Image.Palette.ADAPTIVE)
    result.info["transparency"] = bytes(range(0, 256, 4)) + b"\xff" * 192
    return result


def _with_transparent_color(mode: str) -> Callable[[Image.Image], Image.Image]:
    def make(image: Image.Image) -> Image.Image:
        result = image.convert(mode)
        result.info["transparency"] = result.getpixel((0, 0))
        return result

    return make


PILLOW_MODES: dict[str, Callable[[Image.Image], Image.Image]] = {
    **{mode: lambda image, mode=mode: image.convert(mode) for mode in ("1", "L", "P", "RGB", "RGBX")},
    **{mode: lambda image, mode=mode: image.convert(mode) for mode in ("CMYK", "YCbCr", "LAB", "HSV")},
    **{mode: lambda image, mode=mode: image.convert("L").convert(mode) for mode in ("I", "F")},
    "RGBA": translucent,
    "RGBa": lambda image: translucent(image).convert("RGBa"),
    "LA": lambda image: translucent(image).convert("LA"),
    "La": lambda image: translucent(image).convert("LA").convert("La"),
    "PA": lambda image: translucent(image).convert("PA"),
    "P transparent": _palette_with_transparency,
    "1 transparent": _with_transparent_color("1"),
    "L transparent": _with_transparent_color("L"),
    "RGB transparent": _with_transparent_color("RGB"),
    "I;16": lambda image: Image.fromarray(gray16(image)),
    "I;16L": lambda image: Image.frombytes("I;16L", image.size, gray16(image).astype("<u2").tobytes()),
    "I;16B": lambda image: Image.frombytes("I;16B", image.size, gray16(image).astype(">u2").tobytes()),
}
"""Name -> function that converts an RGB image to that mode, with and without transparency."""


PILLOW_VERSION = int(PIL.__version__.partition(".")[0])


@dataclass(frozen=True)
class Encoding:
    """How to encode an image: format, mode (a key of ``PILLOW_MODES``), and Pillow's options."""

    format: str
    mode: str
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        options = " ".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.format} {self.mode} {options}".rstrip()

    def encode(self, image: Image.Image) -> bytes:
        """Encode an RGB image."""
        return encode(PILLOW_MODES[self.mode](image), self.format, **self.options)


def _encodings() -> Iterator[Encoding]:
    for format, modes in {
        "JPEG": ("L", "RGB", "CMYK"),
        "PNG": ("1", "L", "P", "P transparent", "L transparent", "RGB transparent", "LA", "RGB", "RGBA", "I;16"),
        "GIF": ("1", "L", "P", "RGBA"),
        "WEBP": ("RGB", "RGBA"),
        "BMP": ("1", "L", "P", "RGB", "RGBA"),
        "TIFF": ("1", "L", "P", "PA", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I;16B", "I", "F"),
        "AVIF": ("L", "RGB", "RGBA"),
        "JPEG2000": ("L", "LA", "RGB", "RGBA", "CMYK", "I;16"),
        "PPM": ("1", "L", "RGB", "I;16", "F"),
        "ICO": ("RGBA",),
        "TGA": ("1", "L", "P", "LA", "RGB", "RGBA"),
    }.items():
        for mode in modes:
            if (format, mode) != ("TIFF", "YCbCr") or PILLOW_VERSION >= 13:  # older versions cannot read it
                yield Encoding(format, mode)
    yield Encoding("JPEG", "RGB", {"progressive": True})
    yield Encoding("JPEG", "RGB", {"progressive": True, "subsampling": 0})
    yield Encoding("JPEG", "CMYK", {"progressive": True})
    yield Encoding("WEBP", "RGBA", {"lossless": True, "method": 0})
    yield Encoding("ICO", "RGBA", {"bitmap_format": "bmp"})
    yield Encoding("TGA", "RGB", {"compression": "tga_rle"})
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "lzma", "zstd"):
        for mode in ("1", "L", "RGB", "RGBA", "I;16", "F"):
            yield Encoding("TIFF", mode, {"compression": compression})
    yield Encoding("TIFF", "RGB", {"compression": "jpeg"})
    yield Encoding("TIFF", "1", {"compression": "group4"})


ENCODINGS = tuple(_encodings())
"""Every supported format and mode that Pillow can write, TIFF with its compressions."""


def load_pixels(image: Any, budget: DecodeBudget | None = None, **settings: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Load an image with the given preprocessing settings."""
    return load(from_object(image), Preprocessing(**settings), budget).pixels


def load_error(image: Any, budget: DecodeBudget | None = None, **settings: Any) -> ImageError:
    """Return the error of loading an image, which must have a short printable message."""
    with pytest.raises(ImageError) as caught:
        load_pixels(image, budget, **settings)
    message = str(caught.value)
    assert message and message.isprintable() and len(message) < 300
    return caught.value


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    """Encode an image."""
    file = io.BytesIO()
    if format == "ICO":
        options = {"sizes": [image.size], **options}
    if "transparency" in image.info and format == "PNG":
        options = {"transparency": image.info["transparency"], **options}
    image.save(file, format, **options)
    return file.getvalue()


def rotated(image: Image.Image, orientation: int, format: str = "JPEG", **options: Any) -> bytes:
    """Encode an image with an EXIF orientation, and its pixels transformed so that it looks the same."""
    method = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image.transpose(method) if method is not None else image, format, exif=exif, **options)


def png(samples: np.ndarray[Any, Any], depth: int, color: int, **chunks: bytes) -> bytes:
    """Encode a PNG that Pillow cannot write.

    Args:
        samples: integers of ``depth`` bits, shape (height, width * channels).
        depth: bits per sample: 1, 2, 4, 8, or 16.
        color: PNG color type: 0 gray, 2 RGB, 3 palette, 4 gray with alpha, 6 RGBA.
        chunks: additional chunks by name, written before the pixels.
    """
    height, row = samples.shape
    width = row // {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    if depth == 16:
        rows = samples.astype(">u2").view(np.uint8).reshape(height, -1)
    else:
        bits = (samples.astype(np.uint8)[:, :, None] >> np.arange(depth - 1, -1, -1)) & 1
        rows = np.packbits(bits.reshape(height, -1), axis=1)
    pixels = zlib.compress(b"".join(b"\0" + line.tobytes() for line in rows))
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = [(b"IHDR", header), *((name.encode(), data) for name, data in chunks.items())]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in [*parts, (b"IDAT", pixels), (b"IEND", b"")])


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def animation(format: str, frames: int = 3, size: tuple[int, int] = (120, 80)) -> bytes:
    """Encode an animation whose first frame is ``photograph("chelsea", size)``."""
    images = [photograph(name, size) for name in PHOTOGRAPHS]
    first, *others = [images[index % len(images)] for index in range(frames)]
    return encode(first, format, save_all=True, append_images=others, duration=50)


def noise_images(folder: Path, count: int, seed: int = 5) -> Path:
    """Write images of noise with different colors and structures to ``folder``, named by number, and return it."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        noise = rng.normal(0, rng.integers(1, 256), (cells := rng.choice([1, 2, 8, 32]), cells, 3))
        pixels = np.clip(rng.integers(0, 256, 3) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).resize((40, 36)).save(folder / f"{number:03}.png")
    return folder
