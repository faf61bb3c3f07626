"""Confidence intervals agree with SciPy, and confidence bins include their upper edge."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from densenet_cli.evaluation.statistics import BINS, Proportion, bin_index


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
