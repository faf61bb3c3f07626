"""Pixel conversions: 16 and 32 bits to 8, any Pillow mode to sRGB on a white background, and EXIF orientation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from densenet_cli.images import color
from densenet_cli.images.preprocessing import DecodedImage, parse_bit_depth

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    Band = tuple[int, NDArray[Any]]
    """The index of the first of some rows of an image, and their pixels."""

WHITE = (255, 255, 255)

ALPHA_MODES = frozenset(("RGBA", "LA", "PA", "RGBa", "La"))
SIXTEEN_BIT_MODES = frozenset(("I;16", "I;16L", "I;16B", "I;16N"))
DEEP_MODES = SIXTEEN_BIT_MODES | {"I", "F"}

BAND_SAMPLES = 1 << 16
"""Samples to convert to 8 bits at a time. The intermediate arrays take several times the memory of the samples."""

AUTOMATIC_LIMITS = (1, *(2**bits - 1 for bits in (8, 10, 12, 14, 16)))
"""The maximum values of common ranges: 1 for binary images and floats, and the bit depths of screens and cameras."""

EXPANSION_FACTORS = (257, 256)
"""If all values are multiples of one of these, 8 bits were expanded to 16, so an image with a low maximum is dark."""

MIN_RANGE_DIVISOR = 16
"""An image whose values span less than 1/16 of its range looks nearly uniform, usually black."""

OTHER_BYTE_ORDERS = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}

GDAL_NO_DATA_TAG = 42113
USUAL_NO_DATA = (-9999.0, -32768.0, -3.4028234663852886e38)
"""If the minimum of an image is one of these, pixels with this value have no data."""

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


def to_rgb(image: Image, bit_depth: str = "auto", notes: set[str] | None = None) -> Image:
    """Convert an image to RGB, with transparency on white, and colors to sRGB if it has another profile.

    An opaque sRGB image is returned unchanged. ``bit_depth`` and ``notes`` are those of ``to_8_bit``.
    """
    image.load()
    profile = color.find_converter(image)
    if image.mode in DEEP_MODES:
        image = to_8_bit(image, bit_depth, notes)
    if _has_unused_alpha(image):
        image = image.convert("RGB")
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


def _has_unused_alpha(image: Image) -> bool:
    """Return whether alpha is 0 everywhere in a format in which this usually means that alpha is unused."""
    if image.format not in ("BMP", "TGA") or image.mode != "RGBA":
        return False
    extrema: Any = image.getextrema()
    return bool(extrema[3] == (0, 0))


def _on_white(image: Image, profile: color.ProfileConverter | None) -> Image:
    from PIL import Image as pillow

    layer = image if image.mode in ("RGBA", "LA") else image.convert("LA" if image.mode == "La" else "RGBA")
    if profile:
        layer = profile.to_srgb(layer)
    canvas = pillow.new("RGB", image.size, WHITE)
    canvas.paste(layer, (0, 0), layer)
    return canvas


def to_8_bit(image: Image, bit_depth: str = "auto", notes: set[str] | None = None) -> Image:
    """Convert an image of mode I;16, I, or F to mode L. The same numbers give the same levels in every mode.

    Values beyond the range that ``bit_depth`` selects become the nearest end. NaN and no-data values become 0. A
    transparent color (PNG) becomes white.

    Args:
        image: The image.
        bit_depth: See ``Preprocessing``.
        notes: ``narrow_range`` is added if the values span less than a sixteenth of the range.
    """
    from PIL import Image as pillow

    transparent = image.info.get("transparency")
    no_data, minimum, maximum = _measure_values(image)
    low, high = _select_range(image, bit_depth, minimum, maximum, _bands(image))
    _check_range(minimum, maximum, low, high, notes)
    result = pillow.new("L", image.size)
    for top, band in _bands(image):
        levels = _to_levels(band, low, high)
        if image.info.get("white_is_zero"):  # see tiff.py
            levels = 255 - levels
        levels[_equal_any(band, no_data)] = 0
        if isinstance(transparent, int):
            levels[band == transparent] = 255
        result.paste(pillow.fromarray(levels), (0, top))
    return result


def has_16_bit_colors(image: Image) -> bool:
    """Return whether an opened image has 16-bit color samples, of which Pillow decodes only the high bytes."""
    # All tiles have the same number of bits, and a TIFF file can have thousands.
    first_tile = getattr(image, "tile", [])[:1]
    return image.mode in ("RGB", "RGBA") and first_tile != [_swap_bytes(tile) for tile in first_tile]


def select_low_bytes(image: Image) -> Image:
    """Make an opened image with 16-bit color samples decode their low bytes, by swapping the byte order."""
    opened: Any = image
    opened.tile = [_swap_bytes(tile) for tile in opened.tile]
    return image


def _swap_bytes(tile: Any) -> Any:
    """Return a tile of Pillow with the other byte order if it holds 16-bit color samples, else the tile."""
    raw_mode, *others = tile.args if isinstance(tile.args, tuple) else (tile.args,)
    samples, _, layout = str(raw_mode).partition(";")
    if layout not in OTHER_BYTE_ORDERS or samples not in ("RGB", "RGBA", "R", "G", "B", "A"):
        return tile
    raw_mode = f"{samples};{OTHER_BYTE_ORDERS[layout]}"
    return tile._replace(args=(raw_mode, *others) if isinstance(tile.args, tuple) else raw_mode)


def scale_16_bit_colors(
    image: Image, read_low_bytes: Callable[[], Image], bit_depth: str = "auto", notes: set[str] | None = None
) -> None:
    """Replace the colors of an image, the high bytes of 16-bit samples, by levels from black to white.

    The same numbers give the same levels as in a gray image. With the full range, the high bytes are the levels, as
    in other libraries.

    Args:
        image: An image of mode RGB or RGBA. Its alpha channel is kept.
        read_low_bytes: Returns the low bytes as an image of the same mode. Called only if they are needed.
        bit_depth: See ``Preprocessing``.
        notes: As for ``to_8_bit``.
    """
    import numpy as np
    from PIL import Image as pillow

    extrema: Any = image.getextrema()
    darkest, brightest = min(low for low, _ in extrema[:3]), max(high for _, high in extrema[:3])
    if bit_depth == "full" or (bit_depth == "auto" and brightest << 8 > AUTOMATIC_LIMITS[-2]):
        _check_range(darkest, brightest, 0, 255, notes)
        return
    low_bytes = read_low_bytes()
    minimum, maximum = _value_range(_color_bands(image, low_bytes), [])
    low, high = _select_range(image, bit_depth, minimum, maximum, _color_bands(image, low_bytes))
    _check_range(minimum, maximum, low, high, notes)
    if (low, high) == (0, 65535):
        return
    for top, band in _color_bands(image, low_bytes):
        levels = _to_levels(band, low, high)
        if image.mode == "RGBA":
            alpha = np.asarray(image.crop((0, top, image.width, top + len(band))).getchannel("A"))
            levels = np.dstack((levels, alpha))
        image.paste(pillow.fromarray(levels), (0, top))


def _to_levels(band: NDArray[Any], low: float, high: float) -> NDArray[Any]:
    """Return the levels, 0 to 255, of values in the range from ``low`` to ``high``."""
    import numpy as np

    # Division by 257 and multiplication by 255 / 65535 round differently.
    factor = 1 / 257 if high - low == 65535 else 255 / (high - low) if high > low else 0
    with np.errstate(invalid="ignore"):  # signaling NaN
        values = band.astype(np.float64)
    np.nan_to_num(values, copy=False, nan=low, posinf=high, neginf=low)
    return np.rint((values.clip(low, high) - low) * factor).astype(np.uint8)


def _check_range(minimum: float, maximum: float, low: float, high: float, notes: set[str] | None) -> None:
    """Add the note ``narrow_range`` if the values span too little of the range."""
    if notes is not None and min(maximum, high) - max(minimum, low) < (high - low) / MIN_RANGE_DIVISOR:
        notes.add("narrow_range")


def _select_range(
    image: Image, bit_depth: str, minimum: float, maximum: float, bands: Iterator[Band]
) -> tuple[float, float]:
    """Return the values that become 0 and 255.

    ``auto`` is the smallest of ``AUTOMATIC_LIMITS`` that no value exceeds, or from the minimum to the maximum if there
    is none, or if some values are negative.
    """
    if image.mode == "I" and image.format == "PPM":  # Pillow has scaled the maximum that the file states to 65535
        return 0, 65535
    if image.info.get("bits") == 12 and bit_depth in ("auto", "full"):  # see tiff.py
        return 0, 4095
    if bit_depth == "full":
        int_max = 2**32 - 1 if image.info.get("unsigned") else 2**31 - 1
        return 0, {"I": int_max, "F": 1}.get(image.mode, 65535)
    if bit_depth != "auto":
        return parse_bit_depth(bit_depth)
    if minimum < 0 or maximum > AUTOMATIC_LIMITS[-1]:
        return minimum, maximum
    limit = next(limit for limit in AUTOMATIC_LIMITS if maximum <= limit)
    return 0, AUTOMATIC_LIMITS[-1] if limit > 255 and _is_expanded(bands) else limit


def _is_expanded(bands: Iterator[Band]) -> bool:
    """Return whether all values are multiples of one of ``EXPANSION_FACTORS``."""
    factors = set(EXPANSION_FACTORS)
    for _, band in bands:
        factors = {factor for factor in factors if not (band % factor).any()}
        if not factors:
            return False
    return True


def _measure_values(image: Image) -> tuple[list[float], float, float]:
    """Return the no-data values of an image, and the minimum and maximum of its other finite values, or 0 and 0."""
    transparent = image.info.get("transparency")
    no_data = _tagged_no_data(image)
    excluded = [*no_data, *([transparent] if isinstance(transparent, int) else [])]
    minimum, maximum = _value_range(_bands(image), excluded)
    if image.mode in ("I", "F") and minimum in USUAL_NO_DATA:
        others = _value_range(_bands(image), [*no_data, minimum])
        if others[0] <= others[1]:
            return [*no_data, minimum], *others
    return no_data, *((minimum, maximum) if minimum <= maximum else (0.0, 0.0))


def _tagged_no_data(image: Image) -> list[float]:
    """Return the no-data value that GDAL stores in a TIFF file, if there is one."""
    tags: Any = getattr(image, "tag_v2", {})
    with suppress(ValueError):
        return [float(str(tags.get(GDAL_NO_DATA_TAG, "")).strip("\0 "))]
    return []


def _value_range(bands: Iterator[Band], excluded: list[float]) -> tuple[float, float]:
    """Return the minimum and maximum of the finite values other than ``excluded``, or infinity and -infinity."""
    import numpy as np

    minimum, maximum = np.inf, -np.inf
    for _, band in bands:
        values = band[np.isfinite(band) & ~_equal_any(band, excluded)]
        if values.size:
            minimum, maximum = min(minimum, float(values.min())), max(maximum, float(values.max()))
    return minimum, maximum


def _equal_any(band: NDArray[Any], values: list[float]) -> NDArray[Any]:
    """Return a mask of the pixels that equal one of the values, which are rounded to the band's precision."""
    import numpy as np

    equal = np.zeros(band.shape, bool)
    for value in values:
        with np.errstate(over="ignore"):
            equal |= band == (np.float32(value) if band.dtype.kind == "f" else value)
    return equal


def _bands(image: Image) -> Iterator[Band]:
    """Yield an image in bands of rows."""
    import numpy as np

    rows = max(1, BAND_SAMPLES // (image.width * len(image.getbands())))
    for top in range(0, image.height, rows):
        band = np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))
        yield top, band.view(np.uint32) if image.info.get("unsigned") else band


def _color_bands(high: Image, low: Image) -> Iterator[Band]:
    """Yield a 16-bit color image, given by its high and low bytes, in bands of rows without alpha."""
    import numpy as np

    for (top, high_band), (_, low_band) in zip(_bands(high), _bands(low), strict=True):
        yield top, high_band[..., :3].astype(np.uint16) << 8 | low_band[..., :3]


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
