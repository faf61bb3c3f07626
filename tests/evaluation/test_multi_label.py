"""Metrics of multi-label models agree with scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from densenet_cli.errors import DensenetError, UnreadableImageError, UsageError
from densenet_cli.evaluation import MultiLabelOutcome, evaluate, evaluate_multi_label
from densenet_cli.evaluation.ranking import RankingCurve
from densenet_cli.pipeline import Result
from tests.support.fake_classifier import (
    FakeClassifier,
    FakeMultiLabelClassifier,
    labeled,
    multi_labeled,
    multi_labels_and_probabilities,
)


def mean(values):
    return pytest.approx(np.mean(values)) if len(values) else None


@settings(max_examples=150, deadline=None)
@given(multi_labels_and_probabilities(), st.sampled_from([0.2, 0.5, 0.9]))
def test_metrics_agree_with_scikit_learn(data, min_prob):
    targets, probabilities = data
    report = FakeMultiLabelClassifier(probabilities).evaluate(targets, min_prob=min_prob)
    predicted = (probabilities >= np.float32(min_prob)).astype(int)
    both = np.flatnonzero((targets.max(axis=0) == 1) & (targets.min(axis=0) == 0))

    assert [m.position for m in report.classes] == list(range(targets.shape[1]))
    assert [m.position for m in report.averaged_classes] == list(both)
    for m in report.classes:
        truth, guess, scores = targets[:, m.position], predicted[:, m.position], probabilities[:, m.position]
        assert (m.images, m.positives, m.predicted) == (len(truth), truth.sum(), guess.sum())
        if m.has_both:
            assert m.roc_auc == pytest.approx(metrics.roc_auc_score(truth, scores), abs=1e-12)
            assert m.average_precision == pytest.approx(metrics.average_precision_score(truth, scores), abs=1e-12)
        else:
            assert m.roc_auc is m.average_precision is None
        precision, recall, f1, _ = metrics.precision_recall_fscore_support(
            truth, guess, average="binary", zero_division=np.nan
        )
        assert (m.precision, m.recall) == tuple(None if np.isnan(v) else pytest.approx(v) for v in (precision, recall))
        assert m.f1 == (pytest.approx(f1) if truth.any() or guess.any() else None)

    assert report.mean_average_precision == mean([report.classes[n].average_precision for n in both])
    assert report.mean_roc_auc == mean([report.classes[n].roc_auc for n in both])
    if len(both) > 1:  # scikit-learn takes a single column for two classes
        macro = metrics.precision_recall_fscore_support(
            targets[:, both], predicted[:, both], average="macro", zero_division=0
        )
        assert (report.precision, report.recall, report.f1) == pytest.approx(macro[:3])
        auc = metrics.roc_auc_score(targets[:, both], probabilities[:, both], average="macro")
        assert report.mean_roc_auc == pytest.approx(auc)
    micro = metrics.precision_recall_fscore_support(targets, predicted, average="micro", zero_division=0)
    actual = (report.micro.precision or 0, report.micro.recall or 0, report.micro.f1 or 0)
    assert actual == pytest.approx(micro[:3])
    assert report.subset_accuracy.value == pytest.approx((targets == predicted).all(axis=1).mean())
    if targets.shape[1] > 1:
        assert report.subset_accuracy.value == pytest.approx(metrics.accuracy_score(targets, predicted))


@settings(max_examples=60, deadline=None)
@given(multi_labels_and_probabilities())
def test_curves_agree_with_scikit_learn(data):
    targets, probabilities = data
    truth, scores = targets[:, 0], probabilities[:, 0]
    curve = RankingCurve.of(truth == 1, scores)
    if not 0 < truth.sum() < len(truth):
        return
    false_positive_rate, true_positive_rate, _ = metrics.roc_curve(truth, scores, drop_intermediate=False)
    np.testing.assert_allclose(curve.false_positives / curve.negatives, false_positive_rate[1:])
    np.testing.assert_allclose(curve.true_positives / curve.positives, true_positive_rate[1:])
    precision, recall, _ = metrics.precision_recall_curve(truth, scores)
    np.testing.assert_allclose(curve.precision, precision[-2::-1])
    np.testing.assert_allclose(curve.true_positives / curve.positives, recall[-2::-1])


@settings(max_examples=60, deadline=None)
@given(multi_labels_and_probabilities(), st.integers(0, 2**32))
def test_unknown_values_do_not_count(data, seed):
    """The metrics of each class are those of the images for which it is known."""
    targets, probabilities = data
    is_unknown = np.random.default_rng(seed).random(targets.shape) < 0.3
    is_unknown[0, 0] = False
    report = FakeMultiLabelClassifier(probabilities).evaluate(np.where(is_unknown, -1, targets))
    for m in report.classes:
        rows = ~is_unknown[:, m.position]
        known = FakeMultiLabelClassifier(probabilities[rows]).evaluate(targets[rows]).classes[m.position]
        assert (m.images, m.positives, m.predicted, m.correct) == (
            rows.sum(), known.positives, known.predicted, known.correct,
        )  # fmt: skip
        assert (m.roc_auc, m.average_precision) == (known.roc_auc, known.average_precision)
    assert {m.position for m in report.classes} == set(np.flatnonzero((~is_unknown).any(axis=0)))


def test_sampled_curves_keep_their_ends():
    rng = np.random.default_rng(0)
    curve = RankingCurve.of(rng.random(10_000) < 0.01, rng.random(10_000).astype(np.float32))
    sample = curve.sample(200)
    assert 100 < len(sample.true_positives) <= 200
    assert (sample.positives, sample.negatives) == (curve.positives, curve.negatives)
    assert (sample.true_positives[0], sample.false_positives[0]) == (curve.true_positives[0], curve.false_positives[0])
    assert set(zip(*sample, strict=True)) <= set(zip(*curve, strict=True))


def outcome(probabilities, targets, min_prob=0.5):
    (source,) = multi_labeled([targets])
    return MultiLabelOutcome.from_result(
        Result(source, {"probabilities": np.array(probabilities, np.float32)}), min_prob
    )


def test_mistakes_of_an_image():
    wrong = outcome([0.9, 0.2, 0.8, 0.5, 0.1, 0.7], [0, 1, 1, 0, 0, -1])
    assert [(m.position, m.is_missed) for m in wrong.mistakes] == [(0, False), (1, True), (3, False)]
    assert wrong.is_mistake and wrong.confidence == pytest.approx(0.9)
    right = outcome([0.9, 0.2], [1, 0])
    assert not right.is_mistake and right.confidence == 0
    assert outcome([0.9, 0.2], [1, 0], min_prob=0.1).mistakes[0].position == 1


def test_failed_images_do_not_count():
    fake = FakeMultiLabelClassifier([np.array([0.2, 0.8], np.float32), UnreadableImageError("broken")])
    report = fake.evaluate([[0, 1], [1, 0]])
    assert (report.images, report.subset_accuracy.value, report.classes[0].images) == (1, 1, 1)
    record = report.to_dict()
    assert (record["failed"], record["failures"][0]["error"]["type"]) == (1, "UnreadableImage")
    assert record["mean_average_precision"] is record["mean_roc_auc"] is record["macro"]["f1"] is None
    assert record["micro"]["f1"] == 1


def test_an_evaluation_without_known_values_is_an_error():
    with pytest.raises(DensenetError, match="1 image"):
        FakeMultiLabelClassifier([UnreadableImageError("broken")]).evaluate([[0, 1]])
    with pytest.raises(DensenetError, match="unknown"):
        FakeMultiLabelClassifier([np.array([0.2, 0.8], np.float32)]).evaluate([[-1, -1]])


def test_each_kind_of_model_has_its_function():
    rows = np.eye(2, dtype=np.float32)
    with pytest.raises(UsageError, match="evaluate_multi_label"):
        evaluate(FakeMultiLabelClassifier(rows), labeled([0, 1]))
    with pytest.raises(UsageError, match="not a multi-label"):
        evaluate_multi_label(FakeClassifier(rows), multi_labeled([[0, 1], [1, 0]]))
