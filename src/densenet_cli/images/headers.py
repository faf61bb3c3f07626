"""What Pillow's plugins don't tell of an image before they decode it, read from its first bytes.

It is needed to say how much memory decoding will take; nothing else depends on it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from densenet_cli.errors import UnreadableImageError

if TYPE_CHECKING:
    from PIL.JpegImagePlugin import JpegImageFile

Size = tuple[int, int]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def webp_size(stream: IO[bytes]) -> Size:
    """Width and height of a WebP image. (Pillow's plugin makes room for the pixels when it opens the file.)"""
    stream.seek(12)
    start = stream.read(18)
    kind = start[:4]
    if kind == b"VP8X" and len(start) == 18:
        return int.from_bytes(start[12:15], "little") + 1, int.from_bytes(start[15:18], "little") + 1
    if kind == b"VP8 " and len(start) == 18:
        width, height = struct.unpack_from("<HH", start, 14)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and len(start) >= 13:
        bits = int.from_bytes(start[9:13], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise UnreadableImageError("A damaged WebP header.")


def icon_size(stream: IO[bytes]) -> Size:
    """Width and height that no image in an icon exceeds. (Pillow's plugin decodes one when it opens the file.)

    The images' own headers count: the icon's table can say anything.
    """
    stream.seek(4)
    (count,) = struct.unpack("<H", stream.read(2))
    table = stream.read(16 * count)
    width = height = 1
    for (offset,) in struct.iter_unpack("<12xI", table[: len(table) // 16 * 16]):
        stream.seek(offset)
        start = stream.read(24)
        if len(start) == 24:
            is_png = start.startswith(PNG_SIGNATURE)
            size = struct.unpack_from(">II", start, 16) if is_png else struct.unpack_from("<ii", start, 4)
            width, height = max(width, abs(size[0])), max(height, abs(size[1]))
    return width, height


def has_one_scan(image: JpegImageFile) -> bool:
    """Whether a JPEG that was just opened is decoded row by row.

    Otherwise (progressive, or a scan for each channel) libjpeg keeps the coefficients of the whole image.
    """
    if "progressive" in image.info or "progression" in image.info or image.fp is None:
        return False
    # Pillow has stopped behind the header of the first scan: its length, then the number of channels in it.
    end = image.fp.tell()
    length = 6 + 2 * image.layers
    image.fp.seek(end - length)
    header = image.fp.read(3)
    image.fp.seek(end)
    return header == struct.pack(">HB", length, image.layers)


@dataclass(frozen=True)
class Codestream:
    """The part of a JPEG 2000 file that holds the pixels.

    Attributes:
        size: width and height, which the header of the file around it may contradict.
        components: number of channels.
        block: the least number of pixels in one of the blocks that it is made of; each has a fixed cost.
    """

    size: Size
    components: int
    block: int


def jpeg2000_codestream(stream: IO[bytes]) -> Codestream:
    """What the codestream of a JPEG 2000 file says of itself before its first tile."""
    _seek_codestream(stream)
    size = (0, 0)
    components, block = 0, 64 * 64
    while (marker := stream.read(2)) not in (b"\xff\x90", b"\xff\xd9", b""):  # a tile; the end
        (length,) = struct.unpack(">H", stream.read(2))
        body = stream.read(length - 2)
        if marker == b"\xff\x51":  # SIZ
            right, bottom, left, top = struct.unpack_from(">IIII", body, 2)
            (components,) = struct.unpack_from(">H", body, 34)
            size = right - left, bottom - top
        elif marker == b"\xff\x52":  # COD
            block = min(block, _least_block(body[5:], bool(body[0] & 1)))
        elif marker == b"\xff\x53":  # COC: the same for one channel
            start = 1 if components < 257 else 2
            block = min(block, _least_block(body[start + 1 :], bool(body[start] & 1)))
    return Codestream(size, components, block)


def _least_block(parameters: bytes, has_precincts: bool) -> int:
    """Of a coding style: code blocks of 2^(w+2) by 2^(h+2), and precincts, each half as wide and high in its bands."""
    least = 4 << (parameters[1] & 15) + (parameters[2] & 15) + 2
    if has_precincts:
        for exponents in parameters[5:]:
            least = min(least, max(1, (1 << (exponents & 15) + (exponents >> 4)) // 4))
    return least


def _seek_codestream(stream: IO[bytes]) -> None:
    """Go behind the codestream's first marker: at the file's beginning, or in the box called jp2c."""
    stream.seek(0)
    if stream.read(2) == b"\xff\x4f":
        return
    position = 0
    while True:
        stream.seek(position)
        length, kind = struct.unpack(">I4s", stream.read(8))
        if length == 1:
            (length,) = struct.unpack(">Q", stream.read(8))
        if kind == b"jp2c":
            stream.read(2)
            return
        if length < 8:
            raise UnreadableImageError("A damaged JPEG 2000 header.")
        position += length
