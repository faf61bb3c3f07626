"""Metrics agree with scikit-learn, confidence intervals with SciPy, and the calibration error with its formula."""

from __future__ import annotations

import math
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics

from densenet_cli.datasets import LabeledSource
from densenet_cli.errors import DensenetError, UnreadableImageError
from densenet_cli.evaluation import ImageOutcome, MetricsAccumulator, evaluate
from densenet_cli.evaluation.probability_fit import BINS, bin_index
from densenet_cli.evaluation.report import Proportion
from densenet_cli.pipeline import Result
from tests.support.fake_classifier import FakeClassifier, labeled, targets_and_probabilities


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=60, deadline=None)
@given(targets_and_probabilities())
def test_metrics_agree_with_scikit_learn(data):
    targets, probabilities = data
    report = FakeClassifier(probabilities).evaluate(targets)
    classes = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    present = sorted(set(targets))

    assert report.images == len(targets)
    assert report.top1.value == pytest.approx(metrics.accuracy_score(targets, predicted))
    if classes > 5:
        top5 = metrics.top_k_accuracy_score(targets, probabilities, k=5, labels=range(classes))
        assert report.top5.value == pytest.approx(top5)
    else:
        assert report.top5.value == 1
    # In float64, scikit-learn's clipping has no effect.
    loss = metrics.log_loss(targets, probabilities.astype(np.float64), labels=range(classes))
    assert report.negative_log_likelihood == pytest.approx(loss, rel=1e-5, abs=1e-6)

    expected = np.array(metrics.precision_recall_fscore_support(targets, predicted, labels=present, zero_division=0)).T
    actual = [(m.precision or 0, m.recall, m.f1, m.images) for m in report.classes]
    assert [m.position for m in report.classes] == present
    np.testing.assert_allclose(actual, expected)
    np.testing.assert_allclose((report.precision, report.recall, report.f1), expected[:, :3].mean(axis=0))

    matrix = np.zeros((classes, classes), int)
    for pair, count in report.confusion.items():
        matrix[pair] = count
    np.testing.assert_array_equal(matrix, metrics.confusion_matrix(targets, predicted, labels=range(classes)))
    np.fill_diagonal(matrix, 0)
    pairs = report.most_confused(3)
    assert [pair.count for pair in pairs] == sorted(matrix[matrix > 0], reverse=True)[:3]
    for pair in pairs:
        assert matrix[pair.target.index, pair.predicted.index] == pair.count
        assert pair.share == pair.count / list(targets).count(pair.target.index)


@settings(max_examples=60, deadline=None)
@given(targets_and_probabilities())
def test_calibration_error_agrees_with_its_formula(data):
    targets, probabilities = data
    confidence = probabilities.max(axis=1).astype(np.float64)
    is_correct = probabilities.argmax(axis=1) == targets
    expected = 0.0
    for m in range(1, 16):
        in_bin = (confidence > (m - 1) / 15) & (confidence <= m / 15)
        if in_bin.any():
            expected += in_bin.mean() * abs(is_correct[in_bin].mean() - confidence[in_bin].mean())
    report = FakeClassifier(probabilities).evaluate(targets)
    assert report.calibration_error == pytest.approx(expected, abs=1e-9)
    assert sum(bin.images for bin in report.bins) == len(targets)
    assert all(bin.low - 1e-6 <= bin.confidence <= bin.high + 1e-6 for bin in report.bins if bin.images)


def test_ties_are_broken_by_position():
    probabilities = np.full(7, 1 / 7, np.float32)
    outcomes = [
        ImageOutcome.from_result(Result(source, {"probabilities": probabilities})) for source in labeled(range(7))
    ]
    assert [outcome.target_rank for outcome in outcomes] == [1, 2, 3, 4, 5, 6, 7]
    assert {outcome.predicted for outcome in outcomes} == {0}


def test_the_negative_log_likelihood_of_zero_is_finite():
    report = FakeClassifier(np.array([[1, 0]], np.float32)).evaluate([1])
    assert report.negative_log_likelihood == pytest.approx(87.34, abs=0.01)


def test_failed_images_do_not_count():
    fake = FakeClassifier([np.array([0.2, 0.8], np.float32), UnreadableImageError("broken")])
    report = fake.evaluate([1, 0])
    assert (report.images, len(report.failures), report.top1.value) == (1, 1, 1)
    assert report.to_dict()["failures"] == [
        {"source": "1", "model": "fake", "error": {"type": "UnreadableImage", "message": "broken"}}
    ]


def test_an_evaluation_without_images_is_an_error():
    with pytest.raises(DensenetError, match="1 image"):
        FakeClassifier([UnreadableImageError("broken")]).evaluate([0])
    with pytest.raises(DensenetError, match="No image"):
        evaluate(FakeClassifier([]), [])


@settings(max_examples=40, deadline=None)
@given(targets_and_probabilities(), st.data())
def test_restricting_the_classes_equals_a_smaller_head(data, draw):
    targets, probabilities = data
    classes = probabilities.shape[1]
    selected = sorted({*targets, *draw.draw(st.lists(st.integers(0, classes - 1)))})
    smaller = probabilities[:, selected] / probabilities[:, selected].sum(axis=1, keepdims=True)
    actual = FakeClassifier(probabilities).evaluate(targets, restrict_to=selected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = FakeClassifier(smaller).evaluate([selected.index(target) for target in targets])
    assert actual.competing_classes == len(selected)
    assert actual.top1 == expected.top1
    assert actual.top5 == expected.top5
    assert actual.negative_log_likelihood == pytest.approx(expected.negative_log_likelihood, rel=1e-5, abs=1e-6)
    assert actual.calibration_error == pytest.approx(expected.calibration_error, abs=1e-5)


def test_the_confusion_matrix_groups_classes():
    fake = FakeClassifier(np.eye(4, dtype=np.float32))
    step, counts = fake.evaluate([0, 1, 2, 3]).confusion_matrix(max_rows=1000)
    assert step == 1
    np.testing.assert_array_equal(counts, np.eye(4))
    _, counts_with_others = fake.evaluate([0, 0, 1, 1]).confusion_matrix(max_rows=1000)
    np.testing.assert_array_equal(counts_with_others, [[1, 1, 0], [0, 0, 2]])
    step, grouped = fake.evaluate([0, 1, 2, 3]).confusion_matrix(max_rows=2)
    assert step == 2
    np.testing.assert_array_equal(grouped, [[2, 0], [0, 2]])


def test_memory_use_hardly_depends_on_the_number_of_images():
    probabilities = np.full(1000, 1e-3, np.float32)
    probabilities[7] += 0.5

    def peak(count):
        accumulator = MetricsAccumulator(FakeClassifier(probabilities[None]))
        tracemalloc.start()
        for n in range(count):
            source = LabeledSource("x.jpg", "x.jpg", "path", target=n % 1000)
            accumulator.add(Result(source, {"probabilities": probabilities}))
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    peak(10)
    assert peak(8000) < peak(2000) + 100_000


@settings(deadline=None)
@given(targets_and_probabilities())
def test_risk_coverage_curve(data):
    """Scikit-learn's accuracy of the images from each confidence on."""
    targets, probabilities = data
    report = FakeClassifier(probabilities).evaluate(targets)
    confidences, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    curve = report.risk_coverage
    for threshold, coverage, risk in zip(np.unique(confidences)[::-1], curve.coverage, curve.risk, strict=True):
        is_labeled = confidences >= threshold
        assert coverage == pytest.approx(is_labeled.mean())
        assert risk == pytest.approx(1 - metrics.accuracy_score(targets[is_labeled], predicted[is_labeled]))
    values = report.to_dict()["risk_coverage"]
    assert values["area"] == curve.area
    assert [item["max_error"] for item in values["labeled"]] == [0.01, 0.05, 0.1]
    for item in values["labeled"]:
        possible = curve.coverage[curve.risk <= item["max_error"]]
        assert item["share"] == (possible.max() if len(possible) else 0)


@settings(deadline=None)
@given(st.integers(1, 2000), st.floats(0, 1))
def test_the_interval_is_scipys_wilson_interval(trials, share):
    successes = round(trials * share)
    expected = binomtest(successes, trials).proportion_ci(method="wilson")
    assert Proportion(successes, trials).interval == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= Proportion(successes, trials).interval[0] <= successes / trials


@pytest.mark.parametrize(
    ("confidence", "index"), [(0.0, 0), (1 / 15, 0), (math.nextafter(1 / 15, 1), 1), (1.0, 14), (1.0000001, 14)]
)
def test_bins_include_their_upper_edge(confidence, index):
    assert bin_index(confidence) == index
    assert BINS == 15
