"""Coverage and error on images that neither training nor calibration saw: 100 random splits of the digits data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from densenet_cli.calibration.decisions import ErrorLimit, LabelSets
from densenet_cli.calibration.record import Calibration

SPLITS, IMAGES = 100, 600
"""Number of splits, and of calibration images; the other 597 are test images."""
NAMES = tuple(map(str, range(10)))


@pytest.fixture(scope="module")
def splits():
    """A calibration, and probabilities and classes of the test images, for each split. The accuracy is about 75%."""
    pixels, targets = load_digits(return_X_y=True)
    random = np.random.default_rng(0)
    pixels = pixels + random.normal(0, 6, pixels.shape)
    order = random.permutation(len(targets))
    pixels, targets = pixels[order], targets[order]
    model = LinearDiscriminantAnalysis().fit(pixels[:600], targets[:600])
    logits, targets = model.decision_function(pixels[600:]).astype(np.float32), targets[600:]
    splits = []
    for _ in range(SPLITS):
        order = random.permutation(len(targets))
        first, second = order[:IMAGES], order[IMAGES:]
        calibration = Calibration.fit(logits[first], targets[first], "softmax", {}, "2026-01-31")
        splits.append((calibration, calibration.probabilities(logits[second]), targets[second]))
    return splits


@pytest.mark.parametrize("method", ["lac", "raps"])
@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_coverage(splits, coverage, method):
    covered = []
    for calibration, probabilities, targets in splits:
        sets = LabelSets(calibration, NAMES, coverage, method)(probabilities)
        covered.append(sets[np.arange(len(targets)), targets].sum())
    images, rank = len(targets), math.ceil((IMAGES + 1) * coverage - 1e-9)
    # The number of covered images of one split (Vovk, "Conditional validity of inductive conformal predictors", 2012).
    distribution = stats.betabinom(images, rank, IMAGES + 1 - rank)
    low, high = distribution.interval(1 - 0.01 / SPLITS)
    assert low <= min(covered) and max(covered) <= high
    margin = 3 * distribution.std() / images / math.sqrt(SPLITS)
    assert coverage - margin <= np.mean(covered) / images <= rank / (IMAGES + 1) + margin


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("max_error", [0.05, 0.1, 0.2])
def test_error_limit(splits, max_error, by_class):
    exceeded, labeled = 0, 0
    for calibration, probabilities, targets in splits:
        limit = ErrorLimit(calibration, max_error, by_class)
        assigned = np.stack([limit(row) for row in probabilities])
        is_labeled = assigned.any(axis=1)
        errors = int((~assigned[np.arange(len(targets)), targets])[is_labeled].sum())
        exceeded += errors > stats.binom.ppf(0.95, is_labeled.sum(), max_error)
        labeled += is_labeled.mean() / SPLITS
    # The limit may fail for 5% of the calibrations, and the binomial interval for 5% of the others.
    assert exceeded <= stats.binom.ppf(0.999, SPLITS, 0.1)
    if not by_class:
        assert labeled > {0.05: 0.05, 0.1: 0.4, 0.2: 0.75}[max_error]


def test_coverage_of_each_class(splits):
    """Sets of all classes together have a lower coverage for some class; those by class have it for each."""
    lowest = []
    for by_class in (False, True):
        covered, images = np.zeros(10), np.zeros(10)
        for calibration, probabilities, targets in splits:
            sets = LabelSets(calibration, NAMES, 0.9, by_class=by_class)(probabilities)
            np.add.at(covered, targets, sets[np.arange(len(targets)), targets])
            np.add.at(images, targets, 1)
        lowest.append((covered / images).min())
    assert lowest[0] < 0.87 and lowest[1] > 0.89


def test_size_of_sets(splits):
    """The numbers of the guide: ``lac`` is the default because its sets are the smallest."""
    for coverage in (0.8, 0.9, 0.95):
        sizes = {
            method: np.mean([LabelSets(c, NAMES, coverage, method)(p).sum(axis=1).mean() for c, p, _ in splits])
            for method in ("lac", "raps")
        }
        assert 1 < sizes["lac"] < sizes["raps"] < 1.15 * sizes["lac"]
