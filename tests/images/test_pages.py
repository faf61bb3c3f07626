"""Pages of TIFF files, frames of animations, and images in MPO files."""

from __future__ import annotations

import gc
import io
import itertools
import random
import struct
import threading
import weakref
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from densenet_cli.errors import ImageError, SourceNotFoundError, UnreadableImageError
from densenet_cli.images import pages, reading
from densenet_cli.images.decoding import load
from densenet_cli.images.isolation import WorkerPool
from densenet_cli.images.memory import DecodeBudget
from densenet_cli.images.pages import expand_pages, locate
from densenet_cli.images.preprocessing import Preprocessing
from densenet_cli.images.sources import Source, expand, from_object
from tests.support.images import PHOTOGRAPHS, animation, encode, photograph

SIZE = (120, 80)
PREPROCESSING = Preprocessing("squash", 64, exact=True)
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True, "exact": True}, "TIFF": {"compression": "tiff_lzw"}}
FORMATS = ("TIFF", "GIF", "PNG", "WEBP", "AVIF")


def images(count: int = 4) -> list[Image.Image]:
    return [photograph(PHOTOGRAPHS[index % len(PHOTOGRAPHS)], SIZE) for index in range(count)]


def many(format: str, count: int = 4, **options) -> bytes:
    first, *others = images(count)
    return encode(first, format, save_all=True, append_images=others, **options)


def stack(*pages: np.ndarray | tuple[np.ndarray, int], **options) -> bytes:
    """Return a TIFF file. A page is its pixels, or its pixels and its subfile type."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file, **options) as writer:
        for page in pages:
            pixels, kind = page if isinstance(page, tuple) else (page, 0)
            color = "rgb" if pixels.ndim == 3 else "mask" if kind == 4 else "minisblack"
            writer.write(pixels, subfiletype=kind, photometric=color, metadata=None)
    return file.getvalue()


def flat(level: int, size: int = 16) -> np.ndarray:
    return np.full((size, size, 3), level, np.uint8)


def split(data: bytes) -> list[Source]:
    return list(expand_pages([from_object(data)]))


def names(sources) -> list[str]:
    return [source.name for source in sources]


def pixels(source: Source | bytes, **settings) -> np.ndarray:
    return load(from_object(source), Preprocessing("squash", 64, exact=True, **settings)).pixels


def levels(data: bytes) -> list[int | str]:
    """Return the gray level of each page of a file, or the message of its error."""
    found: list[int | str] = []
    for source in split(data):
        try:
            found.append(int(pixels(source)[0, 0, 0, 0]))
        except ImageError as error:
            found.append(str(error))
    return found


class TestExpansion:
    @pytest.mark.parametrize("format", LOSSLESS)
    def test_a_page_equals_the_same_image_in_a_file_of_its_own(self, format):
        sources = split(many(format, **LOSSLESS[format]))
        assert names(sources) == [f"<bytes>[{page}]" for page in range(4)]
        for source, image in zip(sources, images(), strict=True):
            assert np.array_equal(pixels(source), pixels(encode(image, "PNG")))

    @pytest.mark.parametrize("format", FORMATS)
    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_the_number_of_pages_and_the_first_one(self, format, count):
        data = many(format, count, **LOSSLESS.get(format, {}))
        sources = split(data)
        assert names(sources) == (["<bytes>"] if count == 1 else [f"<bytes>[{page}]" for page in range(count)])
        assert np.array_equal(pixels(sources[0]), pixels(data))
        assert [load(source, PREPROCESSING).notes for source in sources] == [()] * count

    @pytest.mark.parametrize("format", ["GIF", "AVIF"])
    def test_frames_are_those_of_pillow(self, format):
        data = many(format)
        with Image.open(io.BytesIO(data)) as image:
            for number, source in enumerate(split(data)):
                image.seek(number)
                assert np.array_equal(pixels(source), pixels(encode(image.convert("RGB"), "PNG")))

    @pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
    def test_frames_that_change_a_part(self, format):
        """Transparent frames of other sizes and disposals, drawn over each other."""
        frames = []
        for number in range(6):
            frame = Image.new("RGBA", SIZE, (0, 0, 0, 0))
            frame.paste((40 * number, 255 - 40 * number, 90, 255), (10 * number, 5 * number, 60 + 10 * number, 40))
            frames.append(frame)
        disposal = {"disposal": [0, 1, 2, 1, 2, 0]} if format != "WEBP" else {"lossless": True}
        data = encode(frames[0], format, save_all=True, append_images=frames[1:], **disposal)
        sources = split(data)
        with Image.open(io.BytesIO(data)) as image:
            assert len(sources) == image.n_frames
            for number, source in enumerate(sources):
                image.seek(number)
                assert np.array_equal(pixels(source), pixels(encode(image.convert("RGBA"), "PNG")))

    def test_a_hidden_default_image_is_not_a_page(self):
        first, *others = images()
        data = encode(first, "PNG", save_all=True, append_images=others, default_image=True)
        sources = split(data)
        assert len(sources) == 3
        for source, image in zip(sources, others, strict=True):
            assert np.array_equal(pixels(source), pixels(encode(image, "PNG")))
        only_one = encode(first, "PNG", save_all=True, append_images=others[:1], default_image=True)
        assert names(split(only_one)) == ["<bytes>"] and load(from_object(only_one), PREPROCESSING).notes == ()

    @pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}])
    def test_reduced_versions_and_masks_are_not_pages(self, options):
        data = stack(
            (flat(9), 1), flat(10), (flat(11), 1), (np.ones((16, 16), bool), 4), flat(13), (flat(14), 1), **options
        )
        assert levels(data) == [10, 13]
        assert load(from_object(data), PREPROCESSING).notes == ("more_pages",)
        pyramid = stack(flat(10), (flat(11, 8), 1), (flat(12, 4), 1))
        assert names(split(pyramid)) == ["<bytes>"] and load(from_object(pyramid), PREPROCESSING).notes == ()

    def test_pages_of_different_kinds(self):
        """Each page is checked and corrected by its own tags, even if the first page is refused."""
        gray = np.arange(256, dtype=np.uint16).reshape(16, 16) << 8
        data = stack(np.zeros((16, 16), np.float16), gray, flat(7), np.linspace(0, 1, 256, dtype="f4").reshape(16, 16))
        sources = split(data)
        with pytest.raises(UnreadableImageError, match="16 bits"):
            load(sources[0], PREPROCESSING)
        assert np.array_equal(pixels(sources[1]), pixels(stack(gray)))
        assert pixels(sources[2])[0, 0, 0].tolist() == [7, 7, 7]
        assert np.array_equal(pixels(sources[3]), pixels(stack(np.linspace(0, 1, 256, dtype="f4").reshape(16, 16))))

    def test_formats_with_one_image(self):
        for format in ("JPEG", "BMP", "PPM", "ICO", "JPEG2000", "TGA"):
            data = encode(photograph("coffee", (64, 64)), format)
            (source,) = split(data)
            assert source.name == "<bytes>" and np.array_equal(pixels(source), pixels(data))

    def test_what_is_no_file_or_a_page_already_stays(self):
        image = photograph()
        given = [from_object(image), from_object(np.asarray(image)), Source("x[1]", many("GIF"), "bytes", page=1)]
        assert list(expand_pages(given)) == given

    def test_urls_are_left_alone_offline(self):
        (source,) = expand_pages([from_object("https://example.invalid/x.tif")], offline=True)
        assert source.kind == "url"

    def test_missing_files_text_and_empty_files(self, tmp_path):
        (tmp_path / "text.tif").write_text("text")
        (tmp_path / "empty.tif").write_bytes(b"")
        missing, text, empty = expand_pages(from_object(tmp_path / f"{name}.tif") for name in ("no", "text", "empty"))
        assert isinstance(missing.error, SourceNotFoundError) and missing.name == str(tmp_path / "no.tif")
        for source in (text, empty):
            with pytest.raises(UnreadableImageError):
                load(source, PREPROCESSING)

    def test_a_file_object_that_fails(self):
        class Broken(io.BytesIO):
            def read(self, size=-1):
                raise RuntimeError("no")

        (source,) = expand_pages([from_object(Broken())])
        assert source.kind == "nothing" and isinstance(source.error, UnreadableImageError)

    def test_expansion_is_lazy(self):
        def sources():
            yield from_object(stack(flat(1), flat(2)))
            raise AssertionError("not yet")

        assert names(itertools.islice(expand_pages(sources()), 2)) == ["<bytes>[0]", "<bytes>[1]"]


class TestDamage:
    def test_a_damaged_page_of_a_tiff_is_one_error(self):
        data = bytearray(many("TIFF", compression="tiff_lzw"))
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            offset, length = file.pages[2].dataoffsets[0], file.pages[2].databytecounts[0]
        data[offset : offset + length] = b"\xff" * length
        results = levels(bytes(data))
        assert [isinstance(result, str) for result in results] == [False, False, True, False]

    @pytest.mark.parametrize("format", ["GIF", "WEBP"])
    def test_frames_after_a_damaged_one_are_errors(self, format):
        """They are drawn over it."""
        data = bytearray(many(format, 6))
        start = len(data) * 3 // 6
        data[start : start + len(data) // 8] = bytes(len(data) // 8)
        sources = split(bytes(data))
        failed = [isinstance(result, str) for result in levels(bytes(data))]
        assert not failed[0] and failed == sorted(failed) and len(sources) == len(failed)

    def test_a_chain_that_ends_in_damage(self):
        data = bytearray(stack(flat(1), flat(2), flat(3)))
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages[1]
            position = page.offset + 2 + 12 * len(page.tags)
        data[position : position + 4] = struct.pack("<I", len(data) + 100)
        sources = split(bytes(data))
        assert names(sources) == ["<bytes>[0]", "<bytes>[1]", "<bytes>[2]"]
        assert levels(bytes(data))[:2] == [1, 2] and sources[2].kind == "nothing"

    def test_a_loop_of_directories_ends(self):
        data = bytearray(stack(flat(1), flat(2)))
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            first, last = file.pages[0], file.pages[1]
            position = last.offset + 2 + 12 * len(last.tags)
        data[position : position + 4] = struct.pack("<I", first.offset)
        assert levels(bytes(data)) == [1, 2]

    def test_more_pages_than_the_limit(self, monkeypatch):
        monkeypatch.setattr(pages, "MAX_PAGES", 3)
        assert levels(stack(*map(flat, range(3)))) == [0, 1, 2]
        *found, error = levels(stack(*map(flat, range(5))))
        assert found == [0, 1, 2] and "more than 3 pages" in error

    def test_claimed_frames_need_data(self):
        data = many("PNG")
        position = data.index(b"acTL") + 4
        claimed = data[:position] + struct.pack(">I", 1 << 30) + data[position + 4 :]
        assert len(split(claimed)) == 4
        avif = many("AVIF")
        position = avif.index(b"stsz") + 12
        claimed = avif[:position] + struct.pack(">I", 1 << 30) + avif[position + 4 :]
        assert len(split(claimed)) <= len(claimed)

    def test_a_canvas_that_grows_is_counted(self):
        """The second frame of a GIF makes the canvas 20,000 times as large."""
        data = bytearray(many("GIF", 2, duration=50))
        position = data.rindex(b"\x21\xf9\x04") + 8
        assert data[position : position + 1] == b","
        data[position + 5 : position + 9] = struct.pack("<HH", 60_000, 60_000)
        second = split(bytes(data))[1]
        with pytest.raises(ImageError, match="more than the limit"):
            load(second, PREPROCESSING, DecodeBudget(100))

    @pytest.mark.parametrize("format", FORMATS)
    def test_random_damage_gives_errors_only(self, format):
        generator = random.Random(15)
        original = many(format, 3, **LOSSLESS.get(format, {}))
        for _ in range(60):
            data = bytearray(original)
            for _ in range(generator.randint(1, 20)):
                data[generator.randrange(min(len(data), 600) if generator.random() < 0.6 else len(data))] ^= (
                    1 << generator.randrange(8)
                )
            data = data[: generator.randint(1, len(data))] if generator.random() < 0.3 else data
            found = levels(bytes(data))
            assert 1 <= len(found) <= len(data)
            with suppress(ImageError):
                load(from_object(bytes(data)), PREPROCESSING)

    def test_a_truncated_last_frame(self):
        data = many("GIF", 3)
        cut = data[: len(data) - len(data) // 12]
        failed = [isinstance(result, str) for result in levels(cut)]
        assert failed == [False, False, True]
        last = split(cut)[-1]
        assert load(last, Preprocessing(truncated="accept")).notes == ("truncated",)


class TestOnePage:
    @pytest.mark.parametrize("format", FORMATS)
    def test_a_page_by_its_number(self, format, tmp_path):
        path = tmp_path / "x"
        path.write_bytes(many(format, **LOSSLESS.get(format, {})))
        every = list(expand_pages([from_object(path)]))
        for page in (3, 0, 1):
            (source,) = expand([f"{path}[{page}]"])
            assert source == from_object(f"{path}[{page}]") and source.name == every[page].name
            assert np.array_equal(pixels(source), pixels(every[page]))
        with pytest.raises(SourceNotFoundError, match=r"no page 4.*4 pages, numbered from 0 to 3"):
            load(from_object(f"{path}[4]"), PREPROCESSING)

    def test_only_the_first_page(self, tmp_path):
        path = tmp_path / "x.jpg"
        path.write_bytes(encode(photograph(), "JPEG"))
        assert np.array_equal(pixels(f"{path}[0]"), pixels(str(path)))
        with pytest.raises(SourceNotFoundError, match="only one page"):
            load(from_object(f"{path}[1]"), PREPROCESSING)

    def test_the_number_is_written_in_one_way(self, tmp_path):
        (tmp_path / "x.tif").write_bytes(stack(flat(1), flat(2)))
        (source,) = expand([f"{tmp_path}/x.tif[0001]"])
        assert source.name == f"{tmp_path}/x.tif[1]" and pixels(source)[0, 0, 0, 0] == 2

    @pytest.mark.parametrize("number", ["-1", "1.0", "", "٣", "1e3", "9999999999"])
    def test_other_brackets_are_globs(self, number, tmp_path):
        (tmp_path / "x.tif").write_bytes(stack(flat(1), flat(2)))
        (source,) = expand([f"{tmp_path}/x.tif[{number}]"])
        assert source.kind == "nothing" and source.page is None

    def test_a_file_of_that_name_is_itself(self, tmp_path):
        (tmp_path / "x.tif").write_bytes(stack(flat(1), flat(2)))
        (tmp_path / "x.tif[1]").write_bytes(stack(flat(3)))
        (source,) = expand([f"{tmp_path}/x.tif[1]"])
        assert source.page is None and pixels(source)[0, 0, 0, 0] == 3
        assert from_object(tmp_path / "x.tif[1]").page is None

    def test_without_such_a_file_it_is_a_glob(self, tmp_path):
        (tmp_path / "x1").write_bytes(stack(flat(3)))
        (source,) = expand([f"{tmp_path}/x[1]"])
        assert source.name == f"{tmp_path}/x1"
        (tmp_path / "x").mkdir()
        (source,) = expand([f"{tmp_path}/x[1]"])
        assert source.name == f"{tmp_path}/x1"

    def test_without_any_match(self, tmp_path):
        (source,) = expand([f"{tmp_path}/x.tif[2]"])
        assert isinstance(source.error, SourceNotFoundError)
        assert "page 2" in str(source.error) and "x.tif does not exist" in str(source.error)

    def test_urls(self):
        (source,) = expand(["https://user:secret@example.org/x.tif[12]"])
        assert (source.name, source.page) == ("https://example.org/x.tif[12]", 12)
        assert source.origin == "https://user:secret@example.org/x.tif"
        (source,) = expand(["https://example.org/?ids[0]"])
        assert source.page is None


class TestNotes:
    @pytest.mark.parametrize("format", FORMATS)
    def test_the_first_of_several_pages_is_noted(self, format):
        data = many(format)
        assert load(from_object(data), PREPROCESSING).notes == ("more_pages",)
        assert load(Source("x[0]", data, "bytes", page=0), PREPROCESSING).notes == ()
        assert load(from_object(animation(format, frames=1)), PREPROCESSING).notes == ()

    def test_with_a_damaged_second_directory(self):
        data = bytearray(stack(flat(1)))
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            position = file.pages[0].offset + 2 + 12 * len(file.pages[0].tags)
        data[position : position + 4] = struct.pack("<I", len(data) + 100)
        assert load(from_object(bytes(data)), PREPROCESSING).notes == ("more_pages",)
        assert names(split(bytes(data))) == ["<bytes>[0]", "<bytes>[1]"]

    def test_still_images_are_not_searched(self, monkeypatch):
        monkeypatch.setattr(pages, "_locate_pages", None)
        for format in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF"):
            load(from_object(encode(photograph(), format)), PREPROCESSING)


def mpo(kind: int) -> bytes:
    """Return an MPO file with three images, the last two of a type."""
    data = bytearray(many("MPO", 3))
    index = data.index(b"MPF\0") + 4
    order = "<>"[data[index : index + 1] == b"M"]
    (start,) = struct.unpack_from(f"{order}I", data, index + 4)
    (fields,) = struct.unpack_from(f"{order}H", data, index + start)
    for position in range(index + start + 2, index + start + 2 + 12 * fields, 12):
        tag, _, _, offset = struct.unpack_from(f"{order}HHII", data, position)
        if tag == 0xB002:
            for entry in (index + offset + 16, index + offset + 32):
                struct.pack_into(f"{order}I", data, entry, kind)
    return bytes(data)


class TestMpo:
    @pytest.mark.parametrize("kind", pages.MULTI_FRAME_TYPES)
    def test_further_images_are_pages(self, kind):
        data = mpo(kind)
        assert load(from_object(data), PREPROCESSING).notes == ("more_pages",)
        sources = split(data)
        assert len(sources) == 3
        with Image.open(io.BytesIO(data)) as image:
            for number, source in enumerate(sources):
                image.seek(number)
                assert np.array_equal(pixels(source), pixels(encode(image.convert("RGB"), "PNG")))

    @pytest.mark.parametrize("kind", [0, 0x010001, 0x010002])
    def test_previews_and_gain_maps_are_not(self, kind):
        data = mpo(kind)
        assert load(from_object(data), PREPROCESSING).notes == () and names(split(data)) == ["<bytes>"]

    def test_damage(self):
        generator = random.Random(3)
        original = mpo(pages.MULTI_FRAME_TYPES[0])
        end = original.index(b"MPF\0") + 100
        for _ in range(200):
            data = bytearray(original)
            data[generator.randrange(2, end)] ^= 1 << generator.randrange(8)
            levels(bytes(data))


class Opened(Counter):
    """Counts how often animations are opened."""

    def __init__(self, monkeypatch) -> None:
        original = reading.Animation._open_image

        def open_image(animation):
            self["opened"] += 1
            return original(animation)

        monkeypatch.setattr(reading.Animation, "_open_image", open_image)


class TestAnimation:
    @pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
    def test_frames_are_decoded_once(self, format, monkeypatch):
        opened = Opened(monkeypatch)
        for source in split(animation(format, 30, (32, 32))):
            load(source, PREPROCESSING)
        assert opened == {"opened": 1}

    def test_threads_take_turns(self, monkeypatch):
        data = animation("GIF", 60, (32, 32))
        expected = [pixels(source) for source in split(data)]
        opened = Opened(monkeypatch)
        sources = iter(list(enumerate(split(data))))
        lock, results = threading.Lock(), {}

        def work() -> None:
            while True:
                with lock:
                    number, source = next(sources, (None, None))
                if source is None:
                    return
                results[number] = pixels(source)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(np.array_equal(results[number], frame) for number, frame in enumerate(expected))
        assert opened["opened"] <= 6  # a frame can be overtaken before it waits

    def test_frames_can_be_skipped_and_revisited(self):
        sources = split(animation("PNG", 6))
        expected = [pixels(source) for source in sources]
        for number in (5, 2, 4, 4, 1, 0, 5):
            assert np.array_equal(pixels(sources[number]), expected[number])

    def test_the_file_is_closed_after_the_last_frame(self, tmp_path):
        path = tmp_path / "x.gif"
        path.write_bytes(animation("GIF", 3))
        sources = list(expand_pages([from_object(path)]))
        for source in sources:
            load(source, PREPROCESSING)
        assert sources[0].location._encoded is None

    @pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "AVIF"])
    def test_the_file_is_closed_with_the_last_reference(self, format, tmp_path):
        path = tmp_path / "x"
        path.write_bytes(animation(format, 3))
        sources = list(expand_pages([from_object(path)]))
        load(sources[1], PREPROCESSING)
        animated = weakref.ref(sources[0].location)
        stream = weakref.ref(animated()._encoded.stream)
        gc.disable()
        try:
            sources.clear()
            assert animated() is None and stream() is None
        finally:
            gc.enable()

    def test_a_failed_frame_is_not_decoded_again(self, monkeypatch):
        sources = split(animation("GIF", 9))
        sources[0].location.failed = 3
        assert load(sources[3], PREPROCESSING).notes == ()
        with pytest.raises(UnreadableImageError, match="Frame 3 is damaged"):
            load(sources[4], PREPROCESSING)


@pytest.fixture(scope="module")
def pool():
    pool = WorkerPool(DecodeBudget(200))
    yield pool
    pool.close()


class TestIsolated:
    @pytest.mark.parametrize("format", FORMATS)
    def test_the_same_pixels(self, pool, format, tmp_path):
        path = tmp_path / "x"
        path.write_bytes(many(format, 5))
        for origin in (path, path.read_bytes()):
            sources = list(expand_pages([from_object(origin)]))
            for source in sources:
                assert np.array_equal(pool.load(source, PREPROCESSING).pixels, pixels(source))
            for number in (4, 1, 1, 3):
                assert np.array_equal(pool.load(sources[number], PREPROCESSING).pixels, pixels(sources[number]))

    def test_one_page_and_notes(self, pool, tmp_path):
        path = tmp_path / "x.gif"
        path.write_bytes(many("GIF", 5))
        one = from_object(f"{path}[2]")
        assert np.array_equal(pool.load(one, PREPROCESSING).pixels, pixels(one))
        assert pool.load(from_object(path), PREPROCESSING).notes == ("more_pages",)
        with pytest.raises(SourceNotFoundError, match="no page 7"):
            pool.load(from_object(f"{path}[7]"), PREPROCESSING)
        data = mpo(pages.MULTI_FRAME_TYPES[1])
        for source in split(data):
            assert np.array_equal(pool.load(source, PREPROCESSING).pixels, pixels(source))

    def test_an_animation_stays_in_its_process(self, tmp_path):
        """Other images are decoded in other processes meanwhile, and no frame is decoded twice."""
        path = tmp_path / "x.gif"
        path.write_bytes(animation("GIF", 8))
        pool = WorkerPool(DecodeBudget(200))
        try:
            sources = list(expand_pages([from_object(path)]))
            still = from_object(encode(photograph(), "JPEG"))
            pool._release(pool._start())
            pool.load(sources[1], PREPROCESSING)
            (holder,) = [worker for worker in pool._idle if worker.animation]
            for source in sources[2:-1]:
                pool.load(still, PREPROCESSING)
                pool.load(source, PREPROCESSING)
                assert holder.animation is source.location
            assert holder.images == 6
            pool.load(sources[-1], PREPROCESSING)
            assert holder.animation is None
        finally:
            pool.close()

    def test_damage_is_the_same(self, pool):
        data = bytearray(many("GIF", 6))
        start = len(data) // 2
        data[start : start + len(data) // 8] = bytes(len(data) // 8)
        expected = levels(bytes(data))
        for source, result in zip(split(bytes(data)), expected, strict=True):
            if isinstance(result, str):
                with pytest.raises(UnreadableImageError) as caught:
                    pool.load(source, PREPROCESSING)
                assert str(caught.value) == result
            else:
                assert pool.load(source, PREPROCESSING).pixels[0, 0, 0, 0] == result


def test_locating_a_page_reads_a_stream_once():
    stream = io.BytesIO(many("TIFF"))
    source = locate(Source("x[2]", stream, "file", page=2))
    assert source.kind == "bytes" and source.location
    assert np.array_equal(pixels(source), pixels(encode(images()[2], "PNG")))


def test_many_pages_take_linear_time(tmp_path):
    """10,000 directories, each read once."""
    path = Path(tmp_path / "x.tif")
    path.write_bytes(stack(*[flat(number % 250, 2)[..., 0] for number in range(10_000)]))
    reads = Counter()
    from densenet_cli.images import tiff

    original = tiff.read_page

    def read_page(stream, offset):
        reads["directories"] += 1
        return original(stream, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiff, "read_page", read_page)
        sources = list(expand_pages([from_object(path)]))
        assert len(sources) == 10_000
        assert pixels(sources[9_999])[0, 0, 0, 0] == 9_999 % 250
    assert reads["directories"] <= 10_002
