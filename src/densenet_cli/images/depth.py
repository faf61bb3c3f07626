"""From 16 and 32 bits, whole numbers or floats, to 8: an image keeps its look, whatever held it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

SIXTEEN_BIT_MODES = frozenset(("I;16", "I;16L", "I;16B", "I;16N"))
DEEP_MODES = SIXTEEN_BIT_MODES | {"I", "F"}

BAND_PIXELS = 1 << 16
"""Pixels that are worked on at a time: the numbers in between take many times an image's own memory."""


def to_eight_bits(image: Image) -> Image:
    """An image of mode I;16, I or F in mode L.

    16 bits are divided by 257, so that 65535 becomes 255. Whole numbers of 32 bits are taken for 8 bits where none
    is above 255, for 16 bits where none is above 65535; floats for [0, 1] where none is above 1, for [0, 255] where
    none is above 255. Else, and where some are negative, the least becomes 0 and the greatest 255. NaN counts as
    the least, an infinity as the end it is beyond. The color that a PNG calls transparent becomes white.
    """
    import numpy as np
    from PIL import Image as pillow

    least, greatest, factor = _scale(image)
    transparent = image.info.get("transparency")
    result = pillow.new("L", image.size)
    for top, band in _bands(image):
        with np.errstate(invalid="ignore"):  # of a NaN that signals
            numbers = band.astype(np.float64)
        np.nan_to_num(numbers, copy=False, nan=least, posinf=greatest, neginf=least)
        levels = np.rint((numbers - least) * factor).astype(np.uint8)
        if isinstance(transparent, int):
            levels[band == transparent] = 255
        result.paste(pillow.fromarray(levels), (0, top))
    return result


def _scale(image: Image) -> tuple[float, float, float]:
    """What becomes 0, what becomes 255, and 255 over their distance."""
    # A PGM file of more than 8 bits is spread to 16 by Pillow, which calls it I all the same.
    if image.mode in SIXTEEN_BIT_MODES or (image.mode == "I" and image.format == "PPM"):
        return 0, 65535, 1 / 257
    least, greatest = _range(image)
    if least >= 0:
        for limit in (255, 65535) if image.mode == "I" else (1, 255):
            if greatest <= limit:
                return 0, limit, 255 / limit
    return least, greatest, 255 / (greatest - least) if greatest > least else 0


def _range(image: Image) -> tuple[float, float]:
    """The least and the greatest of its finite numbers; 0 and 0 if there is none."""
    import numpy as np

    least, greatest = np.inf, -np.inf
    for _, band in _bands(image):
        finite = band[np.isfinite(band)]
        if finite.size:
            least, greatest = min(least, float(finite.min())), max(greatest, float(finite.max()))
    return (least, greatest) if least <= greatest else (0.0, 0.0)


def _bands(image: Image) -> Iterator[tuple[int, NDArray[Any]]]:
    """Its rows as arrays, some at a time, each with the number of its first row."""
    import numpy as np

    rows = max(1, BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))
