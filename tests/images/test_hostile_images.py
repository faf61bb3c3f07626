"""The whole command classifies hostile images in bounded memory. ``fuzz_images`` tries many more."""

from __future__ import annotations

import os
import sys

import pytest
from PIL import Image

from densenet_cli.images import DECODE_MEMORY
from densenet_cli.images.memory import MEGABYTE
from tests.images.fuzz_images import MAX_MEMORY, check, classify, run
from tests.support.images import encode


@pytest.mark.parametrize("seed", [1, 2])
def test_each_image_gives_a_prediction_or_one_error(seed, weights):
    done = run(seed, weights, count=120)
    assert done["predicted"] > 20 and done["UnreadableImage"] > 30 and done["ImageTooLarge"] > 0


LARGE = (2600, 2000)
LARGEST = (
    ("JPEG2000", "RGBA", {}),
    ("WEBP", "RGBA", {"lossless": True, "method": 0}),
    ("AVIF", "RGBA", {"speed": 10}),
    ("PNG", "RGBA", {"compress_level": 1}),
    ("PNG", "LA", {"compress_level": 1}),
    ("TIFF", "I;16", {"compression": "tiff_lzw"}),
    ("TIFF", "F", {}),
    ("JPEG", "CMYK", {"progressive": True}),
)
"""Encodings that need the most memory for decoding."""

OVERHEAD = 150 * MEGABYTE
"""For the interpreter, a tiny network, and decoded images. 72 MB were measured without large images."""


@pytest.mark.skipif(sys.platform != "linux", reason="other allocators may keep freed memory")
def test_the_largest_images_with_many_threads_stay_below_a_gigabyte(weights, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number, (format, mode, options) in enumerate(LARGEST):
        (folder / f"0-{number}.png").write_bytes(encode(Image.new(mode, LARGE), format, **options))
        for copy in range(1, 4):
            os.link(folder / f"0-{number}.png", folder / f"{copy}-{number}.png")
    report = classify(str(folder), weights, "--threads", "64")
    assert report["status"] == 0
    assert check([f"{copy}-{number}.png" for copy in range(4) for number in range(len(LARGEST))], report)
    assert report["memory"] <= DECODE_MEMORY * MEGABYTE + OVERHEAD <= MAX_MEMORY
