"""Results are reproducible: the same image gives the same bytes in any batch, order, and thread, and after resuming."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from PIL import Image

from densenet_cli import Classifier, engines
from densenet_cli.engines import precision
from tests.support.command import densenet
from tests.support.eager_processes import use_at_once

IMAGES = 200
SINGLE_IMAGES = 20


PRECISIONS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name not in precision.supported(), reason=f"this processor does not compute in {name}"
        ),
    )
    for name in engines.PRECISIONS
]


@pytest.fixture(scope="module", params=PRECISIONS)
def precision_name(request):
    return request.param


@pytest.fixture(scope="module")
def images(photographs, tmp_path_factory):
    """Crops of photographs, in many sizes and several formats."""
    rng = random.Random(5)
    folder = tmp_path_factory.mktemp("crops")
    for number in range(IMAGES):
        with Image.open(photographs[number % len(photographs)]) as photograph:
            width, height = (rng.randrange(40, side) for side in photograph.size)
            left, top = rng.randrange(photograph.width - width), rng.randrange(photograph.height - height)
            crop = photograph.crop((left, top, left + width, top + height))
        crop.save(folder / f"{number:03}{('.jpg', '.png', '.bmp')[number % 3]}", quality=90, compress_level=1)
    return sorted(map(str, folder.iterdir()))


def int8_settings(images, precision_name) -> dict[str, object]:
    """Return what int8 requires: images, and that few of them agree well enough."""
    return {"int8_images": Path(images[0]).parent, "allow_low_agreement": True} if precision_name == "int8" else {}


def predict_all(images, precision_name, **settings) -> dict[str, str]:
    """Return source -> record. The bundled model has real weights."""
    classifier = Classifier("tiny", precision=precision_name, **int8_settings(images, precision_name), **settings)
    return {prediction.source: prediction.to_json() for prediction in classifier.predict_many(images)}


@pytest.fixture(scope="module")
def expected(images, precision_name, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DENSENET_CACHE", str(tmp_path_factory.mktemp("cache")))
        records = predict_all(images, precision_name, batch_size=1, threads=1)
    assert list(records) == images
    assert len({record.partition("predictions")[2] for record in records.values()}) > 0.9 * IMAGES
    return records


@pytest.mark.parametrize(("batch_size", "threads"), [(2, 1), (7, 3), (32, 16)])
def test_any_batch_size_threads_and_order(images, expected, precision_name, batch_size, threads):
    order = random.Random(batch_size).sample(images, len(images))
    records = predict_all(order, precision_name, batch_size=batch_size, threads=threads)
    assert list(records) == order
    assert records == expected


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_single_images(images, expected, precision_name, threads):
    settings = int8_settings(images, precision_name)
    classifier = Classifier("tiny", precision=precision_name, threads=threads, **settings)
    for image in images[:: IMAGES // SINGLE_IMAGES]:
        assert classifier.predict(image).to_json() == expected[image]


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes(images, expected, precision_name, processes, monkeypatch):
    use_at_once(monkeypatch.setattr)
    order = random.Random(processes).sample(images, len(images))
    records = predict_all(order, precision_name, processes=processes)
    assert list(records) == order
    assert records == expected


def test_resuming_with_other_threads_and_batches(images, expected, precision_name, tmp_path):
    output = tmp_path / "out.jsonl"
    arguments = ["predict", "--variant", "tiny", "--precision", precision_name, "-o", output]
    if precision_name == "int8":
        arguments += ["--int8-images", Path(images[0]).parent, "--allow-low-agreement"]
    assert densenet(*arguments, *images[:81], "--threads", 1, "--batch-size", 3).status == 0
    output.write_bytes(output.read_bytes()[:-40])
    assert densenet(*arguments, *images, "--resume", "--threads", 4, "--batch-size", 16).status == 0
    assert output.read_text() == "".join(f"{expected[image]}\n" for image in images)


@pytest.mark.parametrize("other", PRECISIONS[1:])
def test_resuming_with_another_precision_is_refused(images, other, tmp_path):
    arguments = ["predict", "--variant", "tiny", "-o", tmp_path / "out.jsonl", images[0]]
    assert densenet(*arguments).status == 0
    if other == "int8":
        arguments += ["--int8-images", Path(images[0]).parent, "--allow-low-agreement"]
    result = densenet(*arguments, "--precision", other, "--resume")
    assert result.status == 2
    assert "precision" in result.err
