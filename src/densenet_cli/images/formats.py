"""The formats that are read: an allow-list of Pillow's, told apart by their first bytes.

Pillow's own ``Image.open`` asks all of its fifty plugins. Some of them start another program (EPS), some hold no
image of pixels, most are rare and little tested: what is not in ``FORMATS`` is refused. Only the plugin that an
image needs is imported, which is a third of the time that importing the usual five takes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import IO, TYPE_CHECKING

from densenet_cli.errors import UnreadableImageError
from densenet_cli.images.headers import PNG_SIGNATURE, Size, icon_size, webp_size

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

SIGNATURE_BYTES = 32


@dataclass(frozen=True)
class Format:
    """A format that is read.

    Attributes:
        name: Pillow's name for it.
        plugin: the module that reads it, and its class there.
        fits: whether a file's first ``SIGNATURE_BYTES`` are this format's.
        size: given for a format whose plugin decodes, or makes room for the pixels, as it opens the file: reads
            width and height before that.
    """

    name: str
    plugin: tuple[str, str]
    fits: Callable[[bytes], bool]
    size: Callable[[IO[bytes]], Size] | None = None

    def open(self, stream: IO[bytes]) -> ImageFile:
        """Read the header. Not ``Image.open``: its limit of pixels is the budget's matter here."""
        stream.seek(0)
        try:
            module = import_module(self.plugin[0])
        except ImportError:
            if self.name != "HEIF":
                raise
            raise UnreadableImageError(
                "A HEIC image, which needs one more package: pip install 'densenet-cli[heic]'."
            ) from None
        image: ImageFile = getattr(module, self.plugin[1])(stream)
        _fit_transparent_color(image)
        return image


def identify(stream: IO[bytes]) -> Format:
    """The format of a file that is open at its beginning.

    Raises:
        UnreadableImage: it is of none that is read.
    """
    start = stream.read(SIGNATURE_BYTES)
    if not start:
        raise UnreadableImageError("An empty file.")
    for format in FORMATS:
        if format.fits(start):
            return format
    for signature, name in REFUSED.items():
        if start.startswith(signature):
            raise UnreadableImageError(f"{name}, which is not read here: convert it to PNG or JPEG.")
    raise UnreadableImageError(f"Not an image in a format that is read here ({', '.join(f.name for f in FORMATS)}).")


REFUSED = {
    b"%!PS": "A PostScript file",
    b"\xc5\xd0\xd3\xc6": "A PostScript file",
    b"%PDF": "A PDF document",
    b"8BPS": "A Photoshop file",
    b"<svg": "An SVG drawing",
    b"<?xml": "An XML file",
    b"<!DOCTYPE": "A web page",
    b"<html": "A web page",
    b"\x1a\x45\xdf\xa3": "A video",
}
"""Files that people take for images, to be told what they are; they are refused as is every other."""


def _brand(*brands: bytes) -> Callable[[bytes], bool]:
    return lambda start: start[4:8] == b"ftyp" and start[8:12] in brands


def _is_webp(start: bytes) -> bool:
    return start[:4] == b"RIFF" and start[8:12] == b"WEBP"


def _is_tga(start: bytes) -> bool:
    """TGA has no signature: its header has to make sense, which text's never does."""
    if len(start) < 18:
        return False
    width, height, depth = struct.unpack_from("<HHB", start, 12)
    return start[1] < 2 and start[2] in (1, 2, 3, 9, 10, 11) and width > 0 < height and depth in (1, 8, 16, 24, 32)


def _fit_transparent_color(image: ImageFile) -> None:
    """Bring a PNG's transparent color to the 8 bits that its pixels get; Pillow leaves it at the file's depth."""
    color = image.info.get("transparency")
    samples = image.tile[0].args if image.tile else None
    if image.format != "PNG" or not isinstance(samples, str):
        return
    if samples == "RGB;16B" and isinstance(color, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in color)
    elif isinstance(color, int) and samples in ("L;2", "L;4"):
        image.info["transparency"] = color * (85 if samples == "L;2" else 17)


FORMATS = (
    Format("JPEG", ("PIL.JpegImagePlugin", "JpegImageFile"), lambda start: start.startswith(b"\xff\xd8\xff")),
    Format("PNG", ("PIL.PngImagePlugin", "PngImageFile"), lambda start: start.startswith(PNG_SIGNATURE)),
    Format("GIF", ("PIL.GifImagePlugin", "GifImageFile"), lambda start: start.startswith((b"GIF87a", b"GIF89a"))),
    Format("WEBP", ("PIL.WebPImagePlugin", "WebPImageFile"), _is_webp, webp_size),
    Format("BMP", ("PIL.BmpImagePlugin", "BmpImageFile"), lambda start: start.startswith(b"BM")),
    Format(
        "TIFF",
        ("PIL.TiffImagePlugin", "TiffImageFile"),
        lambda start: start.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    ),
    Format("AVIF", ("PIL.AvifImagePlugin", "AvifImageFile"), _brand(b"avif", b"avis")),
    Format(
        "HEIF",
        ("pillow_heif", "HeifImageFile"),
        _brand(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
    ),
    Format(
        "JPEG2000",
        ("PIL.Jpeg2KImagePlugin", "Jpeg2KImageFile"),
        lambda start: start.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n")),
    ),
    Format("PPM", ("PIL.PpmImagePlugin", "PpmImageFile"), lambda start: start[:1] == b"P" and start[1:2] in b"123456f"),
    Format("ICO", ("PIL.IcoImagePlugin", "IcoImageFile"), lambda start: start.startswith(b"\0\0\1\0"), icon_size),
    Format("TGA", ("PIL.TgaImagePlugin", "TgaImageFile"), _is_tga),
)
