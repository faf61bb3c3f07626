import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.conformity_scores import APSConformityScore, LACConformityScore, RAPSConformityScore
from mapie.utils import _compute_classification_quantile
from scipy import stats

from densenet_cli.calibration import conformal
from densenet_cli.predictor import SET_METHODS

seeds = st.integers(0, 2**32 - 1)
coverages = st.floats(0.01, 0.99)


def draw(seed, images, classes=8):
    """Return float32 probabilities, and classes that follow them."""
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.full(classes, 0.4), images).astype(np.float32)
    targets = (random.random((images, 1)) > probabilities.cumsum(axis=1)).sum(axis=1).clip(max=classes - 1)
    return probabilities, targets


@settings(deadline=None)
@given(st.integers(1, 5000), coverages)
def test_rank_of_the_quantile(images, coverage):
    rank = conformal.quantile_rank(images, coverage)
    assert rank - 1 - 1e-5 <= (images + 1) * coverage <= rank + 1e-5


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95, 0.99, 0.999])
def test_fewest_images_for_a_coverage(coverage):
    images = conformal.min_images(coverage)
    assert math.isinf(conformal.quantile(np.zeros(images - 1), coverage))
    assert conformal.quantile(np.zeros(images), coverage) == 0


def test_decimal_coverages_have_no_rounding_errors():
    # 0.7 * 110 and 0.07 * 100 are above 77 and 7 in floating point.
    assert conformal.quantile_rank(109, 0.7) == 77
    assert conformal.quantile_rank(99, 0.07) == 7


@settings(max_examples=50, deadline=None)
@given(seeds, st.sampled_from([0.5, 0.8, 0.9, 0.95]))
def test_lac_sets_are_those_of_mapie(seed, coverage):
    probabilities, targets = draw(seed, 200)
    new, _ = draw(seed + 1, 50)
    scores = conformal.true_scores(probabilities, targets, "lac")
    mapie = LACConformityScore()
    mapie.set_external_attributes(classes=np.arange(8))
    expected_scores = mapie.get_conformity_scores(targets, probabilities.astype(np.float64), y_enc=targets)
    np.testing.assert_allclose(scores, expected_scores.ravel(), rtol=0, atol=1e-12)
    alpha = np.array([1 - coverage])
    mapie.quantiles_ = mapie.get_conformity_score_quantiles(expected_scores, alpha, cv="prefit")
    expected = mapie.get_prediction_sets(
        new.astype(np.float64)[:, :, None], expected_scores, alpha, cv="prefit", agg_scores="mean"
    )
    threshold = conformal.quantile(scores, coverage)
    np.testing.assert_array_equal(conformal.label_set(new, "lac", threshold), expected[:, :, 0])


@settings(max_examples=50, deadline=None)
@given(seeds, st.sampled_from([0.5, 0.8, 0.9, 0.95]))
def test_raps_sets_are_those_of_mapie(seed, coverage):
    """MAPIE randomizes its scores, so this calls its steps, with 1 for the random number: its u is 1 - U of the paper.

    MAPIE then adds the first label whose sum exceeds the threshold. The rank of this label is one higher.
    """
    probabilities, targets = draw(seed, 200)
    new, _ = draw(seed + 1, 50)
    free, alpha = np.array([conformal.RAPS_FREE_LABELS]), np.array([1 - coverage])
    sums, cutoff = APSConformityScore.get_true_label_cumsum_proba(
        targets, probabilities.astype(np.float64), np.arange(8)
    )
    regularize = RAPSConformityScore._regularize_conformity_score
    sums -= probabilities.astype(np.float64)[np.arange(200), targets][:, None]
    expected_scores = regularize(free, conformal.RAPS_PENALTY, sums, cutoff)
    scores = conformal.true_scores(probabilities, targets, "raps")
    np.testing.assert_allclose(scores, expected_scores.ravel(), rtol=0, atol=1e-12)

    quantile = _compute_classification_quantile(expected_scores, alpha)
    threshold = conformal.quantile(scores, coverage)
    assert threshold == pytest.approx(quantile.item(), abs=1e-12)
    mapie = RAPSConformityScore()
    mapie.set_external_attributes(classes=np.arange(8))
    mapie.lambda_star, mapie.k_star = conformal.RAPS_PENALTY, free - 1
    values = new.astype(np.float64)[:, :, None]
    _, _, last = mapie._get_last_included_proba(values, quantile.reshape(1), True, prediction_phase=True)
    expected = values - last >= -1e-8
    np.testing.assert_array_equal(conformal.label_set(new, "raps", threshold), expected[:, :, 0])


@pytest.mark.parametrize("method", SET_METHODS)
@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_coverage_holds_in_simulation(method, coverage):
    """The mean coverage over many calibrations is at least the requested one, and not much higher."""
    covered, trials, images, new_images = 0, 300, 100, 100
    for seed in range(trials):
        probabilities, targets = draw(seed, images + new_images)
        # Miscalibrated probabilities still give valid sets.
        probabilities = probabilities**2 / (probabilities**2).sum(axis=1, keepdims=True)
        scores = conformal.true_scores(probabilities[:images], targets[:images], method)
        sets = conformal.label_set(probabilities[images:], method, conformal.quantile(scores, coverage))
        covered += sets[np.arange(new_images), targets[images:]].sum()
    rate, rank = covered / trials / new_images, conformal.quantile_rank(images, coverage)
    # The coverage of one calibration has a beta distribution (Vovk, 2012).
    deviation = stats.beta(rank, images + 1 - rank).std() / math.sqrt(trials) + 0.5 / math.sqrt(trials * new_images)
    assert rate >= coverage - 3 * deviation
    if method == "lac" or coverage > 0.8:  # the most probable labels alone have a coverage of about 0.8
        assert rate <= rank / (images + 1) + 3 * deviation


@settings(deadline=None)
@given(seeds, coverages, coverages, st.sampled_from(SET_METHODS))
def test_a_higher_coverage_only_adds_labels(seed, low, high, method):
    low, high = sorted((low, high))
    probabilities, targets = draw(seed, 100)
    scores = conformal.true_scores(probabilities, targets, method)
    smaller, larger = (
        conformal.label_set(probabilities, method, conformal.quantile(scores, coverage)) for coverage in (low, high)
    )
    assert (larger | ~smaller).all()


@settings(deadline=None)
@given(seeds, st.floats(0, 1.1), st.sampled_from(SET_METHODS))
def test_sets_contain_the_most_probable_labels(seed, threshold, method):
    probabilities, _ = draw(seed, 20)
    for row, is_in_set in zip(probabilities, conformal.label_set(probabilities, method, threshold), strict=True):
        assert row[is_in_set].min(initial=2) >= row[~is_in_set].max(initial=-1)
        assert is_in_set.any() or method == "lac"


def test_too_few_images_give_sets_of_all_labels():
    probabilities, targets = draw(0, 5)
    scores = conformal.true_scores(probabilities, targets, "lac")
    assert conformal.label_set(probabilities, "lac", conformal.quantile(scores, 0.9)).all()
