"""A smaller copy of an image for people to see, made as the image is decoded and only where somebody asked for it.

Whoever wants one gives the source a ``Keepsake`` to be filled; a source without one costs nothing more.
"""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    from densenet_cli.images.preprocessing import DecodedImage

MOST_BYTES = 7000
"""Two thousand of these, a third longer in base64, stay under 19 MB and leave 6 for the rest of a page."""
QUALITIES = (80, 60, 40, 20, 10)
"""A photograph takes 3 to 6 KB at the first; pure noise, the worst there is, 6 at the fourth."""


class Preview:
    """The place for a copy.

    Attributes:
        side: pixels of its longer side, at most.
        least_side: pixels that a JPEG's shorter side keeps for it when it is decoded at reduced scale; 0 for as many
            as the network needs.
        most_bytes: no ``data`` is longer.
        data: the copy as bytes; None until the image is decoded, and for ever where it can't be.
    """

    __slots__ = ("data",)
    side: int
    least_side = 0
    most_bytes: int

    def __init__(self) -> None:
        self.data: bytes | None = None

    def take(self, decoded: DecodedImage) -> None:
        """Fill it. The memory that it takes is ``memory.of_resizing``'s."""
        raise NotImplementedError

    @property
    def is_sound(self) -> bool:
        """Whether it is there and can be looked at, wherever it came from."""
        return bool(self.data)

    def _shrink(self, decoded: DecodedImage) -> Image:
        """All of the image, no side longer than ``side``; a smaller one keeps its size."""
        from PIL.Image import Resampling

        width, height = decoded.size
        scale = min(self.side / max(width, height), (decoded.box[2] - decoded.box[0]) / width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        return decoded.image.resize(size, Resampling.BILINEAR, decoded.box)


class Thumbnail(Preview):
    """``data`` is a JPEG file of the image as preprocessing found it: upright, on white (but for ``keras``)."""

    __slots__ = ()
    side = 160
    most_bytes = 1 << 16

    def take(self, decoded: DecodedImage) -> None:
        """See ``Keepsake``."""
        self.data = _encode(self._shrink(decoded))


class DisplayImage(Preview):
    """``data`` are the pixels of the upright image, and what it was: see ``image`` and the properties beside it."""

    __slots__ = ()
    side = 800
    least_side = 512  # what ``crop`` keeps for an input of 224
    most_bytes = 20 + 3 * side * side
    _head = struct.Struct("<5I")

    def take(self, decoded: DecodedImage) -> None:
        """See ``Keepsake``."""
        from densenet_cli.images.orientation import upright
        from densenet_cli.images.preprocessing import DecodedImage

        small = self._shrink(decoded)
        turned = upright(DecodedImage(small, decoded.size, (0, 0, *small.size)), decoded.orientation)
        head = self._head.pack(*turned.size, *turned.image.size, decoded.orientation)
        self.data = head + turned.image.tobytes()

    @property
    def is_sound(self) -> bool:
        """See ``Keepsake``."""
        if len(self.data or b"") <= self._head.size:
            return False
        *size, width, height, orientation = self._fields()
        return min(size) > 0 and 1 <= orientation <= 8 and len(self.data or b"") == self._head.size + 3 * width * height

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright image at full scale."""
        width, height, *_ = self._fields()
        return width, height

    @property
    def orientation(self) -> int:
        """The EXIF orientation that the network's pixels still have, 1 to 8: other than 1 with ``keras`` only."""
        return self._fields()[4]

    @property
    def image(self) -> Image:
        """The image in RGB, upright, no side longer than ``side``."""
        from PIL import Image

        _, _, width, height, _ = self._fields()
        return Image.frombytes("RGB", (width, height), (self.data or b"")[self._head.size :])

    def _fields(self) -> tuple[int, ...]:
        return self._head.unpack_from(self.data or b"")


PREVIEWS: dict[str, type[Preview]] = {kind.__name__: kind for kind in (Thumbnail, DisplayImage)}
"""By name, for a process that decodes for another."""


def _encode(image: Image) -> bytes:
    for quality in QUALITIES:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() <= MOST_BYTES:
            break
    return file.getvalue()
