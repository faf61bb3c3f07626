"""Decoding: a source in, the pixels that a network sees out, or a ``ImageError``, whatever the bytes.

Imports neither Pillow nor numpy before the first image: that can run beside the loading of the network.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from densenet_cli.errors import DensenetError, UnreadableImageError
from densenet_cli.images import allocator, memory
from densenet_cli.images.budget import UNLIMITED, DecodeBudget
from densenet_cli.images.color import to_rgb
from densenet_cli.images.formats import identify
from densenet_cli.images.orientation import orientation_of, upright
from densenet_cli.images.pillow_setup import quieten
from densenet_cli.images.preprocessing import DecodedImage, Preprocessing, apply, squares
from densenet_cli.images.reading import Encoded, opened
from densenet_cli.images.reasons import reason
from densenet_cli.images.sources import Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from densenet_cli.images.headers import Size
    from densenet_cli.images.preprocessing import Box
    from densenet_cli.images.previews import Preview

__all__ = ["DecodeBudget", "decode", "guarded", "load", "load_bytes"]

T = TypeVar("T")


def load(source: Source, preprocessing: Preprocessing, budget: DecodeBudget | None = None) -> NDArray[np.uint8]:
    """The pixels of one image as a network sees them. Safe to call from several threads at once.

    Args:
        source: the image. Its ``thumbnail`` is filled, if it has one.
        preprocessing: which part of it, at which size.
        budget: the memory that it shares with the images of other threads; None sets no limit.

    Returns:
        uint8 of (crops, input_size, input_size, 3), RGB; ``preprocessing.normalize`` makes the network's numbers of it.

    Raises:
        ImageError: one of its subclasses, and nothing else, whatever the image.
    """
    return guarded(lambda: _load(source, _seen(source, preprocessing, apply), budget))


def load_bytes(source: Source, preprocessing: Preprocessing, budget: DecodeBudget | None = None) -> bytes:
    """The same pixels as they lie in ``load``'s array, without numpy where the image has no more than 8 bits."""

    def use(decoded: DecodedImage, preprocessing: Preprocessing) -> bytes:
        return b"".join(square.tobytes() for square in squares(decoded, preprocessing))

    return guarded(lambda: _load(source, _seen(source, preprocessing, use), budget))


def decode(source: Source, least_side: int | None = None, budget: DecodeBudget | None = None) -> DecodedImage:
    """The whole of one image in RGB, upright: what ``load`` prepares. Safe to call from several threads at once.

    Args:
        source: the image.
        least_side: pixels that its shorter side has to keep; a large JPEG is decoded at a reduced scale. None for
            full scale.
        budget: the memory that it shares with the images of other threads, until it is decoded.

    Raises:
        ImageError: one of its subclasses, and nothing else, whatever the image.
    """
    return guarded(lambda: _load(source, _Aim(lambda decoded: decoded, least_side), budget))


@dataclass(frozen=True)
class _Aim(Generic[T]):
    """What an image is decoded for.

    Attributes:
        use: what is made of it.
        least_side: pixels that its shorter side has to keep; None for full scale.
        resized_side: what ``use`` resizes the shorter side to; 0 where it doesn't.
        as_is: in RGB as Pillow converts it, neither laid on white nor turned upright.
        thumbnail: filled before ``use``.
    """

    use: Callable[[DecodedImage], T]
    least_side: int | None
    resized_side: int = 0
    as_is: bool = False
    thumbnail: Preview | None = None

    def see(self, decoded: DecodedImage) -> T:
        """Fill the thumbnail and use the image."""
        if self.thumbnail:
            self.thumbnail.take(decoded)
        return self.use(decoded)

    def needed(self, size: Size) -> int:
        """Bytes that this takes beside an image of that size."""
        return max(
            memory.of_resizing(size, side) for side in (self.resized_side, self.thumbnail.side if self.thumbnail else 0)
        )

    def apart(self, image: Image) -> _Aim[None] | None:
        """To fill the thumbnail alone, where a JPEG is decoded for it at another scale than for ``use``.

        What the network sees, and so its answer, is the same with a thumbnail as without.
        """
        kept = self.thumbnail
        if kept is None or image.format != "JPEG" or self.least_side is None:
            return None
        if _scale(image.size, kept.least_side or self.least_side) >= _scale(image.size, self.least_side):
            return None
        return _Aim(lambda decoded: None, kept.least_side, as_is=self.as_is, thumbnail=kept)


def _seen(source: Source, preprocessing: Preprocessing, use: Callable[[DecodedImage, Preprocessing], T]) -> _Aim[T]:
    """To fill the source's thumbnail, and to make of the image what a network sees."""
    return _Aim(
        lambda decoded: use(decoded, preprocessing),
        preprocessing.least_side,
        preprocessing.shorter_side,
        as_is=preprocessing.mode == "keras",
        thumbnail=source.thumbnail,
    )


def guarded(task: Callable[[], T]) -> T:
    """What ``task`` gives. Whatever it raises becomes a ``ImageError``, other errors of ours aside."""
    try:
        return task()
    except DensenetError as error:
        failure = error
    except Exception as error:
        failure = UnreadableImageError(reason(error))
    # Whoever keeps the error must not keep the image, which the frames of a traceback hold on to.
    failure.__cause__ = failure.__context__ = None
    raise failure.with_traceback(None)


def _load(source: Source, aim: _Aim[T], budget: DecodeBudget | None) -> T:
    budget = budget or UNLIMITED
    quieten(budget)
    allocator.give_back()
    match source.kind:
        case "nothing":
            raise source.error or UnreadableImageError("There is no image.")
        case "image":
            return _from_image(source.origin, aim, budget)
        case "array":
            return _from_array(source.origin, aim, budget)
        case _:
            with opened(source) as encoded:
                return _from_file(encoded, aim, budget)


def _from_file(encoded: Encoded, aim: _Aim[T], budget: DecodeBudget) -> T:
    """Header, memory, pixels."""
    format = identify(encoded.stream)
    held = encoded.size if encoded.in_memory else 0
    if format.size:
        size = format.size(encoded.stream)
        needed = memory.of_opened(format.name, size, encoded.size) + aim.needed(size)
        with budget.reserve(held + needed):
            return _see(format.open(encoded.stream), aim)
    image = format.open(encoded.stream)
    if larger := aim.apart(image):
        _decode(image, larger, held, encoded.size, budget)
        aim = replace(aim, thumbnail=None)
        image = format.open(encoded.stream)
    return _decode(image, aim, held, encoded.size, budget)


def _decode(image: Image, aim: _Aim[T], held: int, encoded: int, budget: DecodeBudget) -> T:
    """Pixels of an opened file of ``encoded`` bytes, of which ``held`` lie in memory."""
    size = image.size
    box = _reduce(image, aim.least_side)
    needed = memory.of_image(image, size, encoded) + aim.needed(image.size)
    with budget.reserve(held + needed):
        return _see(image, aim, (size, box) if box else None)


def _reduce(image: Image, least_side: int | None) -> Box | None:
    """Have a JPEG decoded at a half, a quarter or an eighth where that is still large enough.

    Returns:
        The part of the reduced image that the whole one takes; None where the scale stays.
    """
    if image.format != "JPEG" or least_side is None or _scale(image.size, least_side) == 1:
        return None
    drafted = image.draft(None, (least_side, least_side))
    return drafted[1] if drafted else None


def _scale(size: Size, least_side: int) -> int:
    """What a JPEG can be reduced by, so that its shorter side keeps so many pixels: Pillow's choice, 8, 4, 2 or 1."""
    return next((scale for scale in (8, 4, 2) if min(size) >= scale * least_side), 1)


def _see(image: Image, aim: _Aim[T], reduced: tuple[Size, Box] | None = None) -> T:
    """Decode an opened image and use it."""
    image.load()
    size, box = reduced or (image.size, (0, 0, *image.size))
    orientation = orientation_of(image)
    # One name for every stage of it, so that each is gone once the next is there.
    if aim.as_is:
        image = image if image.mode == "RGB" else image.convert("RGB")
        return aim.see(DecodedImage(image, size, box, orientation))
    image = to_rgb(image)
    return aim.see(upright(DecodedImage(image, size, box), orientation))


_callers_image = threading.Lock()
"""Pillow decodes an image when it is first asked for pixels, and two threads may hold the same one of a caller's."""


def _from_image(image: Image, aim: _Aim[T], budget: DecodeBudget) -> T:
    """A caller's image. Nothing is changed in it, but that Pillow may decode it now."""
    with _callers_image:
        needed = memory.of_image(image, image.size) + aim.needed(image.size)
    with budget.reserve(needed):
        with _callers_image:
            image.load()
        return _see(image, aim)


def _from_array(array: Any, aim: _Aim[T], budget: DecodeBudget) -> T:
    from PIL import Image

    size = array.shape[1], array.shape[0]
    with budget.reserve(4 * size[0] * size[1] + aim.needed(size)):
        return aim.see(DecodedImage.whole(Image.fromarray(array)))
