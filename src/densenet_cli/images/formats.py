"""Supported image formats: detection from the first bytes, Pillow plugins, and header parsing.

``Image.open`` tries all of Pillow's fifty plugins. Some start another program (EPS), some do not hold pixels, and most
are rare and little tested. Only the formats in ``IMAGE_FORMATS`` are accepted. Only the plugin that an image needs is
imported, which takes a third of the time of importing the usual five.

The header parsers at the end read what Pillow's plugins do not tell before decoding. They serve to estimate the
memory that decoding needs.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from importlib import import_module
from typing import IO, TYPE_CHECKING, NamedTuple

from densenet_cli.errors import UnreadableImageError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

    from densenet_cli._types import Size

SIGNATURE_BYTES = 512

AVIF = b"avif", b"avis"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
CAMERA_RAW_MARKS = (b"CR\2\0", b"IIII", b"MMMM")
"""Bytes 8 to 11 of camera raw files that otherwise begin like a TIFF (Canon, Phase One)."""


class ImageFormat(NamedTuple):
    """A supported format.

    Attributes:
        name: Pillow's name for it.
        plugin: Module and class of the Pillow plugin.
        matches: Whether a file's first ``SIGNATURE_BYTES`` bytes belong to this format.
        read_size: Reads width and height from the header. Given only if the plugin decodes the image, or allocates
            its pixels, when it opens the file.
    """

    name: str
    plugin: tuple[str, str]
    matches: Callable[[bytes], bool]
    read_size: Callable[[IO[bytes]], Size] | None = None

    def open(self, stream: IO[bytes], *offset: int) -> ImageFile:
        """Read the header, for TIFF that of the page at ``offset``.

        Unlike ``Image.open``, do not limit the number of pixels: the decode budget does that.
        """
        stream.seek(0)
        try:
            module = import_module(self.plugin[0])
        except ImportError:
            if self.name != "HEIF":
                raise
            raise UnreadableImageError(
                "HEIC images require the pillow-heif package (pip install pillow-heif)."
            ) from None
        if self.name == "JPEG2000":
            _check_jpeg2000(stream)
        image: ImageFile = getattr(module, self.plugin[1])(stream, *offset)
        _scale_transparent_color(image)
        return image


def identify_format(stream: IO[bytes]) -> ImageFormat:
    """Return the format of a file opened at its beginning.

    Raises:
        UnreadableImageError: The format is not supported.
    """
    start = stream.read(SIGNATURE_BYTES)
    if not start:
        raise UnreadableImageError("The file is empty.")
    for image_format in IMAGE_FORMATS:
        if image_format.matches(start):
            return image_format
    for kind, offset, *signatures in UNSUPPORTED:
        if start.startswith(tuple(signatures), offset):
            raise unsupported(kind)
    if text_kind := _identify_text(start):
        raise unsupported(text_kind)
    raise UnreadableImageError(
        f"The file is not an image in a supported format ({', '.join(known.name for known in IMAGE_FORMATS)})."
    )


def unsupported(kind: str) -> UnreadableImageError:
    """Return the error for a kind of file that is not supported."""
    return UnreadableImageError(f"{kind} are not supported{ADVICE.get(kind, '. Convert the file to PNG or JPEG.')}")


UNSUPPORTED = (
    ("PostScript files", 0, b"%!PS", b"\xc5\xd0\xd3\xc6"),
    ("PDF documents", 0, b"%PDF"),
    ("Photoshop files", 0, b"8BPS"),
    ("GIMP files", 0, b"gimp xcf"),
    ("DICOM files", 128, b"DICM"),
    ("JPEG XL images", 0, b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"),
    ("JPEG-LS images", 0, b"\xff\xd8\xff\xf7"),
    ("JPEG XR images", 0, b"II\xbc"),
    ("QOI images", 0, b"qoif"),
    ("OpenEXR images", 0, b"v/1\x01"),
    ("Radiance HDR images", 0, b"#?RADIANCE", b"#?RGBE"),
    ("DDS textures", 0, b"DDS "),
    ("PAM and color PFM images", 0, b"P7\n", b"PF\n"),
    ("DjVu documents", 0, b"AT&TFORM"),
    ("FITS files", 0, b"SIMPLE  ="),
    ("HDF5 files", 0, b"\x89HDF"),
    ("NumPy arrays", 0, b"\x93NUMPY"),
    ("Camera raw files", 0, b"FUJIFILMCCD-RAW", b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FOVb", b"\0MRM"),
    ("Camera raw files", 4, b"ftypcrx "),
    ("Camera raw files", 6, b"HEAPCCDR"),
    ("Camera raw files", 8, *CAMERA_RAW_MARKS),
    ("Videos", 0, b"\x1a\x45\xdf\xa3", b"\0\0\1\xba", b"\0\0\1\xb3", b"FLV\1", b"0&\xb2u\x8ef\xcf\x11"),
    ("Videos", 4, b"ftyp", b"moov", b"mdat", b"wide"),
    ("Videos", 8, b"AVI "),
    ("Archives", 0, b"PK\3\4", b"PK\5\6", b"\x1f\x8b", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\7", b"BZh"),
    ("Archives", 0, b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"),
    ("Archives", 257, b"ustar"),
)
"""Files that people take for images: name in the error message, offset, and signatures."""

TEXTS = (
    ("Git LFS pointers", b"version https://git-lfs"),
    ("SVG drawings", b"<svg", b"<!doctype svg"),
    ("Web pages", b"<!doctype html", b"<html", b"<head", b"<body", b"<script"),
    ("XML files", b"<?xml", b"<!doctype"),
    ("JSON files", b"{", b"["),
)
"""Names of text files, and how they begin in lower case, without white space and a byte order mark."""

ADVICE = {
    "Camera raw files": ": only their preview could be read.",
    "Archives": " here. Where folders are accepted, files named .zip, .tar, .tar.gz, .tar.bz2, and .tar.xz are opened.",
    "Videos": ". Extract frames as PNG or JPEG.",
    "Git LFS pointers": ". Run git lfs pull to download the image.",
    "Web pages": ". The file may be the error message of a download.",
    "XML files": ".",
    "JSON files": ".",
}


def _identify_text(start: bytes) -> str | None:
    """Return the kind of a text file, UTF-8 or UTF-16, by how it begins, or None."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16
        start = start[2:].replace(b"\0", b"")
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if b"\0" in text:
        return None
    if text.startswith((b"<?xml", b"<!--")):  # what follows tells more
        text = next((tag for tag in (b"<svg", b"<html") if tag in text), b"<?xml")
    return next((kind for kind, *signatures in TEXTS if text.startswith(tuple(signatures))), None)


def _has_brand(*brands: bytes) -> Callable[[bytes], bool]:
    return lambda start: start[4:8] == b"ftyp" and start[8:12] in brands


def _is_avif(start: bytes) -> bool:
    """Return whether the main brand is AVIF's, or a general one and AVIF's is among the compatible brands."""
    brands = start[8 : int.from_bytes(start[:4], "big")]
    return start[4:8] == b"ftyp" and (
        brands[:4] in AVIF or (brands[:4] in (b"mif1", b"msf1") and any(b in brands for b in AVIF))
    )


def _is_jpeg(start: bytes) -> bool:
    return start.startswith(b"\xff\xd8\xff") and start[3:4] != b"\xf7"  # JPEG-LS


def _is_tiff(start: bytes) -> bool:
    """Check that the file is not one of the camera raw formats that begin like a TIFF."""
    return start.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")) and start[8:12] not in CAMERA_RAW_MARKS


def _is_ppm(start: bytes) -> bool:
    return start[:1] == b"P" and start[1:2] in b"123456f" and start[2:3] in b" \t\r\n#"


def _is_webp(start: bytes) -> bool:
    return start[:4] == b"RIFF" and start[8:12] == b"WEBP"


def _is_tga(start: bytes) -> bool:
    """Check that the header fields are plausible, which text never is. TGA has no signature."""
    if len(start) < 18:
        return False
    width, height, depth = struct.unpack_from("<HHB", start, 12)
    return start[1] < 2 and start[2] in (1, 2, 3, 9, 10, 11) and width > 0 < height and depth in (1, 8, 16, 24, 32)


def _scale_transparent_color(image: ImageFile) -> None:
    """Scale a PNG's transparent color to the 8 bits of its decoded pixels. Pillow leaves it at the file's depth."""
    color = image.info.get("transparency")
    samples = image.tile[0].args if image.tile else None
    if image.format != "PNG" or not isinstance(samples, str):
        return
    if samples == "RGB;16B" and isinstance(color, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in color)
    elif isinstance(color, int) and samples in ("L;2", "L;4"):
        image.info["transparency"] = color * (85 if samples == "L;2" else 17)


def read_webp_size(stream: IO[bytes]) -> Size:
    """Return the width and height of a WebP image. Pillow's plugin allocates the pixels when it opens the file."""
    stream.seek(12)
    start = stream.read(18)
    kind = start[:4]
    if kind == b"VP8X" and len(start) == 18:
        return int.from_bytes(start[12:15], "little") + 1, int.from_bytes(start[15:18], "little") + 1
    if kind == b"VP8 " and len(start) == 18:
        width, height = struct.unpack_from("<HH", start, 14)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and len(start) >= 13:
        bits = int.from_bytes(start[9:13], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise UnreadableImageError("The image is damaged: invalid WebP header.")


def read_icon_size(stream: IO[bytes]) -> Size:
    """Return the largest width and height of the images in an icon. Pillow's plugin decodes one when it opens the file.

    They are read from the images' own headers, because the icon's table can contain anything.
    """
    stream.seek(4)
    (count,) = struct.unpack("<H", stream.read(2))
    table = stream.read(16 * count)
    width = height = 1
    for (offset,) in struct.iter_unpack("<12xI", table[: len(table) // 16 * 16]):
        stream.seek(offset)
        start = stream.read(24)
        if len(start) == 24:
            is_png = start.startswith(PNG_SIGNATURE)
            size = struct.unpack_from(">II", start, 16) if is_png else struct.unpack_from("<ii", start, 4)
            width, height = max(width, abs(size[0])), max(height, abs(size[1]))
    return width, height


JPEG = ImageFormat("JPEG", ("PIL.JpegImagePlugin", "JpegImageFile"), _is_jpeg)
IMAGE_FORMATS = (
    JPEG,
    ImageFormat("PNG", ("PIL.PngImagePlugin", "PngImageFile"), lambda start: start.startswith(PNG_SIGNATURE)),
    ImageFormat("GIF", ("PIL.GifImagePlugin", "GifImageFile"), lambda start: start.startswith((b"GIF87a", b"GIF89a"))),
    ImageFormat("WEBP", ("PIL.WebPImagePlugin", "WebPImageFile"), _is_webp, read_webp_size),
    ImageFormat("BMP", ("PIL.BmpImagePlugin", "BmpImageFile"), lambda start: start.startswith(b"BM")),
    ImageFormat(
        "TIFF",
        ("densenet_cli.images.tiff", "CheckedTiffImage"),
        _is_tiff,
    ),
    ImageFormat("AVIF", ("PIL.AvifImagePlugin", "AvifImageFile"), _is_avif),
    ImageFormat(
        "HEIF",
        ("pillow_heif", "HeifImageFile"),
        _has_brand(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
    ),
    ImageFormat(
        "JPEG2000",
        ("PIL.Jpeg2KImagePlugin", "Jpeg2KImageFile"),
        lambda start: start.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n")),
    ),
    ImageFormat("PPM", ("PIL.PpmImagePlugin", "PpmImageFile"), _is_ppm),
    ImageFormat(
        "ICO", ("PIL.IcoImagePlugin", "IcoImageFile"), lambda start: start.startswith(b"\0\0\1\0"), read_icon_size
    ),
    ImageFormat("TGA", ("PIL.TgaImagePlugin", "TgaImageFile"), _is_tga),
)


class Jpeg2000Codestream(NamedTuple):
    """Parameters of the part of a JPEG 2000 file that holds the pixels.

    Attributes:
        size: Width and height. The header of the enclosing file may contradict them.
        components: Number of channels.
        bits: Largest number of bits per sample.
        min_block_pixels: Size of the smallest code block. Every block has a fixed memory cost.
    """

    size: Size
    components: int
    bits: int
    min_block_pixels: int


def read_jpeg2000_codestream(stream: IO[bytes]) -> Jpeg2000Codestream:
    """Parse the main header of the codestream in a JPEG 2000 file."""
    _seek_codestream(stream)
    size = (0, 0)
    components, bits, min_block = 0, 0, 64 * 64
    while (marker := stream.read(2)) not in (b"\xff\x90", b"\xff\xd9", b""):  # first tile, or end
        (length,) = struct.unpack(">H", stream.read(2))
        body = stream.read(length - 2)
        if marker == b"\xff\x51":  # SIZ: image size
            right, bottom, left, top = struct.unpack_from(">IIII", body, 2)
            (components,) = struct.unpack_from(">H", body, 34)
            bits = max((depth & 127) + 1 for depth in body[36 : 36 + 3 * components : 3])
            size = right - left, bottom - top
        elif marker == b"\xff\x52":  # COD: default coding style
            min_block = min(min_block, _min_block_pixels(body[5:], bool(body[0] & 1)))
        elif marker == b"\xff\x53":  # COC: coding style of one channel
            start = 1 if components < 257 else 2
            min_block = min(min_block, _min_block_pixels(body[start + 1 :], bool(body[start] & 1)))
    return Jpeg2000Codestream(size, components, bits, min_block)


def _check_jpeg2000(stream: IO[bytes]) -> None:
    """Refuse colors of more than 8 bits, whose brightest values Pillow turns into 0, and more than four channels."""
    codestream = read_jpeg2000_codestream(stream)
    stream.seek(0)
    if codestream.components > 4 or (codestream.components > 1 and codestream.bits > 8):
        raise unsupported(f"JPEG 2000 images with {codestream.components} channels of {codestream.bits} bits")


def _min_block_pixels(parameters: bytes, has_precincts: bool) -> int:
    """Return the smallest block of a coding style.

    Code blocks are 2^(w+2) by 2^(h+2) pixels. Precincts, whose sides are halved in the subbands, can be smaller.
    """
    pixels = 4 << (parameters[1] & 15) + (parameters[2] & 15) + 2
    if has_precincts:
        for exponents in parameters[5:]:
            pixels = min(pixels, max(1, (1 << (exponents & 15) + (exponents >> 4)) // 4))
    return pixels


def _seek_codestream(stream: IO[bytes]) -> None:
    """Move past the codestream's first marker, at the beginning of the file or in its ``jp2c`` box."""
    stream.seek(0)
    if stream.read(2) == b"\xff\x4f":
        return
    position = 0
    while True:
        stream.seek(position)
        length, kind = struct.unpack(">I4s", stream.read(8))
        if length == 1:
            (length,) = struct.unpack(">Q", stream.read(8))
        if kind == b"jp2c":
            stream.read(2)
            return
        if length < 8:
            raise UnreadableImageError("The image is damaged: invalid JPEG 2000 header.")
        position += length
