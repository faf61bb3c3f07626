from __future__ import annotations

import builtins
import gc
import io
import os
import socket
import struct
import subprocess
import sys
import threading
import weakref
import zlib

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from densenet_cli.errors import (
    DownloadFailedError,
    ImageError,
    ImageTooLargeError,
    SourceNotFoundError,
    SourceUnreadableError,
    UnreadableImageError,
)
from densenet_cli.images import reading
from densenet_cli.images.decoding import DecodeBudget, decode, load
from densenet_cli.images.preprocessing import Preprocessing
from densenet_cli.images.sources import Source, expand, from_object
from tests.support.images import ENCODINGS, encode, load_pixels, photograph, rotated


def error_of(image: object, budget: DecodeBudget | None = None) -> ImageError:
    with pytest.raises(ImageError) as caught:
        load_pixels(image, budget)
    message = str(caught.value)
    assert message and message.isprintable() and len(message) < 300
    return caught.value


class TestOrigins:
    """The same photograph, from wherever it comes."""

    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "photo.png"
        photograph("rocket").save(path)
        return path

    @pytest.fixture
    def expected(self):
        return load_pixels(photograph("rocket"))

    def test_path(self, path, expected):
        assert np.array_equal(load_pixels(path), expected)
        assert np.array_equal(load_pixels(str(path)), expected)

    def test_bytes_and_file_objects(self, path, expected):
        data = path.read_bytes()
        assert np.array_equal(load_pixels(data), expected)
        assert np.array_equal(load_pixels(bytearray(data)), expected)
        assert np.array_equal(load_pixels(io.BytesIO(data)), expected)
        with path.open("rb") as file:
            assert np.array_equal(load_pixels(file), expected)

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_file_objects_that_give_other_bytes_in_pieces(self, path, expected, kind):
        class InPieces(io.BytesIO):
            def read(self, size=-1):
                return kind(super().read(min(size, 1000)))

        data = path.read_bytes()
        assert np.array_equal(load_pixels(InPieces(data)), expected)
        (source,) = expand(["-"], stdin=InPieces(data))
        assert np.array_equal(load_pixels(source), expected)

    @pytest.mark.parametrize("text", ["", "a text"])
    def test_file_objects_that_give_text(self, text):
        assert "text" in str(error_of(io.StringIO(text)))

    def test_array(self, expected):
        assert np.array_equal(load_pixels(np.asarray(photograph("rocket"))), expected)

    def test_standard_input_is_read_once(self, path, expected):
        first, second = expand(["-", "-"], stdin=io.BytesIO(path.read_bytes()))
        for source in (first, second):
            assert np.array_equal(load_pixels(source), expected)

    def test_a_pil_image_stays_as_it_is(self):
        image = Image.open(io.BytesIO(rotated(photograph("chelsea"), 6)))
        before = image.copy()
        turned = load_pixels(image)
        assert np.array_equal(turned, load_pixels(rotated(photograph("chelsea"), 6)))
        assert image.size == before.size and image.tobytes() == before.tobytes()
        assert image.getexif()[0x0112] == 6

    def test_a_url(self, path, expected, monkeypatch):
        asked = []

        def fetch(url, *, max_bytes):
            asked.append((url, max_bytes))
            return path.read_bytes()

        monkeypatch.setattr("densenet_cli.http.fetch", fetch)
        assert np.array_equal(load_pixels("https://example.org/a.png"), expected)
        assert asked == [("https://example.org/a.png", reading.MAX_STREAM_BYTES)]

    def test_a_url_that_fails(self, monkeypatch):
        def fetch(url, *, max_bytes):
            raise DownloadFailedError("It gave 404.")

        monkeypatch.setattr("densenet_cli.http.fetch", fetch)
        assert type(error_of("http://example.org/a.png")) is DownloadFailedError

    def test_a_stream_without_end_is_cut_off(self, monkeypatch):
        monkeypatch.setattr(reading, "MAX_STREAM_BYTES", 1000)

        class Endless:
            def read(self, size: int) -> bytes:
                return b"x" * size

        assert "limit" in str(error_of(Endless()))

    def test_a_file_object_of_text(self):
        assert "binary" in str(error_of(io.StringIO("image")))


class TestFilesThatAreNone:
    def test_a_missing_file(self, tmp_path):
        assert type(error_of(tmp_path / "none.jpg")) is SourceNotFoundError

    def test_a_dangling_link(self, tmp_path):
        (tmp_path / "link.jpg").symlink_to("nowhere")
        error = error_of(tmp_path / "link.jpg")
        assert type(error) is SourceNotFoundError and "symbolic link" in str(error)

    def test_a_name_with_a_nul_byte(self):
        assert isinstance(error_of("a\0b.jpg"), SourceUnreadableError)

    @pytest.mark.parametrize("kind", ["FIFO", "socket", "device", "folder"])
    def test_what_is_no_regular_file_is_never_opened(self, kind, tmp_path, monkeypatch):
        path = tmp_path / "x.jpg"
        if kind == "FIFO":
            os.mkfifo(path)
        elif kind == "socket":
            monkeypatch.chdir(tmp_path)  # the name of a socket has to be short
            socket.socket(socket.AF_UNIX).bind("x.jpg")
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to("/dev/zero")
        monkeypatch.setattr(os, "open", lambda *_: pytest.fail("it was opened"))
        error = error_of(path)
        assert type(error) is SourceUnreadableError and kind in str(error)

    def test_a_loop_of_links(self, tmp_path):
        (tmp_path / "a.jpg").symlink_to("a.jpg")
        assert type(error_of(tmp_path / "a.jpg")) is SourceUnreadableError

    def test_a_file_that_may_not_be_read(self, tmp_path):
        path = tmp_path / "secret.jpg"
        path.write_bytes(encode(photograph(), "JPEG"))
        path.chmod(0)
        for folder in (tmp_path, *tmp_path.parents[:2]):
            folder.chmod(0o755)
        script = (
            "import os, sys; from densenet_cli.images import decoding, preprocessing, sources\n"
            "try: decoding.load(sources.from_object(b'a text'), preprocessing.Preprocessing())\n"
            "except Exception: pass  # everything is imported while it may be\n"
            "os.setgid(65534); os.setuid(65534)\n"
            "try: decoding.load(sources.from_object(sys.argv[1]), preprocessing.Preprocessing())\n"
            "except Exception as error: print(error.type, error)"
        )
        assert run(script, str(path)).stdout == "SourceUnreadable Permission denied.\n"

    def test_the_error_that_a_source_has_is_raised(self):
        source = Source("x", "x", "nothing", SourceNotFoundError("No."))
        with pytest.raises(SourceNotFoundError, match="No"):
            load(source, Preprocessing())


class TestFilesThatAreNoImages:
    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (b"", "empty"),
            (b"hello, this is a text\n" * 9, "Not a supported"),
            (b"\xef\xbb\xbf\xd0\x9f\xd1\x80\xd0\xb8", "Not a supported"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
            (b"\xc5\xd0\xd3\xc6" + bytes(40), "PostScript"),
            (b"%PDF-1.7\n", "PDF"),
            (b"8BPS\0\x01", "Photoshop"),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
            (b"<!DOCTYPE html><html>", "Web page"),
            (b"\x7fELF" + bytes(60), "Not a supported"),
            (bytes(1000), "Not a supported"),
            (b"P9 4 4", "Not a supported"),
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
    def test_says_what_is_wrong(self, data, words, tmp_path):
        path = tmp_path / "x.jpg"
        path.write_bytes(data)
        for image in (data, path):
            error = error_of(image)
            assert type(error) is UnreadableImageError and words in str(error)

    def test_heic_names_the_package(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        assert "pip install pillow-heif" in str(error_of(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"))

    @pytest.mark.parametrize("data", [b"%!PS-Adobe-3.0 EPSF-3.0\n", b"%PDF-1.4\n", b"\0\0\1\xb3", b"GRIB\0\0\0\2"])
    def test_no_other_plugin_of_pillow_is_asked(self, data, monkeypatch):
        monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("Image.open"))
        monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
        error_of(data)

    @pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
    def test_a_truncated_image(self, encoding):
        data = encoding.encode(photograph("coffee", (120, 90)))
        for length in (len(data) // 2, len(data) // 3, 20):
            assert type(error_of(data[:length])) is UnreadableImageError

    @pytest.mark.parametrize("name", ["MemoryError", "RecursionError", "OverflowError", "SyntaxError", "KeyError"])
    def test_whatever_a_decoder_raises_is_one_line(self, name, monkeypatch):
        def broken(self):
            raise getattr(builtins, name)("two\nlines\x1b[31m" + "x" * 1000)

        monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", broken)
        assert type(error_of(encode(photograph(), "JPEG"))) is UnreadableImageError

    def test_garbage_in_the_exif_block_loses_no_image(self):
        image = photograph("chelsea")
        for block in (b"", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 90):
            garbage = b"Exif\0\0" + block
            data = encode(image, "JPEG", exif=garbage, quality=95)
            assert np.array_equal(load_pixels(data), load_pixels(encode(image, "JPEG", quality=95)))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_out_upright(orientation, format):
    image = photograph("coffee", (301, 200))
    options = {"WEBP": {"lossless": True, "method": 0}, "AVIF": {"quality": 95}, "JPEG": {"quality": 97}}.get(
        format, {}
    )
    turned = load_pixels(rotated(image, orientation, format, **options)).astype(int)
    difference = np.abs(turned - load_pixels(image))
    assert difference.mean() < 4  # turned wrongly, 20 and more
    if format in ("PNG", "TIFF", "WEBP"):
        assert not difference.any()


def test_a_header_of_absurd_size_is_refused_before_it_is_decoded():
    for format in ("PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000", "PPM", "ICO", "TGA"):
        error = error_of(with_size(format, 60_000), DecodeBudget(700))
        assert isinstance(error, ImageTooLargeError | UnreadableImageError)
        if format not in ("WEBP", "TIFF"):  # whose own checks may come first
            assert type(error) is ImageTooLargeError, format
    with pytest.raises(ImageTooLargeError):
        load_pixels(with_size("JPEG", 60_000), DecodeBudget(700), exact=True)


def with_size(format: str, side: int) -> bytes:
    """A small image's file whose header says another size."""
    data = bytearray(encode(photograph("coffee", (32, 24)), format))
    at, order, width = {
        "PNG": (16, "big", 4),
        "GIF": (6, "little", 2),
        "WEBP": (26, "little", 2),
        "BMP": (18, "little", 4),
        "JPEG": (data.find(b"\xff\xc0") + 5, "big", 2),
        "JPEG2000": (data.find(b"\xff\x51") + 6, "big", 4),
        "TGA": (12, "little", 2),
        "ICO": (22 + 16, "big", 4),
    }.get(format, (0, "big", 0))
    if format == "PPM":
        return data.replace(b"32 24", b"%d %d" % (side, side))
    if format == "TIFF":
        return encode(Image.new("1", (13_000, 13_000)), "TIFF", compression="group4")
    for index in range(2):
        data[at + index * width : at + (index + 1) * width] = side.to_bytes(width, order)
    if format == "PNG":
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def test_a_image_larger_than_the_budget_says_so_and_smaller_ones_go_through():
    budget = DecodeBudget(20)
    large = encode(Image.new("RGB", (3000, 2000)), "PNG")
    assert type(error_of(large, budget)) is ImageTooLargeError
    assert load_pixels(encode(photograph(), "PNG"), budget).shape == (1, 224, 224, 3)
    assert load_pixels(large).shape == (1, 224, 224, 3)


def test_the_budget_takes_the_place_of_pillows_limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    data = encode(photograph("coffee", (600, 400)), "TIFF", compression="tiff_lzw")
    assert load_pixels(data, DecodeBudget(700)).shape == (1, 224, 224, 3)
    assert Image.MAX_IMAGE_PIXELS == 70_000_000  # raised, not lifted


def test_pillows_limit_stays_where_the_budget_is_below_it(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 89_478_485)
    load_pixels(photograph(), DecodeBudget(700))
    assert Image.MAX_IMAGE_PIXELS == 89_478_485


def test_an_error_holds_no_image(monkeypatch):
    """A run keeps its errors until they are written; the images would stay with them."""
    images = []

    def broken(self):
        images.append(weakref.ref(self))
        raise ValueError("broken")

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", broken)
    error = error_of(encode(photograph(), "JPEG"))
    gc.collect()
    assert images[0]() is None
    assert error.__cause__ is None and error.__context__ is None


def test_threads_may_decode_at_once_even_the_same_image():
    shared = Image.open(io.BytesIO(encode(photograph("rocket"), "PNG")))
    files = [encoding.encode(photograph("coffee", (80, 60))) for encoding in ENCODINGS]
    expected = [load_pixels(photograph("rocket")), *(load_pixels(data) for data in files)]
    budget, wrong = DecodeBudget(60), []

    def work() -> None:
        for image, pixels in zip([shared, *files], expected, strict=True):
            if not np.array_equal(load_pixels(image, budget), pixels):
                wrong.append(image)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_whole_image_in_rgb():
    image = decode(from_object(rotated(photograph("coffee"), 6, "PNG")))
    assert image.image.mode == "RGB" and image.size == image.image.size == (600, 400)
    assert np.array_equal(np.asarray(image.image), np.asarray(photograph("coffee")))


def test_nothing_heavy_is_imported_before_the_first_image():
    script = (
        "import sys; from densenet_cli.images import decoding, preprocessing, sources\n"
        "print([name for name in ('PIL', 'numpy', 'requests', 'glob', 'logging') if name in sys.modules])"
    )
    assert run(script).stdout == "[]\n"


def test_a_jpeg_imports_no_plugin_but_its_own(tmp_path):
    photograph().save(tmp_path / "x.jpg")
    script = (
        "import sys; from densenet_cli.images import decoding, preprocessing, sources\n"
        "decoding.load(sources.from_object(sys.argv[1]), preprocessing.Preprocessing())\n"
        "print(sorted(name for name in sys.modules if name.startswith('PIL.') and name.endswith('Plugin')))"
    )
    assert run(script, str(tmp_path / "x.jpg")).stdout in (
        "['PIL.JpegImagePlugin']\n",
        "['PIL.JpegImagePlugin', 'PIL.TiffImagePlugin']\n",  # for the EXIF block
    )


def test_damaged_images_write_nothing_to_standard_error(tmp_path):
    """Neither Pillow's warnings and log nor libtiff's messages."""
    tiff = bytearray(encode(photograph("coffee", (60, 40)), "TIFF", compression="tiff_lzw"))
    tiff[len(tiff) // 3] ^= 255
    (tmp_path / "a").write_bytes(tiff)
    samples_per_pixel = struct.pack("<HHIH", 277, 3, 1, 3)
    samples = encode(photograph("coffee", (60, 40)), "TIFF")
    assert samples_per_pixel in samples
    (tmp_path / "b").write_bytes(samples.replace(samples_per_pixel, struct.pack("<HHIH", 277, 3, 1, 65535)))
    (tmp_path / "c").write_bytes(encode(Image.new("1", (50, 50)), "TIFF", compression="tiff_raw_16"))
    palette = photograph("coffee", (60, 40)).convert("P")
    (tmp_path / "d").write_bytes(encode(palette, "PNG", transparency=bytes(range(200))))
    script = (
        "import sys; from densenet_cli.images import decoding, preprocessing, sources\n"
        "for name in sys.argv[1:]:\n"
        "    for way in ('crop', 'keras'):\n"
        "        try: decoding.load(sources.from_object(name), preprocessing.Preprocessing(way)); print('done')\n"
        "        except Exception as error: print(error)"
    )
    result = run(script, *(str(tmp_path / name) for name in "abcd"))
    assert result.stderr == ""
    assert result.stdout.count("\n") == 8 and "done" in result.stdout and "damaged" in result.stdout


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
