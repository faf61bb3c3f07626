"""The estimated memory of decoding covers what decoding uses (measured on Linux), and threads share a budget."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from densenet_cli.errors import ImageTooLargeError
from densenet_cli.images.memory import MEGABYTE, DecodeBudget
from tests.support.color_profiles import cmyk_profile, gray_profile, rgb_profile
from tests.support.images import ENCODINGS, PILLOW_MODES, animation, encode, photograph, png, rotated

ROOT = Path(__file__).parents[2]

SIZE = (1400, 1000)
SMALL = (600, 400)
"""For formats that Pillow decodes in Python."""

MARGIN = 3 << 20
"""Bytes by which measurements differ between runs, because of what the allocator keeps."""

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured through /proc")


@pytest.fixture(scope="module")
def measure() -> Iterator[Callable[..., tuple[int, int]]]:
    """Return a function that decodes a file and returns the bytes reserved and the bytes used."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.decoding_memory"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin and process.stdout

        def ask(path: Path, exact: bool = True, gray: bool = False) -> tuple[int, int]:
            process.stdin.write(f"{'gray' if gray else 'exact' if exact else 'reduced'} {path}\n")
            process.stdin.flush()
            reserved, used = process.stdout.readline().split()
            return int(reserved), int(used)

        yield ask
        process.stdin.close()


def netpbm(header: bytes, channels: int, dtype: str, maximum: int) -> Callable[[], bytes]:
    def make() -> bytes:
        levels = np.arange(SMALL[0] * SMALL[1] * channels) % (maximum + 1)
        return header + b" %d %d %d\n" % (*SMALL, maximum) + levels.astype(dtype).tobytes()

    return make


def netpbm_text() -> bytes:
    return b"P3 %d %d 255\n" % SMALL + b"255 17 4 " * (SMALL[0] * SMALL[1])


def run_length_bmp() -> bytes:
    row = b"".join(bytes([10, index % 256]) for index in range(SIZE[0] // 10)) + b"\0\0"
    data = row * SIZE[1] + b"\0\1"
    palette = bytes(index // 4 for index in range(1024))
    info = struct.pack("<IiiHHIIiiII", 40, *SIZE, 1, 8, 1, len(data), 0, 0, 256, 256)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(data), 0, 0, 54 + 1024) + info + palette + data


def tiff(pixels: np.ndarray, **options: str | None) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **{"photometric": "minisblack", **options})
    return file.getvalue()


def tiff_planes(compression: str | None) -> bytes:
    planes = np.moveaxis(np.asarray(large()).astype("u2") * 257, -1, 0)
    return tiff(planes, photometric="rgb", planarconfig="separate", compression=compression)


def deep_colors() -> np.ndarray:
    return np.asarray(large()).astype("u2") << 4 | 7


def large(mode: str = "RGB") -> Image.Image:
    return PILLOW_MODES[mode](photograph("coffee", SIZE))


SPECIAL_CASES: dict[str, Callable[[], bytes]] = {
    "AVIF 4:4:4": lambda: encode(large(), "AVIF", subsampling="4:4:4"),
    "JPEG2000 irreversible": lambda: encode(large(), "JPEG2000", irreversible=True),
    "JPEG2000 in blocks of 4x4": lambda: encode(photograph(), "JPEG2000", codeblock_size=(4, 4)),
    "JPEG2000 in small precincts": lambda: encode(
        photograph(), "JPEG2000", codeblock_size=(4, 4), precinct_size=(16, 16), num_resolutions=3
    ),
    "PPM as text": netpbm_text,
    "PGM of 1000 levels": netpbm(b"P5", 1, ">u2", 1000),
    "PPM of 1000 levels": netpbm(b"P6", 3, ">u2", 1000),
    "BMP run-length encoded": run_length_bmp,
    "TIFF in one strip": lambda: encode(large(), "TIFF", compression="tiff_lzw", tiffinfo={278: SIZE[1]}),
    "TIFF of 16-bit planes": lambda: tiff_planes(None),
    "TIFF of compressed 16-bit planes": lambda: tiff_planes("deflate"),
    "PNG of 12-bit colors": lambda: png(deep_colors().reshape(SIZE[1], -1), 16, 2),
    "TIFF of 12-bit colors": lambda: tiff(deep_colors(), photometric="rgb", compression="deflate"),
    "TIFF of unsigned 32-bit integers": lambda: tiff(np.arange(SIZE[0] * SIZE[1], dtype="u4").reshape(SIZE) * 3000),
    "TIFF of 16 bits with 0 as white": lambda: tiff(np.zeros(SIZE, "u2"), photometric="miniswhite"),
    "GIF animation": lambda: animation("GIF", frames=2, size=SMALL),
    "WebP animation": lambda: animation("WEBP", frames=2, size=SIZE),
    "JPEG rotated": lambda: rotated(large(), 6),
    "PNG rotated": lambda: rotated(large(), 6, "PNG"),
    "TIFF rotated": lambda: rotated(large(), 6, "TIFF", compression="tiff_lzw"),
    "elongated": lambda: encode(photograph("coffee", (20, 70_000)), "PNG"),
    "animated PNG with a hidden image": lambda: encode(
        large(), "PNG", save_all=True, default_image=True, append_images=[photograph("rocket", SIZE)] * 2
    ),
    "RGB with a color profile": lambda: encode(large(), "PNG", icc_profile=rgb_profile()),
    "RGBA with a color profile": lambda: encode(large("RGBA"), "PNG", icc_profile=rgb_profile()),
    "P with a color profile": lambda: encode(large("P"), "PNG", icc_profile=rgb_profile()),
    "P transparent with a color profile": lambda: encode(large("P transparent"), "PNG", icc_profile=rgb_profile()),
    "L with a color profile": lambda: encode(large("L"), "PNG", icc_profile=gray_profile()),
    "LA with a color profile": lambda: encode(large("LA"), "PNG", icc_profile=gray_profile()),
    "CMYK with a color profile": lambda: encode(large("CMYK"), "JPEG", icc_profile=cmyk_profile()),
    "icon": lambda: encode(photograph("coffee", (256, 256)), "ICO"),
}
OVERESTIMATED = ("JPEG2000 in small precincts", "elongated")
"""Rare images for which much more is reserved than they use."""

CASES = {
    str(encoding): (lambda e=encoding: e.encode(large()))
    for encoding in ENCODINGS
    if encoding.format != "ICO"
    and (encoding.options.get("compression") in (None, "jpeg", "tiff_lzw") or encoding.mode in ("1", "RGB"))
}


@linux_only
@pytest.mark.parametrize("name", [*CASES, *SPECIAL_CASES])
def test_decoding_uses_no_more_than_is_reserved(name, measure, tmp_path):
    (tmp_path / "x").write_bytes({**CASES, **SPECIAL_CASES}[name]())
    reserved, used = measure(tmp_path / "x")
    assert used <= reserved + MARGIN
    if name not in OVERESTIMATED:  # images would wait or be rejected for nothing
        assert reserved <= 2 * used + 2 * MARGIN


@linux_only
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_grayscale_input(mode, measure, tmp_path):
    (tmp_path / "x").write_bytes(encode(large(mode), "PNG"))
    reserved, used = measure(tmp_path / "x", gray=True)
    assert used <= reserved + MARGIN and reserved <= 2 * used + 2 * MARGIN


FRAMES = {
    "GIF": {"transparency": 0, "disposal": 2},
    "PNG RGB": {},
    "PNG RGBA": {"disposal": 2},
    "PNG RGB with a color profile": {"icc_profile": rgb_profile()},
    "WEBP RGBA": {"method": 0},
    "AVIF RGBA": {"speed": 10},
}


@linux_only
@pytest.mark.parametrize("name", FRAMES)
def test_frames_of_animations(name, measure, tmp_path):
    format, _, mode = name.partition(" ")
    frames = [
        large("RGBA" if mode == "RGBA" else "RGB"),
        photograph("rocket", SIZE),
        large(),
        photograph("chelsea", SIZE),
    ]
    frames = [frame.convert("RGBA") if mode == "RGBA" else frame for frame in frames]
    options = dict(FRAMES[name], save_all=True, append_images=frames[1:])
    (tmp_path / "x").write_bytes(encode(frames[0], format, **options))
    reserved, used = measure(tmp_path / "x[3]")
    assert used <= reserved + MARGIN
    assert reserved <= 4 * used


@linux_only
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"progressive": True, "subsampling": 0}])
def test_a_jpeg_is_estimated_at_its_reduced_scale(options, measure, tmp_path):
    (tmp_path / "x").write_bytes(encode(photograph("coffee", (6000, 4000)), "JPEG", **options))
    reserved, used = measure(tmp_path / "x", exact=False)
    assert used <= reserved + MARGIN
    assert reserved < 6000 * 4000 * (2 if not options else 7 if options.get("subsampling") == 0 else 4)


class TestBudget:
    def test_an_image_beyond_the_budget_is_rejected_at_once(self):
        budget = DecodeBudget(10)
        with budget.reserve(10 * MEGABYTE), pytest.raises(ImageTooLargeError, match=r"11 MB.*10 MB"):
            budget.reserve(10 * MEGABYTE + 1).__enter__()

    def test_threads_never_exceed_it_together(self):
        budget = DecodeBudget(10)
        lock, reserved, peak = threading.Lock(), 0, 0

        def work(megabytes: int) -> None:
            nonlocal reserved, peak
            for _ in range(20):
                with budget.reserve(megabytes * MEGABYTE):
                    with lock:
                        reserved += megabytes
                        peak = max(peak, reserved)
                    time.sleep(0.0005)
                    with lock:
                        reserved -= megabytes

        threads = [threading.Thread(target=work, args=(megabytes,)) for megabytes in (1, 2, 3, 4, 5, 10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        assert 5 < peak <= 10
        with budget.reserve(10 * MEGABYTE):
            pass

    def test_later_small_images_do_not_overtake_a_large_one(self):
        budget = DecodeBudget(10)
        order = []

        def work(name: str, megabytes: int) -> None:
            with budget.reserve(megabytes * MEGABYTE):
                order.append(name)

        with budget.reserve(5 * MEGABYTE):
            large = threading.Thread(target=work, args=("large", 10))
            large.start()
            wait_until(lambda: budget._queue)
            small = threading.Thread(target=work, args=("small", 1))
            small.start()
            wait_until(lambda: len(budget._queue) == 2)
            assert order == []
        large.join(10)
        small.join(10)
        assert order == ["large", "small"]

    def test_an_exception_releases_the_reservation(self):
        budget = DecodeBudget(1)
        for _ in range(3):
            with pytest.raises(RuntimeError), budget.reserve(MEGABYTE):
                raise RuntimeError


def wait_until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
