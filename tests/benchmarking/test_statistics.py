"""Summary statistics: properties for any values, and when one setting counts as faster than another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from densenet_cli.benchmarking.report import Summary

values = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40)


def _iqr(summary: Summary) -> float:
    return summary.upper_quartile - summary.lower_quartile


@given(values)
def test_quartiles_equal_numpy(sample):
    summary = Summary.of(sample)
    quartiles = [summary.lower_quartile, summary.median, summary.upper_quartile]
    assert quartiles == pytest.approx(np.percentile(sample, [25, 50, 75]))
    assert (summary.count, summary.minimum, summary.maximum) == (len(sample), min(sample), max(sample))


@given(values, st.randoms(use_true_random=False))
def test_the_order_does_not_matter(sample, shuffler):
    shuffled = list(sample)
    shuffler.shuffle(shuffled)
    assert Summary.of(shuffled) == Summary.of(sample)


@given(values, st.floats(1e-3, 1e3))
def test_a_unit_is_a_factor(sample, factor):
    summary, scaled = Summary.of(sample), Summary.of(value * factor for value in sample)
    assert scaled.median == pytest.approx(summary.median * factor)
    assert _iqr(scaled) == pytest.approx(_iqr(summary) * factor, rel=1e-6, abs=1e-6)


@given(st.lists(st.floats(1, 100), min_size=5, max_size=40), st.floats(1e3, 1e9))
def test_one_outlier_does_not_dominate(sample, outlier):
    assert Summary.of([*sample, outlier]).upper_quartile <= max(sample)


@given(values, values)
def test_at_most_one_of_two_is_above(a, b):
    one, other = Summary.of(a), Summary.of(b)
    assert not (one.is_above(other) and other.is_above(one))
    assert not one.is_above(one)
    if one.is_above(other):
        assert one.median > other.median


def test_few_values_must_not_overlap_and_of_many_the_quartiles_must_not():
    assert Summary.of([10, 11, 12]).is_above(Summary.of([7, 8, 9]))
    assert not Summary.of([10, 11, 12]).is_above(Summary.of([7, 8, 10]))
    assert Summary.of([10, 11, 12] * 5).is_above(Summary.of([7, 8, 8, 9, 20] * 3))
    assert not Summary.of([9, 11, 12] * 5).is_above(Summary.of([7, 8, 10] * 5))


@pytest.mark.parametrize("rounds", [4, 6, 10, 15, 25])
def test_equal_settings_are_rarely_called_faster(rounds):
    rng = np.random.default_rng(rounds)
    false_positives = 0
    for _ in range(400):
        default, *others = (Summary.of(values) for values in rng.normal(100, 3, (8, rounds)))
        false_positives += max(others, key=lambda other: other.median).is_above(default)
    assert false_positives / 400 < 0.08


def test_no_values_are_an_error():
    with pytest.raises(ValueError, match="no values"):
        Summary.of([])
