"""Format detection and header parsing."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from densenet_cli.errors import UnreadableImageError
from densenet_cli.images.formats import (
    identify_format,
    read_icon_size,
    read_jpeg2000_codestream,
    read_webp_size,
)
from densenet_cli.images.memory import has_single_scan
from tests.support.images import ENCODINGS, PILLOW_MODES, encode, load_error, load_pixels, photograph


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_every_format_is_identified(encoding):
    data = encoding.encode(photograph("coffee", (60, 40)))
    assert identify_format(io.BytesIO(data)).name == encoding.format


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"hello, this is a text\n" * 9, "supported format"),
        (b"\xef\xbb\xbf\xd0\x9f\xd1\x80\xd0\xb8", "supported format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"\xc5\xd0\xd3\xc6" + bytes(40), "PostScript"),
        (b"%PDF-1.7\n", "PDF"),
        (b"8BPS\0\x01", "Photoshop"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<!DOCTYPE html><html>", "Web page"),
        (b"<HTML><BODY>404</BODY></HTML>", "Web page"),
        (b"\xef\xbb\xbf\r\n  <Html lang='en'>", "Web page"),
        ("\n<!doctype HTML>".encode("utf-16"), "Web page"),
        (b"<!-- saved -->\n<html>", "Web page"),
        (b"<?xml version='1.0'?>\n<!DOCTYPE svg><svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<?xml version='1.0'?><annotation/>", "XML"),
        (b'{"error": "not found"}', "JSON"),
        (b"\n[1, 2]", "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
        (bytes(128) + b"DICM\2\0\0\0UL", "DICOM"),
        (b"\xff\x0a\xfa\x7f\x01", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl ", "JPEG XL"),
        (b"\xff\xd8\xff\xf7\0\x0b\x08", "JPEG-LS"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", "Video"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "Video"),
        (b"\0\0\0\x08wide\0\0\0\0mdat", "Video"),
        (b"\x1a\x45\xdf\xa3\x9fB\x86\x81", "Video"),
        (b"RIFF\0\0\1\0AVI LIST", "Video"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "Camera raw"),
        (b"II*\0\x10\0\0\0CR\2\0\0\0\0\0", "Camera raw"),
        (b"FUJIFILMCCD-RAW 0201FF383501", "Camera raw"),
        (b"IIRO\x08\0\0\0", "Camera raw"),
        (b"IIU\0\x18\0\0\0", "Camera raw"),
        (b"PK\3\4\x14\0\0\0", "Archive"),
        (b"\x1f\x8b\x08\0", "Archive"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "Archive"),
        (b"Rar!\x1a\7\1\0", "Archive"),
        (b"\xfd7zXZ\0\0\4", "Archive"),
        (b"\x28\xb5\x2f\xfd\x04", "Archive"),
        (b"photo.jpg" + bytes(248) + b"ustar\00000", "Archive"),
        (b"P2P networks and 10 10 255", "supported format"),
        (b"\x7fELF" + bytes(60), "supported format"),
        (bytes(1000), "supported format"),
        (b"P9 4 4", "supported format"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"\xff\xd8\xff", "damaged"),
        (b"BM", "damaged"),
        (b"GIF89a", "damaged"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "damaged"),
        (b"\0\0\1\0\x01\0", "damaged"),
        (b"II*\0", "damaged"),
        (b"P5 10 10 255\n", "damaged"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "damaged"),
        (b"\xff\x4f\xff\x51", "damaged"),
        (b"\0\0\0\x18ftypavif", "damaged"),
    ],
)
def test_files_that_are_not_images_are_rejected(data, message, tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    for image in (data, path):
        error = load_error(image)
        assert type(error) is UnreadableImageError and message in str(error)
        assert ("damaged" in str(error)) == (message == "damaged")


def test_an_avif_image_with_a_general_main_brand():
    data = encode(photograph("coffee", (60, 40)), "AVIF")
    assert data[8:12] == b"avif"
    assert identify_format(io.BytesIO(data[:8] + b"mif1" + data[12:])).name == "AVIF"


def jpeg_with_frame(marker: bytes, bits: int) -> bytes:
    data = encode(photograph("coffee", (60, 40)), "JPEG")
    start = data.index(b"\xff\xc0")
    return data[:start] + marker + data[start + 2 : start + 4] + bytes([bits]) + data[start + 5 :]


def test_a_jpeg_of_12_bits_is_unsupported_and_not_damaged():
    message = str(load_error(jpeg_with_frame(b"\xff\xc1", 12)))
    assert "12-bit" in message and "unsupported" in message and "damaged" not in message


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("mode", ["LA", "RGB", "RGBA"])
def test_jpeg_2000_colors_of_more_than_8_bits_are_refused(mode, bits):
    """Pillow rounds their brightest values up to 256, which becomes 0."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    data = encode(Image.new(mode, (16, 16), "white"), "JPEG2000", no_jp2=True)
    start = data.index(b"\xff\x51") + 40
    deep = data[:start] + bytes([bits - 1, 1, 1]) * channels + data[start + 3 * channels :]
    message = str(load_error(deep))
    assert f"{channels} channels of {bits} bits" in message and "damaged" not in message


@pytest.mark.parametrize("data", [b"%!PS-Adobe-3.0 EPSF-3.0\n", b"%PDF-1.4\n", b"\0\0\1\xb3", b"GRIB\0\0\0\2"])
def test_no_other_plugin_of_pillow_is_tried(data, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("Image.open"))
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    assert type(load_error(data)) is UnreadableImageError


def test_heic_without_its_package_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert "pip install pillow-heif" in str(load_error(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"))


def open_image(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_only_progressive_jpegs_have_several_scans(mode):
    image = PILLOW_MODES[mode](photograph("coffee", (60, 40)))
    assert has_single_scan(open_image(encode(image, "JPEG")))
    assert not has_single_scan(open_image(encode(image, "JPEG", progressive=True)))


def test_a_jpeg_with_one_scan_per_channel_has_several_scans():
    data = bytearray(encode(photograph("coffee", (60, 40)), "JPEG"))
    scan = data.index(b"\xff\xda")
    data[scan : scan + 14] = b"\xff\xda\0\x08\x01\x01\0\0\x3f\0"
    assert not has_single_scan(open_image(bytes(data)))


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0II*\0"}])
@pytest.mark.parametrize("size", [(1, 1), (301, 203), (16383, 2)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_webp_size(mode, size, options):
    assert read_webp_size(io.BytesIO(encode(Image.new(mode, size), "WEBP", **options))) == size


@pytest.mark.parametrize("bitmap", ["bmp", "png"])
def test_icon_size_comes_from_the_images(bitmap):
    data = bytearray(encode(photograph("coffee", (64, 48)).convert("RGBA"), "ICO", bitmap_format=bitmap))
    data[6:8] = b"\x10\x10"  # the size in the table
    assert read_icon_size(io.BytesIO(data)) in ((64, 48), (64, 96))  # the height of a BMP includes its mask


@pytest.mark.parametrize("bitmap", ["bmp", "png"])
def test_the_largest_image_of_an_icon_is_used(bitmap):
    icon = photograph("coffee", (128, 128)).convert("RGBA")
    data = encode(icon, "ICO", sizes=[(16, 16), (128, 128), (48, 48)], bitmap_format=bitmap)
    difference = load_pixels(data)[0].astype(int) - load_pixels(icon)[0]
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("no_jp2", [True, False])
def test_jpeg_2000_codestream(no_jp2):
    data = encode(photograph("coffee", (61, 43)), "JPEG2000", no_jp2=no_jp2, codeblock_size=(8, 16))
    codestream = read_jpeg2000_codestream(io.BytesIO(data))
    assert codestream == ((61, 43), 3, 8, 128)
