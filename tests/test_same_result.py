"""The same image gives the same bytes: alone, in any batch, with any threads, in any order, after resuming."""

from __future__ import annotations

import random

import pytest
from PIL import Image

from densenet_cli import Classifier
from tests.support.command import densenet

IMAGES = 200
ALONE = 20


@pytest.fixture(scope="module")
def images(photographs, tmp_path_factory):
    """Pieces of photographs, of many sizes and in several formats."""
    rng = random.Random(5)
    folder = tmp_path_factory.mktemp("pieces")
    for number in range(IMAGES):
        with Image.open(photographs[number % len(photographs)]) as whole:
            width, height = (rng.randrange(40, side) for side in whole.size)
            left, top = rng.randrange(whole.width - width), rng.randrange(whole.height - height)
            piece = whole.crop((left, top, left + width, top + height))
        piece.save(folder / f"{number:03}{('.jpg', '.png', '.bmp')[number % 3]}", quality=90, compress_level=1)
    return sorted(map(str, folder.iterdir()))


def records(images, **settings) -> dict[str, str]:
    """The network that ships: real weights, on the default engine."""
    classifier = Classifier("tiny", **settings)
    return {prediction.source: prediction.to_json() for prediction in classifier.predict_many(images)}


@pytest.fixture(scope="module")
def expected(images, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DENSENET_CACHE", str(tmp_path_factory.mktemp("cache")))
        found = records(images, batch_size=1, threads=1)
    assert list(found) == images
    assert len({record.partition("predictions")[2] for record in found.values()}) > 0.9 * IMAGES
    return found


@pytest.mark.parametrize(("batch_size", "threads"), [(2, 1), (7, 3), (32, 16)])
def test_in_any_batch_with_any_threads_in_any_order(images, expected, batch_size, threads):
    order = random.Random(batch_size).sample(images, len(images))
    found = records(order, batch_size=batch_size, threads=threads)
    assert list(found) == order
    assert found == expected


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_alone(images, expected, threads):
    classifier = Classifier("tiny", threads=threads)
    for image in images[:: IMAGES // ALONE]:
        assert classifier.predict(image).to_json() == expected[image]


def test_after_resuming_with_other_threads_and_batches(images, expected, tmp_path):
    output = tmp_path / "out.jsonl"
    arguments = ["predict", "--variant", "tiny", "-o", output]
    assert densenet(*arguments, *images[:81], "--threads", 1, "--batch-size", 3).status == 0
    output.write_bytes(output.read_bytes()[:-40])
    assert densenet(*arguments, *images, "--resume", "--threads", 4, "--batch-size", 16).status == 0
    assert output.read_text() == "".join(f"{expected[image]}\n" for image in images)
