"""How much memory an image takes at the peak of being decoded and brought to RGB, told from its header.

Bytes a pixel, measured with Pillow 13 and rounded up; ``tests/images/test_memory.py`` measures them again.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

from densenet_cli.images.color import is_transparent
from densenet_cli.images.depth import SIXTEEN_BIT_MODES
from densenet_cli.images.headers import Size, has_one_scan, jpeg2000_codestream
from densenet_cli.images.orientation import orientation_of
from densenet_cli.images.preprocessing import WORKSPACE, resized_size

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.TiffImagePlugin import TiffImageFile

FIXED = 4 << 20
"""Bytes that any image takes: decoders' tables, buffers of files, rows of other depths being brought to 8 bits."""

WEBP = 17
ICO = 18
"""Pixel and transparency come from separate places in the file; Pillow cuts the latter out in Python."""

AVIF = {"L": 9, "RGB": 16}
AVIF_OTHERS = 18
HEIF = 16
"""Both for 10 bits and full color resolution, which a header as Pillow reads it doesn't tell."""

PPM_IN_PYTHON = 14
PPM_DIGITS = 24 << 20
"""Netpbm files with an odd greatest value, or in digits, are decoded by Python code: a megabyte of digits at a time."""

JPEG2000_BLOCK = 700
"""Bytes that openjpeg spends on each block and its place in the index, whatever the block's size."""


def of_opened(format: str, size: Size, encoded: int) -> int:
    """Bytes for an image whose plugin decodes as it opens the file, at worst; its file is held twice."""
    return size[0] * size[1] * {"WEBP": WEBP, "ICO": ICO}[format] + 2 * encoded + FIXED


def of_image(image: Image, full_size: Size, encoded: int = 0) -> int:
    """Bytes for an image that is open and not yet decoded, or that a caller holds.

    Args:
        image: the image; decoding at reduced scale has been arranged.
        full_size: its width and height at full scale.
        encoded: bytes of its file.
    """
    pixels = image.width * image.height
    return max(_decoding(image, full_size, encoded), pixels * _to_rgb(image)) + FIXED


def of_resizing(size: Size, shorter_side: int) -> int:
    """Bytes that resizing takes beside the image, at worst: the rows of Pillow's first pass, and the result."""
    width, height = resized_size(size, shorter_side)
    return 4 * (min(WORKSPACE, width * size[1]) + min(WORKSPACE, width * height))


def _decoding(image: Image, full_size: Size, encoded: int) -> int:
    """Bytes that the decoder takes, the image it fills included."""
    pixels = image.width * image.height
    decoded = pixels * pixel_bytes(image.mode)
    opened: Any = image
    match image.format:
        case "HEIF":
            return pixels * HEIF + 2 * encoded
        case _ if not getattr(image, "tile", None):  # decoded already, or made and not read
            return decoded
        case "JPEG":
            return decoded + _jpeg_coefficients(opened, full_size)
        case "TIFF":
            return decoded + _tiff_buffers(opened, encoded)
        case "AVIF":
            return pixels * AVIF.get(image.mode, AVIF_OTHERS) + 2 * encoded
        case "JPEG2000":
            return decoded + _jpeg2000_planes(opened.fp) + 2 * encoded
        case "PPM" if opened.tile[0].codec_name != "raw":
            return pixels * PPM_IN_PYTHON + (PPM_DIGITS if opened.tile[0].codec_name == "ppm_plain" else 0)
        case _:
            return decoded


def _to_rgb(image: Image) -> int:
    """Bytes a pixel that bringing it to RGB and turning it upright take, the image itself included."""
    itself = pixel_bytes(image.mode)
    if image.mode in SIXTEEN_BIT_MODES or image.mode in ("I", "F"):
        most = itself + 1 + 4
    elif is_transparent(image):
        most = itself + 4 + (0 if image.mode in ("RGBA", "LA") else 4)
    else:
        most = itself + (0 if image.mode == "RGB" else 4)
    return max(most, 8 if _may_turn(image) else 0)


def _may_turn(image: Image) -> bool:
    """Whether it may have to be turned upright. A PNG's EXIF block can come behind its pixels."""
    if image.format == "JPEG":
        return orientation_of(image) != 1
    return image.format in ("PNG", "TIFF", "AVIF", "HEIF") or (image.format is None and orientation_of(image) != 1)


def pixel_bytes(mode: str) -> int:
    """What Pillow keeps a pixel in: four bytes where it has several channels or more than 16 bits."""
    if mode in ("1", "L", "P"):
        return 1
    return 2 if mode in SIXTEEN_BIT_MODES else 4


def _jpeg_coefficients(image: JpegImageFile, full_size: Size) -> int:
    """Two bytes for each sample, at full scale whatever the image is decoded at; none where one scan has it all."""
    if has_one_scan(image):
        return 0
    across = max(horizontal for _, horizontal, _, _ in image.layer)
    down = max(vertical for _, _, vertical, _ in image.layer)
    samples = sum(horizontal * vertical for _, horizontal, vertical, _ in image.layer) / (across * down)
    return int(2 * samples * full_size[0] * full_size[1])


def _tiff_buffers(image: TiffImageFile, encoded: int) -> int:
    """One strip or tile as libtiff decompresses it, and the file, which it maps; an uncompressed file takes none.

    A TIFF is turned upright while it is loaded, in its own mode: as much again.
    """
    tags = image.tag_v2
    turned = image.width * image.height * pixel_bytes(image.mode) if tags.get(0x0112, 1) != 1 else 0
    if image.tile[0].codec_name != "libtiff":
        return turned
    bits = tags.get(258, (1,))
    channels = max(len(bits), tags.get(277, 1))
    width, height = tags.get(322, image.width), tags.get(323, min(tags.get(278, image.height), image.height))
    strip: int = width * height * channels * max(bits) // 8
    return max(turned, strip + encoded)


def _jpeg2000_planes(stream: IO[bytes]) -> int:
    """For each channel four bytes a sample, and two of the tile it is taken from; and what the blocks cost."""
    codestream = jpeg2000_codestream(stream)
    samples = codestream.size[0] * codestream.size[1] * codestream.components
    return int(samples * (6 + JPEG2000_BLOCK / codestream.block))
