"""Access to the encoded bytes of an image: a file, URL, standard input, or memory. Only regular files are opened.

Also what Pillow must be told before it decodes them, and animations, which stay open from frame to frame.
"""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from itertools import count
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from densenet_cli.errors import UnreadableImageError
from densenet_cli.images.conversion import has_16_bit_colors
from densenet_cli.images.files import MAX_STREAM_BYTES, open_file, read_stream
from densenet_cli.images.formats import identify_format, unsupported
from densenet_cli.images.memory import MEGABYTE, DecodeBudget
from densenet_cli.images.sources import Source

if TYPE_CHECKING:
    from PIL.Image import Image

    from densenet_cli._types import Box, Size


MEMBER_MEMORY = DecodeBudget(4 * MAX_STREAM_BYTES // MEGABYTE)
"""For encoded members of archives. Their sizes are known before they are read, unlike those of streams."""


class EncodedImage(NamedTuple):
    """An opened image file.

    Attributes:
        stream: Its bytes, seekable and at the beginning.
        size: Their number.
        bytes_in_memory: How many of them are held in memory: all or none.
    """

    stream: IO[bytes]
    size: int
    bytes_in_memory: int


@contextmanager
def open_source(source: Source) -> Iterator[EncodedImage]:
    """Open a source of kind path, url, remote, member, stdin, bytes, or file.

    Raises:
        SourceNotFoundError, SourceUnreadableError: The file cannot be opened or is not a regular file.
        UnreadableImageError: A stream has more than ``MAX_STREAM_BYTES`` bytes or returns text.
        DownloadFailedError: The URL cannot be fetched.
    """
    if source.kind == "path":
        with open_file(source.origin) as stream:
            yield EncodedImage(stream, os.fstat(stream.fileno()).st_size, bytes_in_memory=0)
    else:
        with hold_source(source) as data:
            yield EncodedImage(io.BytesIO(data), len(data), bytes_in_memory=len(data))


@contextmanager
def hold_source(source: Source) -> Iterator[bytes]:
    """Read a source and hold its bytes, for which ``MEMBER_MEMORY`` is reserved. See ``read_source``."""
    with MEMBER_MEMORY.reserve(source.origin.size) if source.kind == "member" else nullcontext():
        yield read_source(source)


def read_source(source: Source) -> bytes:
    """Return the bytes of a source of another kind than path. Raises the same errors as ``open_source``."""
    match source.kind:
        case "url" | "remote" if isinstance(source.origin, str):
            from densenet_cli.images.prefetching import download

            data: bytes = download(source, MAX_STREAM_BYTES)
        case "stdin" | "member" | "remote":
            data = source.origin.read(MAX_STREAM_BYTES)
        case "file":
            data = read_stream(source.origin, MAX_STREAM_BYTES)
        case _:
            return bytes(source.origin)
    if len(data) > MAX_STREAM_BYTES:
        what = "file" if source.kind == "remote" else "stream"
        raise UnreadableImageError(f"The {what} is longer than the limit of {MAX_STREAM_BYTES >> 20} MiB.")
    return data


def reduce_jpeg(image: Image, min_side: int | None) -> Box | None:
    """Configure a JPEG to be decoded at 1/2, 1/4, or 1/8 scale if that keeps ``min_side`` pixels.

    Returns:
        The part of the reduced image that shows the image, or None for full scale.
    """
    if image.format != "JPEG" or min_side is None or jpeg_reduction(image.size, min_side) == 1:
        return None
    drafted = image.draft(None, (min_side, min_side))
    return drafted[1] if drafted else None


def jpeg_reduction(size: Size, min_side: int) -> int:
    """Return the factor (8, 4, 2, or 1) by which Pillow reduces a JPEG whose shorter side must keep ``min_side``."""
    return next((factor for factor in (8, 4, 2) if min(size) >= factor * min_side), 1)


JPEG_END = b"\xff\xd9"
OTHER_DATA = bytes(range(255))
"""More of an image, whatever its encoding. It contains no marker."""

MARKER = re.compile(rb"\xff+[^\0\xd0-\xd7\xff]")

ROWS = 64


def load_truncated(image: Image, error: OSError, reopen: Callable[[], Image]) -> tuple[Image, bool]:
    """Decode what there is of an image, after decoding it has failed with ``error``.

    A JPEG is complete without its end marker if its pixels do not depend on what follows.

    Args:
        image: The image that could not be decoded. Its pixels are incomplete.
        error: The exception. It is raised again unless it means that the file ends early.
        reopen: Opens the image again.

    Returns:
        The decoded image, and whether anything is missing. Missing pixels are gray or black.
    """
    if not str(error).startswith("image file is truncated"):
        raise error
    if image.format == "JPEG":
        stream: Any = reopen().fp  # type: ignore[attr-defined]
        stream.seek(0)
        data = stream.read()
        digest = _load_with_end(reopen(), OTHER_DATA + JPEG_END)[1]
        image, digest_with_end = _load_with_end(reopen(), JPEG_END)
        return image, digest != digest_with_end or not _has_all_scans(data)
    opened: Any = image
    opened.tile = []  # Pillow has decoded what there is
    return image, True


def _has_all_scans(data: bytes) -> bool:
    """Return whether the scans in a JPEG file cover every coefficient of every channel to its last bit."""
    missing: dict[int, set[int]] = {}
    position = 2
    while match := MARKER.search(data, position):
        kind, start = data[match.end() - 1], match.end()
        body = data[start + 2 : start + int.from_bytes(data[start : start + 2], "big")]
        position = start + 2 + len(body)
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC) and len(body) > 6:  # frame header
            missing = {identifier: set(range(64)) for identifier in body[6::3]}
        elif kind == 0xDA and len(body) > 3:  # scan header: channels, first and last coefficient, bits left out
            first, last, bits = body[-3:]
            for identifier in body[1:-3:2]:
                if bits & 15 == 0:
                    missing.get(identifier, set()).difference_update(range(first, last + 1))
    return not any(missing.values())


def _load_with_end(image: Image, end: bytes) -> tuple[Image, bytes]:
    """Decode a JPEG as if ``end`` followed its file. Return it and a digest of its pixels."""
    import hashlib

    opened: Any = image
    file, ends = opened.fp, iter([end])
    opened.load_read = lambda size: file.read(size) or next(ends, b"")
    image.load()
    digest = hashlib.sha256()
    for top in range(0, image.height, ROWS):
        digest.update(image.crop((0, top, image.width, min(top + ROWS, image.height))).tobytes())
    return image, digest.digest()


def skip_hidden_image(image: Image) -> None:
    """Move an animated PNG whose default image is not part of the animation to its first frame.

    Viewers show that image only if they do not know APNG.
    """
    if image.format != "PNG" or not getattr(image, "default_image", False):
        return
    from PIL import Image as pillow

    opened: Any = image
    opened.seek(1)
    # Pillow would draw the frame over the default image, but it belongs on an empty canvas.
    opened._prev_im = None
    opened.im = pillow.new(image.mode, image.size, 0).im


def may_have_pages(image: Image) -> bool:
    """Return whether a file, whose first page was just opened, may have more pages. Decides at no cost."""
    return image.format == "GIF" or getattr(image, "is_animated", False) or "mp" in image.info


class Animation:
    """An open animation. Each frame is drawn over those before it, so threads take turns to decode frames in order.

    Between frames it holds the canvas and the decoder, in addition to the decode budget.

    Args:
        frames: Number of frames.
        size: Width and height, None if only the decoder knows.

    Attributes:
        number: Identifies the animation in this process.
        failed: The first frame that could not be decoded, or None. Those after it cannot be decoded either.
    """

    _numbers = count(1)

    def __init__(self, frames: int, size: Size | None) -> None:
        self.frames = frames
        self.number = next(self._numbers)
        self.failed: int | None = None
        self._size = size
        self._condition = threading.Condition()
        self._waiting: list[int] = []
        self._is_busy = False
        self._files = ExitStack()
        self._encoded: EncodedImage | None = None
        self._image: Any = None
        self._position = 0

    @contextmanager
    def turn(self, frame: int) -> Iterator[None]:
        """Wait until no thread decodes a frame, or waits for an earlier one.

        Raises:
            UnreadableImageError: An earlier frame could not be decoded.
        """
        with self._condition:
            self._waiting.append(frame)
            self._condition.wait_for(lambda: not self._is_busy and frame == min(self._waiting))
            self._waiting.remove(frame)
            self._is_busy = True
        try:
            if self.failed is not None and frame > self.failed:
                raise UnreadableImageError(f"Frame {self.failed} is damaged, and later frames are drawn over it.")
            yield
        finally:
            with self._condition:
                self._is_busy = False
                self._condition.notify_all()

    def open(self, source: Source) -> tuple[Size, EncodedImage]:
        """Open the file unless it is open. Return the size of the canvas and the file."""
        if self._encoded is None:
            # Without the location, which is this object: it would be in a cycle, and its file open until that is found.
            self._encoded = self._files.enter_context(open_source(replace(source, location=None)))
        if self._size is None:
            self._size = self._open_image().size
        return self._size, self._encoded

    def _open_image(self) -> Image:
        assert self._encoded is not None
        stream = self._encoded.stream
        stream.seek(0)
        return identify_format(stream).open(stream)

    def decode(self, frame: int, accept_truncated: bool) -> tuple[Image, bool]:
        """Return a copy of a frame, and whether its end is missing. Call it in its ``turn``, with the file open."""
        try:
            if self._image is None or self._position > frame:
                self._image, self._position = self._open_image(), 0
                if has_16_bit_colors(self._image):
                    raise unsupported("Further frames of animations with 16 bits")
                skip_hidden_image(self._image)
                self._image.load()
            is_truncated = False
            while self._position < frame:
                self._image.seek(self._image.tell() + 1)
                self._position += 1
                is_truncated = self._load(accept_truncated and self._position == frame)
            copy: Image = self._image.copy()
        except BaseException:
            self.failed = frame if self.failed is None else min(frame, self.failed)
            self.close()
            raise
        if frame == self.frames - 1:
            self.close()
        return copy, is_truncated

    def _load(self, accept_truncated: bool) -> bool:
        try:
            self._image.load()
        except OSError as error:
            if not accept_truncated:
                raise
            self._image, is_truncated = load_truncated(self._image, error, self._open_image)
            return is_truncated
        return False

    def close(self) -> None:
        """Close the file. It is opened again if another frame is decoded."""
        self._image = self._encoded = None
        self._files.close()
