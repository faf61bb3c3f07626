"""The numbers are scikit-learn's and SciPy's, and the calibration error the formula written out."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics

from densenet_cli.errors import DensenetError, UnreadableImageError
from densenet_cli.evaluation import evaluate, outcome_of
from densenet_cli.evaluation.statistics import BINS, Proportion, bin_of
from densenet_cli.images.sources import LabeledSource
from densenet_cli.pipeline import Result
from tests.support.fake_classifier import Fake, labeled, truths_and_probabilities


@settings(deadline=None)
@given(st.integers(1, 2000), st.floats(0, 1))
def test_interval_is_scipys_wilson(trials, share):
    successes = round(trials * share)
    expected = binomtest(successes, trials).proportion_ci(method="wilson")
    assert Proportion(successes, trials).interval == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= Proportion(successes, trials).interval[0] <= successes / trials


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=60, deadline=None)
@given(truths_and_probabilities())
def test_all_numbers_are_scikit_learns(data):
    truths, probabilities = data
    report = Fake(probabilities).evaluate(truths)
    classes = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    present = sorted(set(truths))

    assert report.images == len(truths)
    assert report.top1.value == pytest.approx(metrics.accuracy_score(truths, predicted))
    if classes > 5:
        top5 = metrics.top_k_accuracy_score(truths, probabilities, k=5, labels=range(classes))
        assert report.top5.value == pytest.approx(top5)
    else:
        assert report.top5.value == 1
    # In float64, where scikit-learn's clipping is out of the way.
    loss = metrics.log_loss(truths, probabilities.astype(np.float64), labels=range(classes))
    assert report.negative_log_likelihood == pytest.approx(loss, rel=1e-5, abs=1e-6)

    expected = np.array(metrics.precision_recall_fscore_support(truths, predicted, labels=present, zero_division=0)).T
    measured = [(r.precision or 0, r.recall, r.f1, r.images) for r in report.classes]
    assert [r.position for r in report.classes] == present
    np.testing.assert_allclose(measured, expected)
    np.testing.assert_allclose((report.precision, report.recall, report.f1), expected[:, :3].mean(axis=0))

    matrix = np.zeros((classes, classes), int)
    for pair, count in report.confusion.items():
        matrix[pair] = count
    np.testing.assert_array_equal(matrix, metrics.confusion_matrix(truths, predicted, labels=range(classes)))
    np.fill_diagonal(matrix, 0)
    pairs = report.most_confused(3)
    assert [pair.count for pair in pairs] == sorted(matrix[matrix > 0], reverse=True)[:3]
    for pair in pairs:
        assert matrix[pair.truth.index, pair.predicted.index] == pair.count
        assert pair.share == pair.count / list(truths).count(pair.truth.index)


@settings(max_examples=60, deadline=None)
@given(truths_and_probabilities())
def test_calibration_error_is_its_formula(data):
    truths, probabilities = data
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == truths
    expected = 0.0
    for m in range(1, 16):
        inside = (confidence > (m - 1) / 15) & (confidence <= m / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    report = Fake(probabilities).evaluate(truths)
    assert report.calibration_error == pytest.approx(expected, abs=1e-9)
    assert sum(bin.images for bin in report.bins) == len(truths)
    assert all(bin.low - 1e-6 <= bin.confidence <= bin.high + 1e-6 for bin in report.bins if bin.images)


@pytest.mark.parametrize(
    ("confidence", "place"), [(0.0, 0), (1 / 15, 0), (math.nextafter(1 / 15, 1), 1), (1.0, 14), (1.0000001, 14)]
)
def test_bins_hold_their_upper_border(confidence, place):
    assert bin_of(confidence) == place
    assert BINS == 15


def test_equal_probabilities_rank_in_the_heads_order():
    probabilities = np.full((7, 7), 1 / 7, np.float32)
    outcomes = [outcome_of(result) for result in Fake(probabilities).stream(labeled(range(7)))]
    assert [outcome.rank for outcome in outcomes] == [1, 2, 3, 4, 5, 6, 7]
    assert {outcome.predicted for outcome in outcomes} == {0}


def test_a_probability_of_zero_is_a_finite_surprise():
    report = Fake(np.array([[1, 0]], np.float32)).evaluate([1])
    assert report.negative_log_likelihood == pytest.approx(87.34, abs=0.01)


def test_failures_are_counted_apart():
    fake = Fake([np.array([0.2, 0.8], np.float32), UnreadableImageError("broken")])
    report = fake.evaluate([1, 0])
    assert (report.images, len(report.failures), report.top1.value) == (1, 1, 1)
    assert report.to_dict()["failures"] == [
        {"source": "1", "model": "fake", "error": {"type": "UnreadableImage", "message": "broken"}}
    ]


def test_nothing_measured_is_an_error():
    with pytest.raises(DensenetError, match="None of the 1 image"):
        Fake([UnreadableImageError("broken")]).evaluate([0])
    with pytest.raises(DensenetError, match="No image"):
        evaluate(Fake([]), [])


@settings(max_examples=40, deadline=None)
@given(truths_and_probabilities(), st.data())
def test_restricted_equals_a_smaller_head(data, draw):
    truths, probabilities = data
    classes = probabilities.shape[1]
    among = sorted({*truths, *draw.draw(st.lists(st.integers(0, classes - 1)))})
    small = probabilities[:, among] / probabilities[:, among].sum(axis=1, keepdims=True)
    restricted = Fake(probabilities).evaluate(truths, among=among)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = Fake(small).evaluate([among.index(truth) for truth in truths])
    assert restricted.competing == len(among)
    assert restricted.top1 == alone.top1
    assert restricted.top5 == alone.top5
    assert restricted.negative_log_likelihood == pytest.approx(alone.negative_log_likelihood, rel=1e-5, abs=1e-6)
    assert restricted.calibration_error == pytest.approx(alone.calibration_error, abs=1e-5)


def test_memory_does_not_grow_with_images():
    import tracemalloc

    row = np.full(1000, 1e-3, np.float32)
    row[7] += 0.5

    def peak(count):
        fake = Fake([])
        fake.stream = lambda sources: (Result(source, {"probabilities": row}) for source in sources)
        fake.labels = Fake(row[None]).labels
        tracemalloc.start()
        evaluate(fake, (LabeledSource("x.jpg", "x.jpg", "path", target=n % 1000) for n in range(count)))
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(10)
    assert peak(8000) < peak(2000) + 100_000
