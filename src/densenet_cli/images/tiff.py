"""TIFF: check that Pillow reads what the file holds, correct it where possible, and refuse it otherwise.

Pillow derives a raw mode from a TIFF's tags and unpacks the samples accordingly. For some bit depths, byte orders, and
planes, it does not fit the data, and the result is noise without an error. So each page's tags are read here a second
time and compared with the raw mode. The module is imported with the first TIFF.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import IO, Any, NamedTuple

from PIL import ImagePalette, _imaging
from PIL.TiffImagePlugin import TiffImageFile

from densenet_cli.errors import UnreadableImageError
from densenet_cli.images.formats import unsupported

INVALID_HEADER = "The image is damaged: invalid TIFF header."
ONLY_A_PREVIEW = "Only a reduced preview of the image in the TIFF file could be read."

MAX_PAGES, MAX_SUB_PAGES, MAX_ENTRIES, MAX_VALUES = 64, 16, 512, 64
"""Limits of the search for the full image: pages, parts of a page, tags of a page, and values of a tag."""

INTEGER_TYPES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
TYPE_SIZES = {1: 1, 3: 2, 4: 4, 13: 4, 16: 8, 18: 8}

NEW_SUBFILE_TYPE, SUBFILE_TYPE = 254, 255
BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 258, 259, 262, 266
SAMPLES, PLANES, COLOR_MAP, SUB_PAGES, INK_SET = 277, 284, 320, 330, 332
EXTRA_SAMPLES, SAMPLE_FORMAT, SUBSAMPLING, DNG_VERSION = 338, 339, 530, 50706
TAGS = {NEW_SUBFILE_TYPE, SUBFILE_TYPE, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, SAMPLES, PLANES, SUB_PAGES, INK_SET}
TAGS |= {EXTRA_SAMPLES, SAMPLE_FORMAT, SUBSAMPLING, DNG_VERSION}

WHITE_IS_ZERO, GRAY, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
SENSOR_DATA = (32803, 34892)
"""Photometric interpretations of camera raw data: color filter array and linear."""

COLOR_SAMPLES = {WHITE_IS_ZERO: 1, GRAY: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3, LAB: 3}
COLOR_SPACES = {WHITE_IS_ZERO: "grayscale with 0 as white", GRAY: "grayscale", RGB: "RGB", PALETTE: "palette"}
COLOR_SPACES |= {4: "mask", CMYK: "CMYK", YCBCR: "YCbCr", LAB: "CIELAB", 9: "ICCLAB", 10: "ITULAB"}
COLOR_SPACES |= {32844: "LogL", 32845: "LogLuv"}

UNCOMPRESSED = (1, 32771)
COMMON_COMPRESSIONS = (*UNCOMPRESSED, 2, 3, 4, 5, 6, 7, 8, 32773, 32946)
OTHER_COMPRESSIONS = {33003: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000", 34887: "LERC", 34925: "LZMA"}
OTHER_COMPRESSIONS |= {34933: "PNG", 34934: "JPEG XR", 50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL"}

PLANAR_UNCOMPRESSED = {(RGB,), (RGB, 2), (CMYK,)}
PLANAR_COMPRESSED = {(RGB,), (RGB, 1), (RGB, 2), (CMYK,), (YCBCR,)}
"""Color space and extra samples (1 and 2: alpha) that Pillow reads from separate planes."""

SAMPLE_FORMATS = {1: "unsigned integer", 2: "signed integer", 3: "floating-point", 4: "undefined"}
SAMPLE_FORMATS |= dict.fromkeys((5, 6), "complex")

NATIVE_RAW_MODES = {"F;32BF": "F;32NF", "F;32F": "F;32NF", "I;16BS": "I;16NS", "I;16S": "I;16NS"}
NATIVE_RAW_MODES |= {"I;32BS": "I;32NS", "I;32S": "I;32NS"}
"""Raw mode -> the same one in the byte order of this machine, in which libtiff returns samples."""


class Page(NamedTuple):
    """One image of a TIFF file, described by its tags.

    Attributes:
        tags: Number of a tag -> its values, for tags that are integers.
        next: Offset of the next page, 0 if this is the last.
    """

    tags: dict[int, tuple[int, ...]]
    next: int = 0

    def first(self, tag: int, default: int) -> int:
        """Return the first value of a tag."""
        return (self.tags.get(tag) or (default,))[0]

    @property
    def compression(self) -> int:
        """Code of the compression."""
        return self.first(COMPRESSION, 1)

    @property
    def color_space(self) -> int:
        """Code of the photometric interpretation. Old JPEG compression implies YCbCr."""
        return YCBCR if self.compression == 6 else self.first(PHOTOMETRIC, 0)

    @property
    def samples(self) -> int:
        """Number of samples per pixel."""
        return self.first(SAMPLES, 3 if self.compression == 6 else 1)

    @property
    def bits(self) -> int:
        """Bits per sample, 0 if samples differ."""
        bits = self.tags.get(BITS) or (1,)
        return bits[0] if len(set(bits[: self.samples])) == 1 else 0

    @property
    def sample_format(self) -> int:
        """Code of the sample format, 0 if samples differ."""
        formats = self.tags.get(SAMPLE_FORMAT) or (1,)
        return formats[0] if len(set(formats)) == 1 else 0

    @property
    def has_planes(self) -> bool:
        """Whether each sample has a plane of its own."""
        return self.first(PLANES, 1) == 2 and self.samples > 1

    @property
    def is_full(self) -> bool:
        """Whether the page is neither a reduced version of another image nor a mask."""
        return not self.first(NEW_SUBFILE_TYPE, 0) & 0b101 and self.first(SUBFILE_TYPE, 1) != 2

    @property
    def is_plausible(self) -> bool:
        """Whether the tags could be those of an image. Otherwise the file is damaged."""
        bits = self.tags.get(BITS) or (1,)
        return (
            self.color_space in COLOR_SPACES
            and all(0 < depth <= 128 for depth in bits)
            and len(bits) in (1, min(self.samples, MAX_VALUES))
            and self.sample_format in (0, *SAMPLE_FORMATS)
            and self.first(PLANES, 1) in (1, 2)
        )

    def describe(self) -> str:
        """Describe the layout, as in "13 samples of 16 bits (floating-point, grayscale)"."""
        count = "1 sample" if self.samples == 1 else f"{self.samples} samples"
        bits = f"{self.bits} {'bit' if self.bits == 1 else 'bits'}" if self.bits else "different bit depths"
        sample_format = SAMPLE_FORMATS.get(self.sample_format, "different sample formats")
        details = [sample_format, COLOR_SPACES.get(self.color_space, "unknown color space")]
        if self.has_planes:
            details.append("separate planes")
        if self.compression not in COMMON_COMPRESSIONS:
            details.append(f"{OTHER_COMPRESSIONS.get(self.compression, self.compression)} compression")
        return f"{count} of {bits} ({', '.join(details)})"


def read_page(stream: IO[bytes], offset: int) -> Page:
    """Read the integer tags of the page whose directory is at ``offset``. Of duplicate tags, the first counts.

    Raises ``struct.error`` if the directory is damaged.
    """
    stream.seek(0)
    header = stream.read(4)
    order, is_big = "<>"[header[0] == ord("M")], 43 in header[2:4]
    count_format, entry_size, inline, pointer = ("Q", 20, 8, "Q") if is_big else ("H", 12, 4, "I")
    stream.seek(offset)
    (count,) = struct.unpack(order + count_format, stream.read(struct.calcsize(order + count_format)))
    directory = stream.read(entry_size * min(count, MAX_ENTRIES))
    following = stream.read(inline) if count <= MAX_ENTRIES else b""
    tags: dict[int, tuple[int, ...]] = {}
    for start in range(0, len(directory) // entry_size * entry_size, entry_size):
        tag, kind, length = struct.unpack_from(f"{order}HH{pointer}", directory, start)
        if tag not in TAGS or kind not in INTEGER_TYPES or not length:
            continue
        value = directory[start + entry_size - inline : start + entry_size]
        length_read = min(length, MAX_VALUES)
        if length * TYPE_SIZES[kind] > inline:
            stream.seek(struct.unpack(order + pointer, value)[0] & (1 << 63) - 1)
            value = stream.read(length_read * TYPE_SIZES[kind])
        with suppress(struct.error):  # too short
            tags.setdefault(tag, struct.unpack_from(f"{order}{length_read}{INTEGER_TYPES[kind]}", value))
    next_page = struct.unpack(order + pointer, following)[0] if len(following) == inline else 0
    return Page(tags, next_page)


def read_pages(stream: IO[bytes]) -> Iterator[tuple[int, Page]]:
    """Yield the offset and the tags of each page in the chain of pages, which ends where it begins to repeat itself.

    Raises ``struct.error`` if a directory is damaged.
    """
    stream.seek(0)
    header = stream.read(16)
    order = "<>"[header[0] == ord("M")]
    field = struct.Struct(f"{order}Q" if 43 in header[2:4] else f"{order}I")
    (offset,) = field.unpack_from(header, field.size)
    seen = {0}
    while offset not in seen:
        seen.add(offset)
        page = read_page(stream, offset)
        yield offset, page
        offset = page.next


def find_full_image(stream: IO[bytes], offset: int | None = None) -> tuple[int, int, Page]:
    """Return number, offset, and tags of the first page that is neither a reduced version of another nor a mask.

    If ``offset`` is given, it is the page there. Raises ``UnreadableImageError`` if there is none in the chain of
    pages, or if the file is a camera raw file.
    """
    pages = read_pages(stream) if offset is None else iter([(offset, read_page(stream, offset))])
    number = -1
    for number, (offset, page) in enumerate(islice(pages, MAX_PAGES)):
        if _has_sensor_data(page, stream):
            raise unsupported("Camera raw files")
        if page.is_full:
            return number, offset, page
    raise UnreadableImageError(INVALID_HEADER if number < 0 else ONLY_A_PREVIEW)


def _has_sensor_data(page: Page, stream: IO[bytes]) -> bool:
    """Return whether a page or one of its parts holds the data of a camera's sensor. Damaged parts do not count."""
    if DNG_VERSION in page.tags or page.color_space in SENSOR_DATA:
        return True
    for offset in page.tags.get(SUB_PAGES, ())[:MAX_SUB_PAGES]:
        with suppress(struct.error, OSError):
            if read_page(stream, offset).color_space in SENSOR_DATA:
                return True
    return False


class CheckedTiffImage(TiffImageFile):
    """The page of a TIFF file at ``offset``, or its first full image. What would not be read correctly is refused.

    Attributes:
        is_corrected: Whether Pillow alone would have read something else.
    """

    is_corrected = False

    def __init__(self, stream: IO[bytes], offset: int | None = None) -> None:
        self._offset = offset
        super().__init__(stream)

    def _open(self) -> None:
        stream: Any = self.fp
        try:
            number, self._offset, page = find_full_image(stream, self._offset)
        except struct.error:
            raise UnreadableImageError(INVALID_HEADER) from None
        _check_page(page)
        stream.seek(0)
        try:
            super()._open()
        except (SyntaxError, LookupError) as error:
            raise _unsupported(page) if _is_unknown_layout(error) else error from None
        self._match(page)
        self.is_corrected |= number > 0

    def _seek(self, frame: int) -> None:
        if not self._frame_pos:  # let Pillow begin at this page, whatever the others are
            vars(self)["_TiffImageFile__next"] = self._offset
        super()._seek(frame)

    def _match(self, page: Page) -> None:
        """Compare how the current page is going to be unpacked with its tags, and correct it."""
        tiles: Any = self.tile
        by_libtiff = tiles[0].codec_name == "libtiff"
        order = sys.byteorder if by_libtiff else "big" if self.tag_v2.prefix == b"MM" else "little"
        self.is_corrected = False
        if not by_libtiff or (page.color_space != YCBCR and not page.has_planes):  # which libtiff converts, or Pillow
            raw_modes = {tile.args[0]: _correct_raw_mode(tile.args[0], page, order) for tile in tiles}
            self.is_corrected = any(raw_mode != corrected for raw_mode, corrected in raw_modes.items())
            self.tile = [tile._replace(args=(raw_modes[tile.args[0]], *tile.args[1:])) for tile in tiles]
        self._note_meaning(page)

    def _note_meaning(self, page: Page) -> None:
        """Note for the conversion to 8 bits what the mode does not tell, and correct 8-bit color maps."""
        notes = {
            "white_is_zero": page.color_space == WHITE_IS_ZERO and self.mode in ("I;16", "I;16B", "I", "F"),
            "unsigned": self.mode == "I" and page.sample_format == 1,
        }
        for name, value in notes.items():
            self.info[name] = value
            self.is_corrected |= value
        self.info["bits"] = page.bits
        color_map = self.tag_v2.get(COLOR_MAP, ())
        if page.color_space == PALETTE and color_map and max(color_map) < 256:
            self.palette = ImagePalette.raw("RGB;L", bytes(color_map))
            self.is_corrected |= max(color_map) > 0


def _check_page(page: Page) -> None:
    """Refuse what Pillow or libtiff would decode to something else than the file holds."""
    extra = page.samples - COLOR_SAMPLES.get(page.color_space, 0)
    alpha = page.tags.get(EXTRA_SAMPLES, ())
    is_compressed = page.compression not in UNCOMPRESSED
    is_wrong = (
        page.color_space not in COLOR_SAMPLES
        or not page.bits
        or page.sample_format not in (1, 2, 3)
        or (page.sample_format == 2 and page.bits == 8)
        or (page.color_space in (WHITE_IS_ZERO, GRAY) and extra > 1)  # bands of a multispectral image
        or (page.color_space == YCBCR and extra > 0)
        or (page.color_space == CMYK and page.first(INK_SET, 1) != 1)
        or (page.bits > 8 and page.first(FILL_ORDER, 1) == 2)
        or (page.color_space == YCBCR and not is_compressed and page.tags.get(SUBSAMPLING, (2, 2)) != (1, 1))
        or not _is_codec_available(page.compression)
    )
    if page.has_planes:
        layouts = PLANAR_COMPRESSED if is_compressed else PLANAR_UNCOMPRESSED
        has_only_unspecified = page.color_space == RGB and is_compressed and not any(alpha)
        is_wrong |= len(alpha) != extra or not (has_only_unspecified or (page.color_space, *alpha) in layouts)
    if is_wrong:
        raise _unsupported(page)


def _unsupported(page: Page) -> UnreadableImageError:
    if not page.is_plausible:
        return UnreadableImageError(INVALID_HEADER)
    return UnreadableImageError(
        f"TIFF images with {page.describe()} are not supported. Convert the file to an 8-bit TIFF, PNG, or JPEG."
    )


def _is_unknown_layout(error: Exception) -> bool:
    """Return whether Pillow refused a page because of its layout and not because of damage."""
    messages = "unknown pixel mode", "unknown data organization", "Invalid value for samples per pixel"
    return isinstance(error, LookupError) or isinstance(error.__cause__, LookupError) or str(error) in messages


def _correct_raw_mode(raw_mode: str, page: Page, order: str) -> str:
    """Return the raw mode that unpacks a page's samples, which come in the byte order ``order``.

    Pillow's own is wrong for compressed samples in the other byte order, and for uncompressed planes of 16 bits.
    """
    samples, bits, sample_format, unpacked_order = _unpacked_as(raw_mode)
    expected = 1 if page.has_planes else page.samples, page.bits, page.sample_format
    if page.has_planes and page.bits == 16 and raw_mode in ("R", "G", "B", "A"):
        return f"{raw_mode};16{order[0].upper()}"
    if (samples, bits, sample_format) == expected:
        if bits not in (16, 32) or unpacked_order == order:
            return raw_mode
        if raw_mode in NATIVE_RAW_MODES:
            return NATIVE_RAW_MODES[raw_mode]
    raise _unsupported(page)


def _unpacked_as(raw_mode: str) -> tuple[int, int, int, str]:
    """Return samples, bits, sample format, and byte order that a raw mode of Pillow unpacks."""
    base, _, layout = raw_mode.partition(";")
    bits = "".join(character for character in layout if character.isdigit())
    sample_format = 3 if "F" in layout else 2 if "S" in layout else 1
    order = "big" if "B" in layout else sys.byteorder if "N" in layout else "little"
    return 3 if base == "YCbCr" else len(base), int(bits) if bits else 1 if base == "1" else 8, sample_format, order


def _is_codec_available(compression: int) -> bool:
    """Return whether libtiff was built with a compression. True if that cannot be found out."""
    if compression in OTHER_COMPRESSIONS:
        with suppress(OSError, AttributeError):
            return bool(ctypes.CDLL(_imaging.__file__).TIFFIsCODECConfigured(compression))
    return True
