"""Pages: the images in a TIFF file, the frames of a GIF, PNG, WebP, or AVIF animation, and the images in an MPO file.

Pages are numbered from 0, and ``file.tif[2]`` names one. They are counted without decoding: by following offsets that
the file contains. This module is imported only for files that may have several pages.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain, islice, repeat
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeVar

from densenet_cli.errors import ImageError, SourceNotFoundError, UnreadableImageError, guard
from densenet_cli.images.formats import identify_format, read_webp_size
from densenet_cli.images.prefetching import prefetch
from densenet_cli.images.reading import Animation, EncodedImage, open_source, read_source
from densenet_cli.images.sources import Source
from densenet_cli.text import plural

if TYPE_CHECKING:
    from PIL.Image import Image

    from densenet_cli._types import Size

S = TypeVar("S", bound=Source)

MAX_PAGES = 100_000
"""Maximum number of pages of a file. The offsets in a small file can describe any number of them."""

MAX_DIRECTORIES = 64
"""TIFF directories to read after the first full image until it counts as the only one."""

MULTI_FRAME_TYPES = (0x020001, 0x020002, 0x020003)
"""Types of further images in an MPO file (panorama, stereo, several angles). Others are previews or gain maps."""

DAMAGE = (struct.error, OSError, ValueError, OverflowError, IndexError)
"""What reading offsets raises in a damaged file."""

ENCODED_KINDS = ("path", "url", "remote", "member", "stdin", "bytes", "file")

ANIMATION_FORMATS = ("GIF", "PNG", "WEBP", "AVIF")


class Part(NamedTuple):
    """The bytes of a file that are a JPEG image of their own."""

    offset: int
    size: int


def expand_pages(sources: Iterable[S], offline: bool = False) -> Iterator[S]:
    """Yield a source for each page of each source.

    Pages are named ``name[0]``, ``name[1]``, and so on; the only page of a file keeps the file's name. Sources that are
    pages already or are not files stay as they are. URLs, files in object storage, streams, and members of archives are
    read here, and held in memory until their pages are decoded.

    A damaged list of pages ends in a source with an error.

    Args:
        sources: The sources.
        offline: Whether to leave URLs alone. Loading them reports that the network is disabled.
    """
    for source in sources if offline else prefetch(sources):
        is_offline = offline and source.kind in ("url", "remote")
        if source.page is None and source.kind in ENCODED_KINDS and not is_offline:
            yield from _expand(source)
        else:
            yield source


def _expand(source: S) -> Iterator[S]:
    single_page = replace(source, page=0)
    with ExitStack() as files:
        try:
            if source.kind != "path":
                source = replace(source, kind="bytes", origin=guard(lambda: read_source(source)))
            encoded = guard(lambda: files.enter_context(open_source(source)))
        except ImageError as error:
            yield replace(source, origin=None, kind="nothing", error=error, page=0)
        else:
            is_repeatable = single_page.kind == "member" and single_page.origin.is_repeatable
            single_page = single_page if is_repeatable else replace(source, page=0)
            yield from _number_pages(source, single_page, _until_damaged(_locate_pages(encoded.stream)))


def _number_pages(source: S, single_page: S, locations: Iterator[Any]) -> Iterator[S]:
    first = list(islice(locations, 2))
    if len(first) < 2:
        yield single_page
        return
    for page, location in enumerate(chain(first, locations)):
        named = replace(source, name=f"{source.name}[{page}]", page=page)
        if isinstance(location, ImageError):
            yield replace(named, origin=None, kind="nothing", error=location)
        else:
            yield replace(named, location=location)


def _until_damaged(locations: Iterator[Any]) -> Iterator[Any]:
    """Yield up to ``MAX_PAGES`` locations, and an error if there are more or the others cannot be found."""
    try:
        yield from islice(locations, MAX_PAGES)
        if list(islice(locations, 1)):
            yield UnreadableImageError(f"The file has more than {MAX_PAGES:,} pages. The others were not read.")
    except ImageError as error:
        yield error.with_traceback(None)
    except DAMAGE:
        yield UnreadableImageError("The file is damaged: it has more pages, which cannot be found.")


def locate(source: S) -> S:
    """Return a source of a page after the first with the location of the page.

    Raises:
        SourceNotFoundError: The file has fewer pages.
        ImageError: The file cannot be read.
    """
    if source.location is not None:
        return source
    if source.kind != "path":
        source = replace(source, kind="bytes", origin=read_source(source))
    count = 0
    with open_source(source) as encoded:
        for location in islice(_locate_pages(encoded.stream), MAX_PAGES):
            if count == source.page:
                return replace(source, location=location)
            count += 1
    pages = "only one page, number 0" if count == 1 else f"{plural(count, 'page')}, numbered from 0 to {count - 1:,}"
    raise SourceNotFoundError(f"There is no page {source.page}: the file has {pages}.")


def has_more_pages(image: Image, stream: IO[bytes]) -> bool:
    """Return whether a file has pages after the first. ``image`` is the first, opened but not decoded."""
    if image.format not in (*ANIMATION_FORMATS, "TIFF", "JPEG"):
        return getattr(image, "n_frames", 1) > 1
    position = stream.tell()
    try:
        return len(list(islice(_locate_pages(stream, limit=2), 2))) > 1
    except DAMAGE:  # while looking for the second
        return True
    finally:
        stream.seek(position)


def extract(encoded: EncodedImage, part: Part) -> EncodedImage:
    """Return a part of a file as a file of its own, in memory."""
    encoded.stream.seek(part.offset)
    data = encoded.stream.read(part.size)
    return EncodedImage(io.BytesIO(data), len(data), encoded.bytes_in_memory + len(data))


def _locate_pages(stream: IO[bytes], limit: int = MAX_PAGES + 1) -> Iterator[int | Animation | Part | None]:
    """Yield what finds each page: the offset of its directory (TIFF), its part of the file (MPO), or its animation.

    Args:
        stream: The file.
        limit: Number of frames after which animations are not searched further.

    Raises:
        ImageError, or one of ``DAMAGE``: The next page cannot be found.
    """
    stream.seek(0)
    name = identify_format(stream).name
    if name == "TIFF":
        from densenet_cli.images.tiff import read_pages

        others = 0
        for offset, page in read_pages(stream):
            others = 0 if page.is_full else others + 1
            if page.is_full:
                yield offset
            elif others == MAX_DIRECTORIES:
                return
    elif name in ANIMATION_FORMATS:
        frames, size = FRAME_COUNTERS[name](stream, limit)
        animation = Animation(frames, size)
        yield from repeat(animation, max(frames, 1))
    else:
        yield None
        if name == "JPEG":
            yield from _find_mpo_images(stream)


def _count_gif_frames(stream: IO[bytes], limit: int) -> tuple[int, Size]:
    """Count the frames of a GIF. The canvas contains all of them."""
    stream.seek(6)
    width, height, flags = struct.unpack("<HHB2x", stream.read(7))
    stream.seek((3 << (flags & 7) + 1) * (flags >> 7), 1)
    frames = 0
    while frames < limit and (kind := stream.read(1)) not in (b"", b";"):
        if kind == b"!":
            stream.read(1)
        elif kind == b",":
            left, top, right, bottom, flags = struct.unpack("<HHHHB", stream.read(9))
            stream.seek((3 << (flags & 7) + 1) * (flags >> 7), 1)
            if not stream.read(1):
                break
            frames += 1
            width, height = max(width, left + right), max(height, top + bottom)
        else:
            continue
        while length := stream.read(1):
            if length == b"\0":
                break
            stream.seek(length[0], 1)
    return frames, (width, height)


def _count_png_frames(stream: IO[bytes], limit: int) -> tuple[int, Size]:
    """Count the frames of an animated PNG. A default image that is not part of the animation does not count."""
    stream.seek(16)
    width, height = struct.unpack(">II", stream.read(8))
    stream.seek(8)
    claimed = frames = 0
    while len(header := stream.read(8)) == 8 and frames < limit:
        length, kind = struct.unpack(">I4s", header)
        if kind == b"acTL":
            (claimed,) = struct.unpack(">I", stream.read(4))
            length -= 4
        elif kind == b"IEND" or (kind == b"IDAT" and not claimed):
            break
        frames += kind == b"fcTL"
        stream.seek(length + 4, 1)
    return min(claimed, frames), (width, height)


def _count_webp_frames(stream: IO[bytes], limit: int) -> tuple[int, Size]:
    size = read_webp_size(stream)
    stream.seek(12)
    frames = 0
    while len(header := stream.read(8)) == 8 and frames < limit:
        kind, length = struct.unpack("<4sI", header)
        frames += kind == b"ANMF"
        stream.seek(length + length % 2, 1)
    return frames, size


def _count_avif_frames(stream: IO[bytes], limit: int) -> tuple[int, None]:
    """Count the samples of the first video track. Each takes at least a byte of the file."""
    stream.seek(8)
    is_sequence = stream.read(4) == b"avis"
    file_size = stream.seek(0, io.SEEK_END)
    movie = next(_find_boxes(stream, 0, file_size, b"moov"), None) if is_sequence else None
    for track in _find_boxes(stream, *movie, b"trak") if movie else ():
        for media in _find_boxes(stream, *track, b"mdia"):
            for start, _ in _find_boxes(stream, *media, b"hdlr"):
                stream.seek(start + 8)
                if stream.read(4) != b"pict":
                    continue
                for info in _find_boxes(stream, *media, b"minf"):
                    for table in _find_boxes(stream, *info, b"stbl"):
                        for start, _ in _find_boxes(stream, *table, b"stsz"):
                            stream.seek(start + 8)
                            return min(int.from_bytes(stream.read(4)), file_size, limit), None
    return 1, None


def _find_boxes(stream: IO[bytes], start: int, end: int, wanted: bytes) -> Iterator[tuple[int, int]]:
    """Yield start and end of the contents of the boxes of a kind."""
    while start + 8 <= end:
        stream.seek(start)
        length, kind = struct.unpack(">I4s", stream.read(8))
        contents = start + 8
        if length == 1:
            (length,) = struct.unpack(">Q", stream.read(8))
            contents += 8
        length = length or end - start
        if length < contents - start:
            return
        if kind == wanted:
            yield contents, min(start + length, end)
        start += length


FRAME_COUNTERS: dict[str, Any] = {
    "GIF": _count_gif_frames,
    "PNG": _count_png_frames,
    "WEBP": _count_webp_frames,
    "AVIF": _count_avif_frames,
}
"""Format -> function that returns the number of frames, up to ``limit``, and the size of the canvas if known."""


def _find_mpo_images(stream: IO[bytes]) -> Iterator[Part]:
    """Yield the images after the first that the index of an MPO file lists (CIPA DC-007)."""
    stream.seek(2)
    while len(marker := stream.read(4)) == 4 and marker[0] == 0xFF and marker[1] not in (0xDA, 0xD9):
        length = int.from_bytes(marker[2:]) - 2
        if marker[1] != 0xE2 or length < 4 or stream.read(4) != b"MPF\0":
            stream.seek(length - (4 if marker[1] == 0xE2 and length >= 4 else 0), 1)
            continue
        base = stream.tell()
        index = stream.read(length - 4)
        order = "<>"[index[:1] == b"M"]
        (start,) = struct.unpack_from(f"{order}I", index, 4)
        (fields,) = struct.unpack_from(f"{order}H", index, start)
        for position in range(start + 2, start + 2 + 12 * fields, 12):
            tag, _, size, offset = struct.unpack_from(f"{order}HHII", index, position)
            if tag == 0xB002:
                for entry in range(offset + 16, offset + size // 16 * 16, 16):
                    kind, part_size, part_offset = struct.unpack_from(f"{order}III", index, entry)
                    if kind & 0xFFFFFF in MULTI_FRAME_TYPES:
                        yield Part(base + part_offset, part_size)
        return
