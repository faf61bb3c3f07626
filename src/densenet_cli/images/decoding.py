"""Decoding: from a source to the pixels that the network sees, or to an ``ImageError``, whatever the bytes are.

Pillow and numpy are imported with the first image, so that this can happen while the network is being loaded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

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
    from PIL.Image import Image

    from densenet_cli._types import Box, Size, UInt8Array
    from densenet_cli.images.previews import Preview

__all__ = ["DecodeBudget", "Loaded", "decode", "guarded", "load", "load_bytes"]

T = TypeVar("T")


class Loaded(NamedTuple):
    """What is loaded of one image.

    Attributes:
        pixels: what the network sees, uint8 RGB of shape (crops, input_size, input_size, 3).
        preview: a copy to look at, None unless one was requested.
    """

    pixels: UInt8Array
    preview: Preview | None = None


def load(
    source: Source,
    preprocessing: Preprocessing,
    budget: DecodeBudget | None = None,
    preview: type[Preview] | None = None,
) -> Loaded:
    """Load the pixels of one image as the network sees them. Thread-safe.

    Args:
        source: the image.
        preprocessing: how to fit it to the network's input.
        budget: memory shared with the images of other threads; None for no limit.
        preview: the kind of preview to make, if any. It never changes the pixels.

    Returns:
        The pixels, which ``preprocessing.normalize`` turns into the network's input, and the preview.

    Raises:
        ImageError: one of its subclasses, and nothing else, whatever the image.
    """
    return Loaded(*guarded(lambda: _load(source, _request(preprocessing, apply, preview), budget)))


def load_bytes(
    source: Source,
    preprocessing: Preprocessing,
    budget: DecodeBudget | None = None,
    preview: type[Preview] | None = None,
) -> tuple[bytes, Preview | None]:
    """Like ``load``, with the pixels as bytes. Imports numpy only for images of more than 8 bits."""

    def use(decoded: DecodedImage, preprocessing: Preprocessing) -> bytes:
        return b"".join(square.tobytes() for square in squares(decoded, preprocessing))

    return guarded(lambda: _load(source, _request(preprocessing, use, preview), budget))


def decode(source: Source, min_side: int | None = None, budget: DecodeBudget | None = None) -> DecodedImage:
    """Decode one image to RGB, whole and upright. Thread-safe.

    Args:
        source: the image.
        min_side: decode a large JPEG at a reduced scale that keeps this many pixels of the shorter side. None for full
            scale.
        budget: memory shared with the images of other threads until the image is decoded.

    Raises:
        ImageError: one of its subclasses, and nothing else, whatever the image.
    """
    return guarded(lambda: _load(source, _DecodeRequest(lambda decoded: decoded, min_side), budget))[0]


@dataclass(frozen=True)
class _DecodeRequest(Generic[T]):
    """What to make of an image.

    Attributes:
        use: the function that makes it from the decoded image.
        min_side: pixels of the shorter side to keep when a JPEG is decoded at reduced scale; None for full scale.
        resized_side: shorter side that ``use`` resizes to; 0 if it does not resize.
        as_is: convert to RGB as Pillow does: no white background, no EXIF rotation.
        preview: the kind of preview to make as well.
    """

    use: Callable[[DecodedImage], T]
    min_side: int | None
    resized_side: int = 0
    as_is: bool = False
    preview: type[Preview] | None = None

    def fulfill(self, decoded: DecodedImage) -> tuple[T, Preview | None]:
        """Use the decoded image and make its preview."""
        preview = self.preview.make(decoded) if self.preview else None
        return self.use(decoded), preview

    def memory_needed(self, size: Size) -> int:
        """Estimate the bytes needed in addition to the decoded image of this size."""
        sides = (self.resized_side, self.preview.max_side if self.preview else 0)
        return max(memory.of_resizing(size, side) for side in sides)

    def for_preview_alone(self, image: Image) -> _DecodeRequest[None] | None:
        """Return a request for the preview alone if it needs a larger JPEG scale than ``use``, else None.

        Decoding twice keeps the network's input, and so the result, independent of whether a preview is made.
        """
        if self.preview is None or image.format != "JPEG" or self.min_side is None:
            return None
        min_side = self.preview.min_source_side
        if _scale(image.size, min_side or self.min_side) >= _scale(image.size, self.min_side):
            return None
        return _DecodeRequest(lambda decoded: None, min_side, as_is=self.as_is, preview=self.preview)


def _request(
    preprocessing: Preprocessing, use: Callable[[DecodedImage, Preprocessing], T], preview: type[Preview] | None
) -> _DecodeRequest[T]:
    """Return the request for the network's input."""
    return _DecodeRequest(
        lambda decoded: use(decoded, preprocessing),
        preprocessing.least_side,
        preprocessing.shorter_side,
        as_is=preprocessing.mode == "keras",
        preview=preview,
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


def _load(source: Source, request: _DecodeRequest[T], budget: DecodeBudget | None) -> tuple[T, Preview | None]:
    budget = budget or UNLIMITED
    quieten(budget)
    allocator.give_back()
    match source.kind:
        case "nothing":
            raise source.error or UnreadableImageError("There is no image.")
        case "image":
            return _from_image(source.origin, request, budget)
        case "array":
            return _from_array(source.origin, request, budget)
        case _:
            with opened(source) as encoded:
                return _from_file(encoded, request, budget)


def _from_file(encoded: Encoded, request: _DecodeRequest[T], budget: DecodeBudget) -> tuple[T, Preview | None]:
    """Header, memory, pixels."""
    format = identify(encoded.stream)
    held = encoded.size if encoded.in_memory else 0
    if format.size:
        size = format.size(encoded.stream)
        needed = memory.of_opened(format.name, size, encoded.size) + request.memory_needed(size)
        with budget.reserve(held + needed):
            return _see(format.open(encoded.stream), request)
    image = format.open(encoded.stream)
    if separate := request.for_preview_alone(image):
        _, preview = _decode(image, separate, held, encoded.size, budget)
        request = replace(request, preview=None)
        value, _ = _decode(format.open(encoded.stream), request, held, encoded.size, budget)
        return value, preview
    return _decode(image, request, held, encoded.size, budget)


def _decode(
    image: Image, request: _DecodeRequest[T], held: int, encoded: int, budget: DecodeBudget
) -> tuple[T, Preview | None]:
    """Pixels of an opened file of ``encoded`` bytes, of which ``held`` lie in memory."""
    size = image.size
    box = _reduce(image, request.min_side)
    needed = memory.of_image(image, size, encoded) + request.memory_needed(image.size)
    with budget.reserve(held + needed):
        return _see(image, request, (size, box) if box else None)


def _reduce(image: Image, min_side: int | None) -> Box | None:
    """Have a JPEG decoded at a half, a quarter or an eighth where that is still large enough.

    Returns:
        The part of the reduced image that the whole one takes; None where the scale stays.
    """
    if image.format != "JPEG" or min_side is None or _scale(image.size, min_side) == 1:
        return None
    drafted = image.draft(None, (min_side, min_side))
    return drafted[1] if drafted else None


def _scale(size: Size, min_side: int) -> int:
    """What a JPEG can be reduced by, so that its shorter side keeps so many pixels: Pillow's choice, 8, 4, 2 or 1."""
    return next((scale for scale in (8, 4, 2) if min(size) >= scale * min_side), 1)


def _see(image: Image, request: _DecodeRequest[T], reduced: tuple[Size, Box] | None = None) -> tuple[T, Preview | None]:
    """Decode an opened image and use it."""
    image.load()
    size, box = reduced or (image.size, (0, 0, *image.size))
    orientation = orientation_of(image)
    # One name for every stage of it, so that each is gone once the next is there.
    if request.as_is:
        image = image if image.mode == "RGB" else image.convert("RGB")
        return request.fulfill(DecodedImage(image, size, box, orientation))
    image = to_rgb(image)
    return request.fulfill(upright(DecodedImage(image, size, box), orientation))


_callers_image = threading.Lock()
"""Pillow decodes an image when it is first asked for pixels, and two threads may hold the same one of a caller's."""


def _from_image(image: Image, request: _DecodeRequest[T], budget: DecodeBudget) -> tuple[T, Preview | None]:
    """A caller's image. Nothing is changed in it, but that Pillow may decode it now."""
    with _callers_image:
        needed = memory.of_image(image, image.size) + request.memory_needed(image.size)
    with budget.reserve(needed):
        with _callers_image:
            image.load()
        return _see(image, request)


def _from_array(array: Any, request: _DecodeRequest[T], budget: DecodeBudget) -> tuple[T, Preview | None]:
    from PIL import Image

    size = array.shape[1], array.shape[0]
    with budget.reserve(4 * size[0] * size[1] + request.memory_needed(size)):
        return request.fulfill(DecodedImage.whole(Image.fromarray(array)))
