"""Decoding: damaged images, the memory budget, threads, and what is imported when."""

from __future__ import annotations

import builtins
import gc
import io
import struct
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from densenet_cli.errors import ImageTooLargeError, UnreadableImageError
from densenet_cli.images.decoding import decode, load
from densenet_cli.images.memory import DecodeBudget
from densenet_cli.images.preprocessing import Preprocessing
from densenet_cli.images.previews import DisplayImage, Thumbnail
from densenet_cli.images.sources import from_object
from tests.support.hostile_images import with_size
from tests.support.images import ENCODINGS, encode, load_error, load_pixels, photograph, rotated

pytestmark = pytest.mark.filterwarnings(r"ignore::UserWarning:PIL\.")


class TestDamagedImages:
    @pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
    def test_truncated(self, encoding):
        data = encoding.encode(photograph("coffee", (120, 90)))
        for length in (len(data) // 2, len(data) // 3, 20):
            assert type(load_error(data[:length])) is UnreadableImageError

    @pytest.mark.parametrize(
        "options", [{}, {"progressive": True}, {"subsampling": 0, "restart_marker_rows": 1}], ids=str
    )
    @pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
    def test_a_jpeg_that_lacks_only_its_end_marker_is_complete(self, mode, options):
        photo = photograph("coffee", (333, 290))
        data = encode(photo.convert(mode), "JPEG", **options)
        assert data.endswith(b"\xff\xd9")
        for accept in ("refuse", "accept"):
            for missing in (1, 2):
                source = from_object(data[:-missing])
                loaded = load(source, Preprocessing(truncated=accept))
                assert np.array_equal(loaded.pixels, load_pixels(data)) and loaded.notes == ()
        assert np.array_equal(load_pixels(data[:-2], input_size=64), load_pixels(data, input_size=64))  # reduced
        assert np.array_equal(load_pixels(data[:-2], mode="keras"), load_pixels(data, mode="keras"))

    def test_a_progressive_jpeg_that_lacks_whole_scans_is_truncated(self):
        data = encode(photograph("coffee", (333, 290)), "JPEG", progressive=True)
        scans = [index for index in range(len(data)) if data.startswith(b"\xff\xda", index)]
        assert len(scans) > 5
        for start in scans[1:]:
            for end in (data.rindex(b"\xff\xc4", 0, start), start, start + 4):
                assert type(load_error(data[:end])) is UnreadableImageError

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM"])
    def test_a_truncated_image_that_is_accepted_is_marked(self, format):
        photo = photograph("coffee", (300, 290))
        data = encode(photo, format, **({"interlace": 0} if format == "GIF" else {}))
        half = data[: len(data) // 2]
        assert type(load_error(half)) is UnreadableImageError
        loaded = load(from_object(half), Preprocessing(truncated="accept", mode="squash", input_size=290))
        assert loaded.notes == ("truncated",)
        whole = load_pixels(data, mode="squash", input_size=290)
        pixels, expected = loaded.pixels[0], whole[0]
        if format == "BMP":  # begins with the last row
            pixels, expected = pixels[::-1], expected[::-1]
        assert np.abs(pixels[:64].astype(int) - expected[:64]).mean() < 3
        assert (pixels[-8:] == pixels[-1, -1]).all()  # missing
        assert load(from_object(data), Preprocessing(truncated="accept")).notes == ()

    def test_a_large_truncated_jpeg_with_a_preview(self):
        data = encode(photograph("coffee", (3000, 2000)), "JPEG")
        for kind in (Thumbnail, DisplayImage):
            loaded = load(from_object(data[:-2]), Preprocessing(), preview=kind)
            assert loaded.preview == load(from_object(data), Preprocessing(), preview=kind).preview
            assert load(from_object(data[:-9999]), Preprocessing(truncated="accept"), preview=kind).notes

    @pytest.mark.parametrize("name", ["MemoryError", "RecursionError", "OverflowError", "SyntaxError", "KeyError"])
    def test_any_exception_of_a_decoder(self, name, monkeypatch):
        def fail(self):
            raise getattr(builtins, name)("two\nlines\x1b[31m" + "x" * 1000)

        monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", fail)
        assert type(load_error(encode(photograph(), "JPEG"))) is UnreadableImageError

    def test_garbage_in_the_exif_block_is_ignored(self):
        image = photograph("chelsea")
        for block in (b"", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 90):
            data = encode(image, "JPEG", exif=b"Exif\0\0" + block, quality=95)
            assert np.array_equal(load_pixels(data), load_pixels(encode(image, "JPEG", quality=95)))

    def test_an_error_does_not_keep_the_image_in_memory(self, monkeypatch):
        images = []

        def fail(self):
            images.append(weakref.ref(self))
            raise ValueError("broken")

        monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", fail)
        error = load_error(encode(photograph(), "JPEG"))
        gc.collect()
        assert images[0]() is None
        assert error.__cause__ is None and error.__context__ is None

    def test_nothing_is_written_to_standard_error(self, tmp_path):
        """Pillow warns and logs, and libtiff prints messages."""
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
            "    for mode in ('crop', 'keras'):\n"
            "        try: decoding.load(sources.from_object(name), preprocessing.Preprocessing(mode)); print('done')\n"
            "        except Exception as error: print(error)"
        )
        result = run(script, *(str(tmp_path / name) for name in "abcd"))
        assert result.stderr == ""
        assert result.stdout.count("\n") == 8 and "done" in result.stdout and "damaged" in result.stdout


class TestBudget:
    @pytest.mark.parametrize("format", ["PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000", "PPM", "ICO", "TGA", "JPEG"])
    def test_an_absurd_size_in_the_header_is_rejected_before_decoding(self, format):
        data = with_size(format, encode(photograph("coffee", (32, 24)), format), 60_000, 60_000)
        error = load_error(data, DecodeBudget(700), exact=True)
        assert isinstance(error, ImageTooLargeError | UnreadableImageError)
        if format not in ("WEBP", "TIFF"):  # Pillow's own checks may come first
            assert type(error) is ImageTooLargeError

    def test_an_image_larger_than_the_budget(self):
        budget = DecodeBudget(20)
        large = encode(Image.new("RGB", (3000, 2000)), "PNG")
        assert type(load_error(large, budget)) is ImageTooLargeError
        assert load_pixels(encode(photograph(), "PNG"), budget).shape == (1, 224, 224, 3)
        assert load_pixels(large).shape == (1, 224, 224, 3)

    def test_it_raises_pillows_pixel_limit_but_does_not_remove_it(self, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        data = encode(photograph("coffee", (600, 400)), "TIFF", compression="tiff_lzw")
        assert load_pixels(data, DecodeBudget(700)).shape == (1, 224, 224, 3)
        assert Image.MAX_IMAGE_PIXELS == 70_000_000

    def test_it_does_not_lower_pillows_pixel_limit(self, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 89_478_485)
        load_pixels(photograph(), DecodeBudget(700))
        assert Image.MAX_IMAGE_PIXELS == 89_478_485


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_undone(orientation, format):
    image = photograph("coffee", (301, 200))
    options = {"WEBP": {"lossless": True, "method": 0}, "AVIF": {"quality": 95}, "JPEG": {"quality": 97}}
    pixels = load_pixels(rotated(image, orientation, format, **options.get(format, {}))).astype(int)
    difference = np.abs(pixels - load_pixels(image))
    assert difference.mean() < 4  # a wrong rotation gives 20 and more
    if format in ("PNG", "TIFF", "WEBP"):
        assert not difference.any()


@pytest.mark.parametrize("box", [(0, 0, 40, 40), (10, 20, 30, 40)])
def test_the_first_frame_of_an_animated_png_that_hides_its_default_image(box):
    frame = Image.new("RGBA", (40, 40))
    frame.paste((0, 255, 0, 255), box)
    animation = encode(
        Image.new("RGBA", (40, 40), "red"),
        "PNG",
        save_all=True,
        default_image=True,
        append_images=[frame, Image.new("RGBA", (40, 40), "blue")],
    )
    settings = {"mode": "squash", "input_size": 40}
    assert np.array_equal(load_pixels(animation, **settings), load_pixels(encode(frame, "PNG"), **settings))
    assert (load_pixels(animation, mode="keras") == (255, 0, 0)).all()  # what Keras reads


def test_threads_can_decode_at_the_same_time_even_the_same_image():
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


def test_decode_returns_the_whole_image_upright():
    decoded = decode(from_object(rotated(photograph("coffee"), 6, "PNG")))
    assert decoded.image.mode == "RGB" and decoded.size == decoded.image.size == (600, 400)
    assert np.array_equal(np.asarray(decoded.image), np.asarray(photograph("coffee")))


def test_nothing_heavy_is_imported_before_the_first_image():
    script = (
        "import sys; from densenet_cli.images import decoding, preprocessing, sources\n"
        "print([name for name in ('PIL', 'numpy', 'requests', 'glob', 'logging') if name in sys.modules])"
    )
    assert run(script).stdout == "[]\n"


def test_a_jpeg_imports_no_other_plugin(tmp_path):
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


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
