"""A small copy of a picture for a page to show, made as the picture is decoded and only where somebody asked for it.

Whoever wants one gives the source a ``Thumbnail`` to be filled; a source without one costs nothing more.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    from densenet_cli.images.preprocessing import Picture

MOST_BYTES = 7000
"""Two thousand of these, a third longer in base64, stay under 19 MB and leave 6 for the rest of a page."""
QUALITIES = (80, 60, 40, 20, 10)
"""A photograph takes 3 to 6 KB at the first; pure noise, the worst there is, 6 at the fourth."""


class Thumbnail:
    """The place for one.

    Attributes:
        side: pixels of its longer side, at most.
        jpeg: a JPEG file of the whole picture as the network's preprocessing found it, upright and on white (other
            than with ``keras``); None until the picture is decoded, and for ever where it can't be.
    """

    __slots__ = ("jpeg",)
    side = 160

    def __init__(self) -> None:
        self.jpeg: bytes | None = None

    def take(self, picture: Picture) -> None:
        """Fill it. A picture smaller than ``side`` keeps its size; the memory it takes is ``memory.of_resizing``'s."""
        from PIL.Image import Resampling

        width, height = picture.size
        scale = min(self.side / max(width, height), (picture.box[2] - picture.box[0]) / width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        self.jpeg = _encode(picture.image.resize(size, Resampling.BILINEAR, picture.box))


def _encode(image: Image) -> bytes:
    for quality in QUALITIES:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() <= MOST_BYTES:
            break
    return file.getvalue()
