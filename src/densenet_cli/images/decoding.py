"""Decoding: a source in, the pixels that a network sees out, or a ``PictureError``, whatever the bytes.

Imports neither Pillow nor numpy before the first picture: that can run beside the loading of the network.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from densenet_cli.errors import PictureError, UnreadableImage
from densenet_cli.images import memory
from densenet_cli.images.budget import UNLIMITED, DecodeBudget
from densenet_cli.images.colour import to_rgb
from densenet_cli.images.encoded import Encoded, opened
from densenet_cli.images.formats import identify
from densenet_cli.images.orientation import orientation_of, upright
from densenet_cli.images.pillow import quieten
from densenet_cli.images.preprocessing import Picture, Preprocessing, apply
from densenet_cli.images.reasons import reason
from densenet_cli.images.sources import Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from densenet_cli.images.preprocessing import Box

__all__ = ["DecodeBudget", "decode", "load"]


class _Whole:
    """In the place of a ``Preprocessing``: the picture as it is, for somebody who prepares it in another way."""

    way = "whole"

    def __init__(self, least_side: int | None) -> None:
        self.least_side = least_side


def load(source: Source, preprocessing: Preprocessing, budget: DecodeBudget | None = None) -> NDArray[np.uint8]:
    """The pixels of one picture as a network sees them. Safe to call from several threads at once.

    Args:
        source: the picture.
        preprocessing: which part of it, at which size.
        budget: the memory that it shares with the pictures of other threads; None sets no limit.

    Returns:
        uint8 of (crops, input_size, input_size, 3), RGB; ``preprocessing.normalize`` makes the network's numbers of it.

    Raises:
        PictureError: one of its subclasses, and nothing else, whatever the picture.
    """
    pixels: NDArray[np.uint8] = _guarded(source, preprocessing, budget)
    return pixels


def decode(source: Source, least_side: int | None = None, budget: DecodeBudget | None = None) -> Picture:
    """The whole of one picture in RGB, upright: what ``load`` prepares. Safe to call from several threads at once.

    Args:
        source: the picture.
        least_side: pixels that its shorter side has to keep; a large JPEG is decoded at a reduced scale. None for
            full scale.
        budget: the memory that it shares with the pictures of other threads, until it is decoded.

    Raises:
        PictureError: one of its subclasses, and nothing else, whatever the picture.
    """
    picture: Picture = _guarded(source, _Whole(least_side), budget)
    return picture


def _guarded(source: Source, preprocessing: Preprocessing | _Whole, budget: DecodeBudget | None) -> Any:
    try:
        return _load(source, preprocessing, budget or UNLIMITED)
    except PictureError as error:
        failure = error
    except Exception as error:
        failure = UnreadableImage(reason(error))
    # Whoever keeps the error must not keep the picture, which the frames of a traceback hold on to.
    failure.__cause__ = failure.__context__ = None
    raise failure.with_traceback(None)


def _load(source: Source, preprocessing: Preprocessing | _Whole, budget: DecodeBudget) -> Any:
    quieten(budget)
    match source.kind:
        case "nothing":
            raise source.error or UnreadableImage("There is no picture.")
        case "image":
            return _from_image(source.origin, preprocessing, budget)
        case "array":
            return _from_array(source.origin, preprocessing, budget)
        case _:
            with opened(source) as encoded:
                return _decode(encoded, preprocessing, budget)


def _decode(encoded: Encoded, preprocessing: Preprocessing | _Whole, budget: DecodeBudget) -> Any:
    """Header, memory, pixels."""
    format = identify(encoded.stream)
    held = encoded.size * (encoded.in_memory + format.reads_whole)
    if format.header:
        with budget.reserve(held + memory.of_header(format.name, *format.header(encoded.stream))):
            return _see(format.open(encoded.stream), None, preprocessing)
    image = format.open(encoded.stream)
    size = image.size
    box = _reduce(image, preprocessing)
    with budget.reserve(held + memory.of_image(image, size)):
        return _see(image, (size, box) if box else None, preprocessing)


def _reduce(image: Image, preprocessing: Preprocessing | _Whole) -> Box | None:
    """Have a JPEG decoded at a half, a quarter or an eighth where that is still large enough.

    Returns:
        The part of the reduced picture that the whole one takes; None where the scale stays.
    """
    side = preprocessing.least_side
    if image.format != "JPEG" or side is None or min(image.size) < 2 * side:
        return None
    drafted = image.draft(None, (side, side))
    return drafted[1] if drafted else None


def _see(image: Image, reduced: tuple[tuple[int, int], Box] | None, preprocessing: Preprocessing | _Whole) -> Any:
    """The pixels that the network sees of an opened picture."""
    image.load()
    size, box = reduced or (image.size, (0, 0, *image.size))
    # One name for every stage of it, so that each is gone once the next is there.
    if preprocessing.way == "keras":
        image = image if image.mode == "RGB" else image.convert("RGB")
        return _prepared(Picture(image, size, box), preprocessing)
    orientation = orientation_of(image)
    image = to_rgb(image)
    return _prepared(upright(Picture(image, size, box), orientation), preprocessing)


def _prepared(picture: Picture, preprocessing: Preprocessing | _Whole) -> Any:
    return picture if isinstance(preprocessing, _Whole) else apply(picture, preprocessing)


_callers_image = threading.Lock()
"""Pillow decodes a picture when it is first asked for pixels, and two threads may hold the same one of a caller's."""


def _from_image(image: Image, preprocessing: Preprocessing | _Whole, budget: DecodeBudget) -> Any:
    """A caller's picture. Nothing is changed in it, but that Pillow may decode it now."""
    with budget.reserve(memory.of_image(image, image.size)):
        with _callers_image:
            image.load()
        return _see(image, None, preprocessing)


def _from_array(array: Any, preprocessing: Preprocessing | _Whole, budget: DecodeBudget) -> Any:
    from PIL import Image

    height, width, _ = array.shape
    with budget.reserve(4 * width * height):
        return _prepared(Picture.whole(Image.fromarray(array)), preprocessing)
