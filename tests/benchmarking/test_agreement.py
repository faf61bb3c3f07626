"""Agreement of precisions: what is counted, and that bfloat16 agrees with float32 on the bundled model."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from densenet_cli import Classifier
from densenet_cli.benchmarking.agreement import measure_agreement
from densenet_cli.engines import precision
from densenet_cli.errors import UnreadableImageError, UsageError
from densenet_cli.images.sources import expand
from densenet_cli.pipeline import Result
from tests.support.fake_classifier import FakeClassifier, labeled

CROPS = 1500
MIN_SAME_FIRST = 0.98
"""Smallest share of crops with the same top-1 label.

``benchmarks/agreement.py`` requires 99% on validation images, which are not in this repository. The crops show parts of
eight photographs, so the model is less sure, and its two most probable labels are more often almost equally probable:
98.8% to 99.3% of them had the same top-1 label, depending on the crops.
"""


def test_counts():
    """Four images with labels: equal, another top-1 label, another top-5 set, and one that fails."""
    reference = [np.array(row, np.float32) / 100 for row in ((40, 20, 15, 10, 9, 6), (40, 38, 9, 6, 4, 3))]
    reference += [reference[0], UnreadableImageError("damaged")]
    rows = [reference[0], reference[1][[1, 0, 2, 3, 4, 5]], reference[0][[0, 1, 2, 3, 5, 4]], reference[3]]
    agreement = measure_agreement(FakeClassifier(rows), FakeClassifier(reference), labeled([0, 1, 5, 0]))
    assert (agreement.images, agreement.same_first, agreement.same_top5) == (3, 2, 2)
    assert agreement.max_difference == pytest.approx(0.03)
    assert agreement.mean_difference == pytest.approx((0 + 0.02 + 0.03) / 3)
    assert (agreement.labeled, agreement.correct, agreement.reference_correct) == (3, 2, 1)
    assert agreement.failed == {"3": "damaged"}
    values = agreement.to_dict()
    assert values["same_first_label"] == values["accuracy"] == pytest.approx(2 / 3)
    assert values["reference_accuracy"] == pytest.approx(1 / 3)


def test_images_without_labels_have_no_accuracy():
    row = np.array([0.75, 0.25], np.float32)
    source = SimpleNamespace(name="x")

    class Unlabeled(FakeClassifier):
        def stream(self, sources, outputs=("probabilities",)):
            return (Result(source, {"probabilities": row}) for _ in sources)

    agreement = measure_agreement(Unlabeled([row]), Unlabeled([row]), [source])
    assert (agreement.images, agreement.labeled) == (1, 0)
    assert agreement.to_dict()["accuracy"] is None


def test_no_image_is_an_error():
    with pytest.raises(UsageError, match="damaged"):
        measure_agreement(*[FakeClassifier([UnreadableImageError("damaged")])] * 2, labeled([0]))


@pytest.fixture
def crops(photographs, tmp_path):
    """Small crops of photographs, most of which show only a part of an object."""
    rng = np.random.default_rng(7)
    images = [Image.open(path).convert("RGB") for path in photographs]
    for number in range(CROPS):
        image = images[number % len(images)]
        side = int(rng.uniform(0.3, 1) * min(image.size))
        left, top = (int(rng.integers(0, length - side + 1)) for length in image.size)
        crop = image.resize((64, 64), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
        crop.save(tmp_path / f"{number:04}.jpg", quality=90)
    return list(expand([str(tmp_path)]))


@pytest.mark.skipif("bfloat16" not in precision.supported(), reason="this processor does not compute in bfloat16")
def test_bfloat16_agrees_on_the_bundled_model(crops):
    agreement = measure_agreement(Classifier("tiny", precision="bfloat16"), Classifier("tiny"), crops)
    assert agreement.images == CROPS
    assert agreement.same_first / CROPS >= MIN_SAME_FIRST, agreement
    assert 1e-4 < agreement.mean_difference < 0.01
    assert agreement.max_difference < 0.05
