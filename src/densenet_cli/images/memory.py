"""Memory for decoding: an estimate per image, a budget that threads share, and the return of freed memory.

The estimates are bytes per pixel at the peak of decoding an image and converting it to RGB, measured with Pillow 13
and rounded up. ``tests/images/test_memory.py`` measures them again.
"""

from __future__ import annotations

import struct
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from typing import IO, TYPE_CHECKING, Any

from densenet_cli.errors import ImageTooLargeError
from densenet_cli.images import color
from densenet_cli.images.conversion import (
    DEEP_MODES,
    SIXTEEN_BIT_MODES,
    exif_orientation,
    has_16_bit_colors,
    is_transparent,
)
from densenet_cli.images.formats import read_jpeg2000_codestream
from densenet_cli.images.preprocessing import WORKSPACE_PIXELS, resized_size

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.TiffImagePlugin import TiffImageFile

    from densenet_cli._types import Size

MEGABYTE = 1_000_000

MIN_PIXEL_BYTES = 5
"""No image of any format and mode is converted to RGB in less."""

FIXED_BYTES = 4 << 20
"""Needed by any image: decoder tables, file buffers, and bands of rows being converted to 8 bits."""

EAGER_PIXEL_BYTES = {"WEBP": 17, "ICO": 18}
"""Formats whose plugin decodes when it opens the file. Icons store transparency separately; Pillow extracts it in
Python."""

AVIF_PIXEL_BYTES = {"L": 9, "RGB": 16}
AVIF_ALPHA_PIXEL_BYTES = 18
HEIF_PIXEL_BYTES = 16
"""AVIF and HEIF: for 10 bits and full color resolution, because the header as Pillow reads it does not tell."""

PPM_PYTHON_PIXEL_BYTES = 14
PPM_TEXT_BYTES = 24 << 20
"""Pillow decodes Netpbm files with an unusual maximum, or in text form, in Python, and text a megabyte at a time."""

FRAME_PIXEL_BYTES = 28
"""Frames of animations after the first: the canvas before and after, the frame itself, a copy, and its conversion."""

JPEG2000_BLOCK_BYTES = 700
"""What OpenJPEG allocates per code block, including its index entry, whatever the size of the block."""

ALLOCATOR_THRESHOLD = 4 << 20
"""Freed bytes that the allocator may keep per thread. Larger blocks are always returned to the system."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h


class DecodeBudget:
    """A number of bytes that decoding threads share. Threads wait for each other, first come, first served.

    Args:
        megabytes: The limit, in units of 1,000,000 bytes.

    Attributes:
        bytes: The limit.
        shared: A budget of several processes, from which the bytes are reserved as well; None for no other.
    """

    def __init__(self, megabytes: int) -> None:
        self.bytes = megabytes * MEGABYTE
        self.shared: DecodeBudget | None = None
        self._free = self.bytes
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()  # so that small images do not overtake a large one forever

    @contextmanager
    def reserve(self, needed: int) -> Iterator[None]:
        """Reserve ``needed`` bytes for the duration of the context, waiting until they are free.

        Raises:
            ImageTooLargeError: The budget is smaller than ``needed``.
        """
        if needed > self.bytes:
            raise ImageTooLargeError(
                f"Decoding needs about {-(-needed // MEGABYTE):,} MB, "
                f"more than the limit of {self.bytes // MEGABYTE:,} MB."
            )
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                self._changed.wait_for(lambda: self._queue[0] is ticket and self._free >= needed)
                self._free -= needed
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()
        try:
            with self.shared.reserve(needed) if self.shared else nullcontext():
                yield
        finally:
            with self._changed:
                self._free += needed
                self._changed.notify_all()


UNLIMITED = DecodeBudget(1 << 40)


@cache
def return_freed_memory() -> None:
    """Configure glibc's allocator to return freed memory to the system. Does nothing with other C libraries.

    By default glibc raises its threshold to the largest block ever freed (up to 32 MiB) and keeps up to twice as much
    per thread, so the process would grow far beyond the decode budget.
    """
    import ctypes

    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_TRIM_THRESHOLD, ALLOCATOR_THRESHOLD)
            libc.mallopt(_M_MMAP_THRESHOLD, ALLOCATOR_THRESHOLD)


def estimate_eager_decode(format_name: str, size: Size, encoded_bytes: int) -> int:
    """Return the bytes needed in the worst case by a format whose plugin decodes when it opens the file.

    The plugin holds the file twice.
    """
    return size[0] * size[1] * EAGER_PIXEL_BYTES[format_name] + 2 * encoded_bytes + FIXED_BYTES


def estimate_frame(size: Size, encoded_bytes: int) -> int:
    """Return the bytes needed by a frame of an animation after the first. Some decoders hold the file twice."""
    return size[0] * size[1] * FRAME_PIXEL_BYTES + 2 * encoded_bytes + FIXED_BYTES


def estimate_decode(image: Image, full_size: Size, encoded_bytes: int = 0) -> int:
    """Return the bytes needed to decode an opened image, or to convert an image in memory, to RGB.

    Args:
        image: The image. Decoding at reduced scale has already been configured.
        full_size: Its width and height at full scale.
        encoded_bytes: Size of its file.
    """
    pixels = image.width * image.height
    return max(_decoder_bytes(image, full_size, encoded_bytes), pixels * _rgb_pixel_bytes(image)) + FIXED_BYTES


def estimate_resize(size: Size, shorter_side: int) -> int:
    """Return the bytes that resizing needs besides the image in the worst case: Pillow's first pass and the result."""
    width, height = resized_size(size, shorter_side)
    return 4 * (min(WORKSPACE_PIXELS, width * size[1]) + min(WORKSPACE_PIXELS, width * height))


def _decoder_bytes(image: Image, full_size: Size, encoded_bytes: int) -> int:
    """Return the bytes that the decoder needs, including its result."""
    pixels = image.width * image.height
    decoded = pixels * pixel_bytes(image.mode) * (2 if has_16_bit_colors(image) else 1)
    opened: Any = image
    match image.format:
        case "HEIF":
            return pixels * HEIF_PIXEL_BYTES + 2 * encoded_bytes
        case _ if not getattr(image, "tile", None):  # already decoded, or not from a file
            return decoded
        case "JPEG":
            return decoded + _jpeg_coefficient_bytes(opened, full_size)
        case "PNG" if getattr(image, "default_image", False):  # see reading.skip_hidden_image
            return 2 * decoded
        case "TIFF":
            return decoded + _tiff_buffer_bytes(opened, encoded_bytes)
        case "AVIF":
            return pixels * AVIF_PIXEL_BYTES.get(image.mode, AVIF_ALPHA_PIXEL_BYTES) + 2 * encoded_bytes
        case "JPEG2000":
            return decoded + _jpeg2000_plane_bytes(opened.fp) + 2 * encoded_bytes
        case "PPM" if opened.tile[0].codec_name != "raw":
            text_bytes = PPM_TEXT_BYTES if opened.tile[0].codec_name == "ppm_plain" else 0
            return pixels * PPM_PYTHON_PIXEL_BYTES + text_bytes
        case _:
            return decoded


def _rgb_pixel_bytes(image: Image) -> int:
    """Return the bytes per pixel for converting to RGB and turning upright, including the image itself."""
    source = pixel_bytes(image.mode)
    if image.mode in DEEP_MODES:
        needed = source + 1 + 4
    elif is_transparent(image):
        needed = source + 4 + (0 if image.mode in ("RGBA", "LA") else 4)
    else:
        needed = source + (0 if image.mode == "RGB" else 4)
    if converter := color.find_converter(image):
        needed += converter.pixel_bytes(image.mode)
    return max(needed, 8 if _may_be_rotated(image) else 0)


def _may_be_rotated(image: Image) -> bool:
    """Return whether the image may have to be turned upright. A PNG's EXIF block can follow its pixels."""
    if image.format == "JPEG":
        return exif_orientation(image) != 1
    return image.format in ("PNG", "TIFF", "AVIF", "HEIF") or (image.format is None and exif_orientation(image) != 1)


def pixel_bytes(mode: str) -> int:
    """Return the bytes per pixel of a Pillow mode: 4 for several channels or more than 16 bits."""
    if mode in ("1", "L", "P"):
        return 1
    return 2 if mode in SIXTEEN_BIT_MODES else 4


def _jpeg_coefficient_bytes(image: JpegImageFile, full_size: Size) -> int:
    """Return 2 bytes per sample, always at full scale, or 0 if a single scan holds everything."""
    if has_single_scan(image):
        return 0
    max_horizontal = max(horizontal for _, horizontal, _, _ in image.layer)
    max_vertical = max(vertical for _, _, vertical, _ in image.layer)
    factors = sum(horizontal * vertical for _, horizontal, vertical, _ in image.layer)
    return int(2 * (factors / (max_horizontal * max_vertical)) * full_size[0] * full_size[1])


def has_single_scan(image: JpegImageFile) -> bool:
    """Return whether a freshly opened JPEG is decoded row by row.

    Otherwise (progressive, or one scan per channel) libjpeg holds the coefficients of the whole image.
    """
    if "progressive" in image.info or "progression" in image.info or image.fp is None:
        return False
    # Pillow stops after the header of the first scan, which begins with its length and the number of its channels.
    end = image.fp.tell()
    length = 6 + 2 * image.layers
    image.fp.seek(end - length)
    header = image.fp.read(3)
    image.fp.seek(end)
    return header == struct.pack(">HB", length, image.layers)


def _tiff_buffer_bytes(image: TiffImageFile, encoded_bytes: int) -> int:
    """Return the size of one decompressed strip or tile and of the file, which libtiff maps. Uncompressed: 0.

    Pillow turns a TIFF upright while loading it, in its own mode, which needs a second copy.
    """
    tags = image.tag_v2
    rotated = image.width * image.height * pixel_bytes(image.mode) if tags.get(0x0112, 1) != 1 else 0
    if image.tile[0].codec_name != "libtiff":
        return rotated
    bits = tags.get(258, (1,))
    channels = max(len(bits), tags.get(277, 1))
    width, height = tags.get(322, image.width), tags.get(323, min(tags.get(278, image.height), image.height))
    strip: int = width * height * channels * max(bits) // 8
    return max(rotated, strip + encoded_bytes)


def _jpeg2000_plane_bytes(stream: IO[bytes]) -> int:
    """Return 4 bytes per sample for the planes and 2 for the current tile, plus the cost of the code blocks."""
    codestream = read_jpeg2000_codestream(stream)
    samples = codestream.size[0] * codestream.size[1] * codestream.components
    return int(samples * (6 + JPEG2000_BLOCK_BYTES / codestream.min_block_pixels))


_is_silenced = threading.Event()


def configure_pillow(budget: DecodeBudget) -> None:
    """Replace Pillow's pixel limit with a memory budget, and keep Pillow from writing to standard error.

    Some plugins compare a size with ``Image.MAX_IMAGE_PIXELS`` themselves and reject twice as much. The limit also
    protects images that the caller opens, so it is never removed. It is raised only if an image that the budget
    admits would exceed it (budgets of 900 MB and more).
    """
    from PIL import Image

    max_pixels = budget.bytes // MIN_PIXEL_BYTES
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = -(-max_pixels // 2)
    if not _is_silenced.is_set():
        _silence()
        _is_silenced.set()


def _silence() -> None:
    """Suppress warnings from Pillow's modules, and messages that libtiff writes to standard error.

    Neither can be suppressed for one thread only. A damaged tag or an odd size either raises an exception or does not
    matter. Pillow's log records go to the caller's handlers only, never to logging's last-resort handler.
    """
    import ctypes
    import logging
    import warnings

    from PIL import _imaging

    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    # Find libtiff through the module that is linked to it. Builds of Pillow that hide its symbols stay as they are.
    with suppress(OSError, AttributeError):
        libtiff = ctypes.CDLL(_imaging.__file__)
        libtiff.TIFFSetErrorHandler(None)
        libtiff.TIFFSetWarningHandler(None)
