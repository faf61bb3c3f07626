"""Previews: small copies of an image for people to look at, made while the image is decoded.

A preview is part of the image's result. It is made only if the caller asks for one.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from densenet_cli.images.conversion import to_upright
from densenet_cli.images.preprocessing import DecodedImage

if TYPE_CHECKING:
    from PIL.Image import Image

    from densenet_cli._types import Size

MAX_JPEG_BYTES = 7000
"""Target size of a thumbnail. In base64, 2,000 of them stay under 19 MB, which leaves 6 MB for the rest of a page."""
QUALITIES = (80, 60, 40, 20, 10)
"""JPEG qualities to try. A photograph takes 3 to 6 kB at the first; noise, the worst case, 6 kB at the fourth."""


class Preview:
    """Base class of previews.

    Attributes:
        max_side: Maximum length of the longer side in pixels.
        min_decoded_side: If the preview is made from a JPEG decoded at reduced scale, the shorter side keeps at least
            this many pixels. 0 means as many as the network needs.
        max_bytes: Maximum length of ``to_bytes``.
    """

    max_side: ClassVar[int]
    min_decoded_side: ClassVar[int] = 0
    max_bytes: ClassVar[int]

    @classmethod
    def make(cls, decoded: DecodedImage) -> Self:
        """Make the preview of a decoded image. ``memory.estimate_resize`` estimates the memory that this needs."""
        raise NotImplementedError

    def to_bytes(self) -> bytes:
        """Serialize the preview, to send it from a worker process."""
        raise NotImplementedError

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Deserialize and validate a preview. Raises ``ValueError`` for anything that ``to_bytes`` cannot return."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Thumbnail(Preview):
    """A JPEG file of the image as preprocessing sees it: upright and on a white background (except in ``keras`` mode).

    Attributes:
        jpeg: The file's bytes.
    """

    max_side = 160
    max_bytes = 1 << 16

    jpeg: bytes

    @classmethod
    def make(cls, decoded: DecodedImage) -> Self:
        """Resize and encode a decoded image."""
        image = _shrink(decoded, cls.max_side)
        for quality in QUALITIES:
            file = io.BytesIO()
            image.save(file, "JPEG", quality=quality, optimize=True)
            if file.tell() <= MAX_JPEG_BYTES:
                break
        return cls(file.getvalue())

    def to_bytes(self) -> bytes:
        """Return the JPEG file."""
        return self.jpeg

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Accept any bytes: browsers treat the file as untrusted."""
        if not data:
            raise ValueError("empty thumbnail")
        return cls(data)


@dataclass(frozen=True, slots=True)
class DisplayImage(Preview):
    """An upright RGB copy of the image, to draw on.

    Attributes:
        size: Width and height of the upright image at full scale.
        orientation: EXIF orientation (1 to 8) of the network's input; differs from 1 only in ``keras`` mode.
        image: The copy, no side longer than ``max_side``.
    """

    max_side = 800
    min_decoded_side = 512  # what ``crop`` keeps for an input of 224
    max_bytes = 20 + 3 * max_side * max_side
    _header: ClassVar[struct.Struct] = struct.Struct("<5I")

    size: Size
    orientation: int
    image: Image

    @classmethod
    def make(cls, decoded: DecodedImage) -> Self:
        """Resize a decoded image and turn it upright."""
        small = _shrink(decoded, cls.max_side)
        upright = to_upright(DecodedImage(small, decoded.size, (0, 0, *small.size)), decoded.orientation)
        return cls(upright.size, decoded.orientation, upright.image)

    def to_bytes(self) -> bytes:
        """Return a header and the raw pixels."""
        return self._header.pack(*self.size, *self.image.size, self.orientation) + self.image.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Deserialize. Raises ``ValueError`` if the header is invalid or does not match the number of pixels."""
        from PIL import Image

        if len(data) < cls._header.size:
            raise ValueError("truncated display image")
        *size, width, height, orientation = cls._header.unpack_from(data)
        pixels = data[cls._header.size :]
        if min(*size, width, height) < 1 or not 1 <= orientation <= 8 or len(pixels) != 3 * width * height:
            raise ValueError("invalid display image")
        return cls((size[0], size[1]), orientation, Image.frombytes("RGB", (width, height), pixels))


PREVIEWS: dict[str, type[Preview]] = {kind.__name__: kind for kind in (Thumbnail, DisplayImage)}
"""Class name -> class, for worker processes."""


def _shrink(decoded: DecodedImage, max_side: int) -> Image:
    """Resize the whole image so that no side is longer than ``max_side``. Smaller images keep their size."""
    from PIL.Image import Resampling

    width, height = decoded.size
    scale = min(max_side / max(width, height), (decoded.box[2] - decoded.box[0]) / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return decoded.image.resize(size, Resampling.BILINEAR, decoded.box)
