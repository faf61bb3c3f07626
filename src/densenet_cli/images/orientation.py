"""Images the right way up: the EXIF orientation, applied to the pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from densenet_cli.images.preprocessing import DecodedImage

if TYPE_CHECKING:
    from PIL.Image import Image

ORIENTATION_TAG = 0x0112

METHODS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""EXIF orientation -> the name of Pillow's way to undo it."""


def orientation_of(image: Image) -> int:
    """The EXIF orientation of a loaded image, 1 to 8. A damaged EXIF block is no reason to lose its image: 1."""
    try:
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:
        return 1
    return int(orientation) if orientation in METHODS else 1


def upright(decoded: DecodedImage, orientation: int) -> DecodedImage:
    """The image with its orientation undone: itself for 1."""
    from PIL.Image import Transpose

    if orientation == 1:
        return decoded
    width, height = decoded.image.size
    left, top, right, bottom = decoded.box
    size = decoded.size
    if orientation >= 5:  # rows become columns
        left, top, right, bottom = top, left, bottom, right
        width, height = height, width
        size = size[1], size[0]
    if orientation in (2, 3, 6, 7):
        left, right = width - right, width - left
    if orientation in (3, 4, 7, 8):
        top, bottom = height - bottom, height - top
    return DecodedImage(decoded.image.transpose(Transpose[METHODS[orientation]]), size, (left, top, right, bottom))
