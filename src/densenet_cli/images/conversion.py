"""Pixel conversions: 16 and 32 bits to 8, any Pillow mode to sRGB on a white background, and EXIF orientation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from densenet_cli.images import color
from densenet_cli.images.preprocessing import DecodedImage

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

WHITE = (255, 255, 255)

ALPHA_MODES = frozenset(("RGBA", "LA", "PA", "RGBa", "La"))
SIXTEEN_BIT_MODES = frozenset(("I;16", "I;16L", "I;16B", "I;16N"))
DEEP_MODES = SIXTEEN_BIT_MODES | {"I", "F"}

BAND_PIXELS = 1 << 16
"""Pixels to convert to 8 bits at a time. The intermediate arrays take several times the memory of the pixels."""

ORIENTATION_TAG = 0x0112

TRANSPOSE_METHODS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""EXIF orientation -> member of ``PIL.Image.Transpose`` that turns the image upright."""


def to_rgb(image: Image) -> Image:
    """Convert an image to RGB, with transparency on white, and colors to sRGB if it has another profile.

    An opaque sRGB image is returned unchanged.
    """
    image.load()
    profile = color.find_converter(image)
    if image.mode in DEEP_MODES:
        image = to_8_bit(image)
    if is_transparent(image):
        return _on_white(image, profile)
    if profile:
        return profile.to_srgb(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def is_transparent(image: Image) -> bool:
    """Return whether an image has an alpha channel, a palette with alpha, or a transparent color (PNG, GIF)."""
    if image.mode in ALPHA_MODES:
        return True
    if image.mode == "P" and image.palette is not None and image.palette.mode == "RGBA":
        return True
    return image.mode in ("1", "L", "P", "RGB") and "transparency" in image.info


def _on_white(image: Image, profile: color.ProfileConverter | None) -> Image:
    from PIL import Image as pillow

    layer = image if image.mode in ("RGBA", "LA") else image.convert("LA" if image.mode == "La" else "RGBA")
    if profile:
        layer = profile.to_srgb(layer)
    canvas = pillow.new("RGB", image.size, WHITE)
    canvas.paste(layer, (0, 0), layer)
    return canvas


def to_8_bit(image: Image) -> Image:
    """Convert an image of mode I;16, I, or F to mode L.

    - 16-bit values are divided by 257, so that 65535 becomes 255.
    - 32-bit integers count as 8-bit if none exceeds 255, and as 16-bit if none exceeds 65535.
    - Floats count as [0, 1] if none exceeds 1, and as [0, 255] if none exceeds 255.
    - Otherwise, and if some values are negative, the range from the minimum to the maximum is mapped to [0, 255].

    NaN counts as the minimum, and an infinity as the end of the range that it exceeds. A transparent color (PNG)
    becomes white.
    """
    import numpy as np
    from PIL import Image as pillow

    minimum, maximum, factor = _value_scale(image)
    transparent = image.info.get("transparency")
    result = pillow.new("L", image.size)
    for top, band in _bands(image):
        with np.errstate(invalid="ignore"):  # signaling NaN
            values = band.astype(np.float64)
        np.nan_to_num(values, copy=False, nan=minimum, posinf=maximum, neginf=minimum)
        levels = np.rint((values - minimum) * factor).astype(np.uint8)
        if isinstance(transparent, int):
            levels[band == transparent] = 255
        result.paste(pillow.fromarray(levels), (0, top))
    return result


def _value_scale(image: Image) -> tuple[float, float, float]:
    """Return the value that becomes 0, the value that becomes 255, and 255 divided by their difference."""
    # Pillow expands PGM files of more than 8 bits to 16, but gives them mode I.
    if image.mode in SIXTEEN_BIT_MODES or (image.mode == "I" and image.format == "PPM"):
        return 0, 65535, 1 / 257
    minimum, maximum = _value_range(image)
    if minimum >= 0:
        for limit in (255, 65535) if image.mode == "I" else (1, 255):
            if maximum <= limit:
                return 0, limit, 255 / limit
    return minimum, maximum, 255 / (maximum - minimum) if maximum > minimum else 0


def _value_range(image: Image) -> tuple[float, float]:
    """Return the minimum and maximum of the finite values, or (0, 0) if there are none."""
    import numpy as np

    minimum, maximum = np.inf, -np.inf
    for _, band in _bands(image):
        finite = band[np.isfinite(band)]
        if finite.size:
            minimum, maximum = min(minimum, float(finite.min())), max(maximum, float(finite.max()))
    return (minimum, maximum) if minimum <= maximum else (0.0, 0.0)


def _bands(image: Image) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield an image in bands of rows: the index of the first row, and the pixels as an array."""
    import numpy as np

    rows = max(1, BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))


def exif_orientation(image: Image) -> int:
    """Return the EXIF orientation of a loaded image, 1 to 8. It is 1 if the EXIF block is missing or damaged."""
    try:
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:
        return 1
    return int(orientation) if orientation in TRANSPOSE_METHODS else 1


def to_upright(decoded: DecodedImage, orientation: int) -> DecodedImage:
    """Undo an EXIF orientation. For orientation 1 the image is returned unchanged."""
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
    image = decoded.image.transpose(Transpose[TRANSPOSE_METHODS[orientation]])
    return DecodedImage(image, size, (left, top, right, bottom))
