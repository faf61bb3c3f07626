"""Decoding: from a source to the pixels that the network sees, or to an ``ImageError``.

Pillow and numpy are imported with the first image, so that this can happen while the network is being loaded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from densenet_cli.errors import UnreadableImageError, guard
from densenet_cli.images import conversion, memory
from densenet_cli.images.formats import identify_format
from densenet_cli.images.memory import UNLIMITED, DecodeBudget, configure_pillow
from densenet_cli.images.preprocessing import DecodedImage, Preprocessing, make_crops, preprocess
from densenet_cli.images.reading import (
    Animation,
    EncodedImage,
    jpeg_reduction,
    load_truncated,
    may_have_pages,
    open_source,
    reduce_jpeg,
    skip_hidden_image,
)
from densenet_cli.images.sources import Source

if TYPE_CHECKING:
    from PIL.Image import Image

    from densenet_cli._types import Box, Size, UInt8Array
    from densenet_cli.images.previews import Preview

T = TypeVar("T")

NOTES = ("truncated", "narrow_range", "more_pages")
"""What a result can say about its image, in the order of output:

- ``truncated``: the file ends early, and what is missing is gray or black.
- ``narrow_range``: the values take up less than a sixteenth of the range from black to white.
- ``more_pages``: the file has more pages, or frames, than the first, which was read.
"""

PIXELS_VERSION = 4
"""Part of the keys of caches of decoded images. Increment it when files decode to other pixels than before."""


class Loaded(NamedTuple):
    """What is loaded of one image.

    Attributes:
        pixels: What the network sees, uint8 of shape (crops, input_size, input_size, channels).
        preview: A copy to look at, None unless one was requested.
        notes: Those of ``NOTES`` that apply to the image.
    """

    pixels: UInt8Array
    preview: Preview | None = None
    notes: tuple[str, ...] = ()


def load(
    source: Source,
    preprocessing: Preprocessing,
    budget: DecodeBudget | None = None,
    preview: type[Preview] | None = None,
) -> Loaded:
    """Load the pixels of one image as the network sees them. Thread-safe.

    Args:
        source: The image.
        preprocessing: How to fit it to the network's input.
        budget: Memory shared with the images of other threads; None for no limit.
        preview: The kind of preview to make, if any. It never changes the pixels.

    Returns:
        The pixels, which ``normalization.normalize`` turns into the network's input, the preview, and notes.

    Raises:
        ImageError: One of its subclasses, and nothing else, whatever the image.
    """
    request = _request(preprocessing, preprocess, preview)
    pixels, made = guard(lambda: _load(source, request, budget))
    return Loaded(pixels, made, request.sorted_notes())


def load_bytes(
    source: Source,
    preprocessing: Preprocessing,
    budget: DecodeBudget | None = None,
    preview: type[Preview] | None = None,
) -> tuple[bytes, Preview | None, tuple[str, ...]]:
    """Like ``load``, with the pixels as bytes. Imports numpy only for images of more than 8 bits."""

    def use(decoded: DecodedImage, preprocessing: Preprocessing) -> bytes:
        return b"".join(crop.tobytes() for crop in make_crops(decoded, preprocessing))

    request = _request(preprocessing, use, preview)
    pixels, made = guard(lambda: _load(source, request, budget))
    return pixels, made, request.sorted_notes()


def decode(
    source: Source,
    min_side: int | None = None,
    notes: set[str] | None = None,
    as_is: bool = False,
) -> DecodedImage:
    """Decode one image to RGB, whole and upright. Thread-safe.

    Args:
        source: The image.
        min_side: Decode a large JPEG at a reduced scale that keeps this many pixels of the shorter side. None for full
            scale.
        notes: A set to which those of ``NOTES`` that apply are added.
        as_is: Decode as ``keras`` mode does: no EXIF rotation, no white background.

    Raises:
        ImageError: One of its subclasses, and nothing else, whatever the image.
    """
    request = _DecodeRequest(lambda image: image, min_side, as_is=as_is, notes=set() if notes is None else notes)
    return guard(lambda: _load(source, request, None))[0]


@dataclass(frozen=True)
class _DecodeRequest(Generic[T]):
    """What to make of an image.

    Attributes:
        use: The function that makes it from the decoded image.
        min_side: Pixels of the shorter side to keep when a JPEG is decoded at reduced scale; None for full scale.
        resized_side: Shorter side that ``use`` resizes to; 0 if it does not resize.
        as_is: Convert to RGB as Pillow does: no white background, no EXIF rotation.
        is_gray: Whether ``use`` makes a grayscale copy of the decoded image.
        preview: The kind of preview to make as well.
        bit_depth: See ``Preprocessing``.
        accept_truncated: Whether to use what there is of an image whose file ends early.
        notes: Those of ``NOTES`` that apply. Decoding adds them.
    """

    use: Callable[[DecodedImage], T]
    min_side: int | None
    resized_side: int = 0
    as_is: bool = False
    is_gray: bool = False
    preview: type[Preview] | None = None
    bit_depth: str = "auto"
    accept_truncated: bool = False
    notes: set[str] = field(default_factory=set)

    def sorted_notes(self) -> tuple[str, ...]:
        """Return the notes in the order of output."""
        return tuple(note for note in NOTES if note in self.notes)

    def fulfill(self, decoded: DecodedImage) -> tuple[T, Preview | None]:
        """Use the decoded image and make its preview."""
        preview = self.preview.make(decoded) if self.preview else None
        return self.use(decoded), preview

    def memory_needed(self, size: Size) -> int:
        """Estimate the bytes needed in addition to the decoded image of this size."""
        sides = (self.resized_side, self.preview.max_side if self.preview else 0)
        return size[0] * size[1] * self.is_gray + max(memory.estimate_resize(size, side) for side in sides)

    def for_preview_alone(self, image: Image) -> _DecodeRequest[None] | None:
        """Return a request for the preview alone if it needs a larger JPEG scale than ``use``, else None.

        Decoding twice keeps the network's input, and so the result, independent of whether a preview is made.
        """
        if self.preview is None or image.format != "JPEG" or self.min_side is None:
            return None
        min_side = self.preview.min_decoded_side
        if jpeg_reduction(image.size, min_side or self.min_side) >= jpeg_reduction(image.size, self.min_side):
            return None
        request: _DecodeRequest[Any] = self
        return replace(request, use=lambda decoded: None, min_side=min_side, resized_side=0, is_gray=False)


def _request(
    preprocessing: Preprocessing, use: Callable[[DecodedImage, Preprocessing], T], preview: type[Preview] | None
) -> _DecodeRequest[T]:
    """Return the request for the network's input."""
    return _DecodeRequest(
        lambda decoded: use(decoded, preprocessing),
        preprocessing.min_decoded_side,
        preprocessing.resize_side,
        as_is=preprocessing.mode == "keras",
        is_gray=preprocessing.channels == 1,
        preview=preview,
        bit_depth=preprocessing.bit_depth,
        accept_truncated=preprocessing.truncated == "accept",
    )


def _load(source: Source, request: _DecodeRequest[T], budget: DecodeBudget | None) -> tuple[T, Preview | None]:
    budget = budget or UNLIMITED
    configure_pillow(budget)
    memory.return_freed_memory()
    match source.kind:
        case "nothing":
            raise source.error or UnreadableImageError("The source contains no image.")
        case "image":
            return _load_pil_image(source.origin, request, budget)
        case "array":
            return _load_array(source.origin, request, budget)
        case _ if source.page:
            return _load_page(source, request, budget)
        case _:
            with open_source(source) as encoded:
                return _load_file(encoded, request, budget, note_pages=source.page is None)


def _load_page(source: Source, request: _DecodeRequest[T], budget: DecodeBudget) -> tuple[T, Preview | None]:
    """Decode a page after the first."""
    from densenet_cli.images.pages import Part, extract, locate

    source = locate(source)
    animation = source.location
    if isinstance(animation, Animation):
        with ExitStack() as reservation:
            with animation.turn(source.page or 0):
                size, encoded = animation.open(source)
                needed = memory.estimate_frame(size, encoded.size) + request.memory_needed(size)
                reservation.enter_context(budget.reserve(encoded.bytes_in_memory + needed))
                image, is_truncated = animation.decode(source.page or 0, request.accept_truncated)
            request.notes.update(("truncated",) if is_truncated else ())
            return _decode(image, request)
    with open_source(source) as encoded:
        if isinstance(source.location, Part):
            return _load_file(extract(encoded, source.location), request, budget)
        return _load_file(encoded, request, budget, source.location)


def _load_file(
    encoded: EncodedImage, request: _DecodeRequest[T], budget: DecodeBudget, *offset: int, note_pages: bool = False
) -> tuple[T, Preview | None]:
    """Read the header, reserve memory, and decode. ``offset`` is where the page of a TIFF file is, if not the first."""
    image_format = identify_format(encoded.stream)

    def open_image() -> Image:
        image = image_format.open(encoded.stream, *offset)
        if note_pages and may_have_pages(image):
            from densenet_cli.images.pages import has_more_pages

            request.notes.update(("more_pages",) if has_more_pages(image, encoded.stream) else ())
        return image

    if image_format.read_size:
        size = image_format.read_size(encoded.stream)
        needed = memory.estimate_eager_decode(image_format.name, size, encoded.size) + request.memory_needed(size)
        with budget.reserve(encoded.bytes_in_memory + needed):
            return _decode(open_image(), request)
    image = open_image()
    if preview_request := request.for_preview_alone(image):
        _, preview = _load_opened(image, open_image, preview_request, encoded, budget)
        request = replace(request, preview=None)
        value, _ = _load_opened(open_image(), open_image, request, encoded, budget)
        return value, preview
    return _load_opened(image, open_image, request, encoded, budget)


def _load_opened(
    image: Image,
    open_image: Callable[[], Image],
    request: _DecodeRequest[T],
    encoded: EncodedImage,
    budget: DecodeBudget,
) -> tuple[T, Preview | None]:
    """Reserve memory for an opened file and decode it."""

    def reopen() -> Image:
        again = open_image()
        reduce_jpeg(again, request.min_side)
        return again

    def read_low_bytes() -> Image:
        again = conversion.select_low_bytes(reopen())
        again.load()
        return again

    scale_colors = conversion.has_16_bit_colors(image) and not request.as_is
    size = image.size
    box = reduce_jpeg(image, request.min_side)
    needed = memory.estimate_decode(image, size, encoded.size) + request.memory_needed(image.size)
    if request.as_is and getattr(image, "is_corrected", False):
        raise UnreadableImageError("Keras's load_img misreads this TIFF image. Use another preprocessing mode.")
    with budget.reserve(encoded.bytes_in_memory + needed):
        if not request.as_is:
            skip_hidden_image(image)
        try:
            image.load()
            if scale_colors:
                conversion.scale_16_bit_colors(image, read_low_bytes, request.bit_depth, request.notes)
        except OSError as error:
            image, is_incomplete = load_truncated(image, error, reopen)
            if is_incomplete:
                if not request.accept_truncated:
                    raise
                request.notes.add("truncated")
        return _decode(image, request, (size, box) if box else None)


def _decode(
    image: Image, request: _DecodeRequest[T], reduced: tuple[Size, Box] | None = None
) -> tuple[T, Preview | None]:
    """Decode an opened image and fulfill the request.

    Args:
        image: The opened image.
        request: What to make of it.
        reduced: The full-scale size and the box to use, for a JPEG at reduced scale.
    """
    image.load()
    size, box = reduced or (image.size, (0, 0, *image.size))
    orientation = conversion.exif_orientation(image)
    # ``image`` is reassigned, so that each stage is freed when the next exists.
    if request.as_is:
        if request.is_gray and image.mode.startswith("I"):
            raise UnreadableImageError(
                "Keras's load_img keeps more than 8 bits per pixel. Use another preprocessing mode."
            )
        image = image if image.mode == "RGB" else image.convert("RGB")
        return request.fulfill(DecodedImage(image, size, box, orientation))
    image = conversion.to_rgb(image, request.bit_depth, request.notes)
    return request.fulfill(conversion.to_upright(DecodedImage(image, size, box), orientation))


_pil_image_lock = threading.Lock()
"""Pillow decodes an image on first access to its pixels, and several threads may hold the same image of a caller."""


def _load_pil_image(image: Image, request: _DecodeRequest[T], budget: DecodeBudget) -> tuple[T, Preview | None]:
    """Use a caller's image. It is not changed, except that Pillow may decode it now."""
    with _pil_image_lock:
        needed = memory.estimate_decode(image, image.size) + request.memory_needed(image.size)
    with budget.reserve(needed):
        with _pil_image_lock:
            image.load()
        return _decode(image, request)


def _load_array(array: Any, request: _DecodeRequest[T], budget: DecodeBudget) -> tuple[T, Preview | None]:
    from PIL import Image

    size = array.shape[1], array.shape[0]
    with budget.reserve(4 * size[0] * size[1] + request.memory_needed(size)):
        return request.fulfill(DecodedImage.at_full_scale(Image.fromarray(array)))
