import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from densenet_cli.calibration import selective


@settings(deadline=None)
@given(st.integers(1, 20_000), st.floats(0, 1), st.floats(0.5, 0.9999))
def test_bound_is_the_clopper_pearson_limit(images, share, level):
    errors = min(images, int(share * images))
    expected = 1.0 if errors == images else stats.beta.ppf(level, errors + 1, images - errors)
    assert selective.error_bound(errors, images, level) == pytest.approx(expected, rel=1e-6)


@settings(deadline=None)
@given(st.integers(1, 2000), st.floats(0, 1))
def test_bound_inverts_the_binomial_tail(images, share):
    errors = min(images - 1, int(share * images))
    bound = selective.error_bound(errors, images, 0.95)
    assert stats.binom.cdf(errors, images, bound) == pytest.approx(0.05, rel=1e-6)


def draw(random, images):
    """Return confidences, and whether labels are right, with an error rate of 1 - confidence."""
    confidences = random.random(images).astype(np.float32) ** np.float32(0.3)
    return confidences, random.random(images) < confidences


def true_error(threshold):
    """Return the error of images with at least this confidence: 1 - E[c | c >= threshold]."""
    start = np.linspace(threshold ** (1 / 0.3), 1, 200_001)
    return 1 - (start**0.3).mean()


@pytest.mark.parametrize("max_error", [0.05, 0.1, 0.2])
def test_error_limit_holds_in_simulation(max_error):
    """The true error exceeds the limit for at most 5% of calibrations."""
    random = np.random.default_rng(0)
    trials, violations, labeled = 400, 0, 0
    for _ in range(trials):
        threshold = selective.find_threshold(*draw(random, 1000), max_error)
        if threshold.confidence < math.inf:
            violations += true_error(threshold.confidence) > max_error
            labeled += threshold.coverage
    assert violations <= stats.binom.ppf(0.999, trials, 0.05)
    assert labeled / trials > {0.05: 0.01, 0.1: 0.3, 0.2: 0.8}[max_error]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=300), st.floats(0.01, 0.6))
def test_threshold_keeps_its_promise_on_the_calibration_images(pairs, max_error):
    confidences = np.array([confidence for confidence, _ in pairs], np.float32) / 20
    is_correct = np.array([correct for _, correct in pairs])
    threshold = selective.find_threshold(confidences, is_correct, max_error)
    is_labeled = confidences >= threshold.confidence
    assert threshold.coverage == is_labeled.mean()
    if is_labeled.any():
        errors = int((~is_correct[is_labeled]).sum())
        assert threshold.error == errors / is_labeled.sum()
        level = 1 - 0.05 / selective.max_thresholds(len(pairs))
        assert threshold.bound == selective.error_bound(errors, int(is_labeled.sum()), level) <= max_error
    else:
        assert math.isinf(threshold.confidence)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=100), st.randoms())
def test_order_of_the_images_does_not_matter(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    results = [
        selective.find_threshold(np.array([c for c, _ in p], np.float32), np.array([ok for _, ok in p]), 0.3)
        for p in (pairs, shuffled)
    ]
    assert results[0] == results[1]


def test_no_threshold_achieves_the_limit():
    threshold = selective.find_threshold(np.linspace(0, 1, 100, dtype=np.float32), np.zeros(100, bool), 0.1)
    assert threshold == selective.ErrorThreshold(math.inf)


def test_all_images_can_be_labeled():
    threshold = selective.find_threshold(np.linspace(0, 1, 1000, dtype=np.float32), np.ones(1000, bool), 0.05)
    assert threshold.confidence == 0
    assert threshold.coverage == 1


@pytest.mark.parametrize("max_error", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("confidence", [np.ones, lambda count: np.linspace(0, 1, count)])
def test_fewest_images_for_an_error_limit(max_error, confidence):
    images = selective.min_images(max_error)
    for count, is_possible in ((images, True), (images - 2, False)):
        confidences = confidence(count).astype(np.float32)
        threshold = selective.find_threshold(confidences, np.ones(count, bool), max_error)
        assert (threshold.coverage == 1) == is_possible


@settings(deadline=None)
@given(st.integers(1, 500), st.floats(0.02, 0.5), st.integers(0, 3), st.randoms())
def test_all_images_are_labeled_if_their_bound_allows_it(images, max_error, errors, random):
    """A binary search alone can begin with too few images and never try all of them."""
    is_correct = np.ones(images, bool)
    is_correct[random.sample(range(images), min(errors, images))] = False
    level = 1 - 0.05 / selective.max_thresholds(images)
    bound = selective.error_bound(int((~is_correct).sum()), images, level)
    threshold = selective.find_threshold(np.linspace(0, 1, images, dtype=np.float32), is_correct, max_error)
    assert (threshold.coverage == 1) == (bound <= max_error)


@settings(deadline=None)
@given(st.integers(1, 500), st.floats(0.02, 0.5), st.integers(0, 500))
def test_right_labels_are_found_if_there_are_enough(images, max_error, right):
    """The most confident labels are right, the others wrong: exactly the right ones have no error."""
    right = min(right, images)
    confidences = np.linspace(0, 1, images, dtype=np.float32)
    threshold = selective.find_threshold(confidences, np.arange(images) >= images - right, max_error)
    level = 1 - 0.05 / selective.max_thresholds(images)
    is_possible = right > 0 and selective.error_bound(0, right, level) <= max_error
    assert (threshold.coverage > 0) == is_possible
    assert not is_possible or threshold.coverage >= right / images


def test_risk_coverage_curve():
    confidences = np.array([0.9, 0.5, 0.9, 0.3], np.float32)
    curve = selective.RiskCoverageCurve.of(confidences, np.array([True, True, False, False]))
    assert curve.coverage.tolist() == [0.5, 0.75, 1]
    assert curve.risk.tolist() == [0.5, 1 / 3, 0.5]
    assert curve.area == pytest.approx((0.5 * 2 + 1 / 3 + 0.5) / 4)
    assert curve.coverage_at(0.4) == 0.75
    assert curve.coverage_at(0.1) == 0


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_area_is_the_mean_risk(correct):
    is_correct = np.array(correct)
    confidences = -np.arange(len(correct), dtype=np.float32)
    curve = selective.RiskCoverageCurve.of(confidences, is_correct)
    risks = [(~is_correct[:count]).mean() for count in range(1, len(correct) + 1)]
    assert curve.area == pytest.approx(np.mean(risks))
    assert curve.risk[-1] == (~is_correct).mean()
