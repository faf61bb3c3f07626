"""Hostile images through the whole command, and the memory of the whole process; ``fuzz_images`` does many more."""

from __future__ import annotations

import json
import os
import sys

import pytest
from PIL import Image

from densenet_cli.classifier import DECODE_MEMORY
from densenet_cli.images.memory import MEGABYTE
from tests.images.fuzz_images import MOST_MEMORY, classify, run
from tests.support.images import encode
from tests.support.networks import tiny_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.mark.parametrize("seed", [1, 2])
def test_each_ends_as_a_prediction_or_one_error_row(seed, weights):
    done = run(seed, weights, count=120)
    assert done["answered"] > 20 and done["UnreadableImage"] > 30 and done["ImageTooLarge"] > 0


LARGE = (2600, 2000)
WORST = (
    ("JPEG2000", "RGBA", {}),
    ("WEBP", "RGBA", {"lossless": True, "method": 0}),
    ("AVIF", "RGBA", {"speed": 10}),
    ("PNG", "RGBA", {"compress_level": 1}),
    ("PNG", "LA", {"compress_level": 1}),
    ("TIFF", "I;16", {"compression": "tiff_lzw"}),
    ("TIFF", "F", {}),
    ("JPEG", "CMYK", {"progressive": True}),
)
"""What takes most while it is decoded, each in its own way."""

BESIDE = 150 * MEGABYTE
"""For the interpreter, a tiny network and the images that wait for it: 72 MB were measured, without large ones."""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' allocators keep freed memory as they like")
def test_a_gigabyte_holds_the_worst_mixture_with_any_number_of_threads(weights, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number, (format, mode, options) in enumerate(WORST):
        (folder / f"0-{number}.png").write_bytes(encode(Image.new(mode, LARGE), format, **options))
        for again in range(1, 4):
            os.link(folder / f"0-{number}.png", folder / f"{again}-{number}.png")
    report = classify(str(folder), weights, "--threads", "64")
    assert (report["status"], report["err"]) == (0, "")
    assert len([json.loads(line) for line in report["out"].splitlines()]) == 4 * len(WORST)
    assert report["memory"] <= DECODE_MEMORY * MEGABYTE + BESIDE <= MOST_MEMORY
