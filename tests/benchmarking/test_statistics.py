"""Medians and spread: what has to hold of any values, and what counts as faster."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from densenet_cli.benchmarking.statistics import Summary

values = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40)


@given(values)
def test_it_is_numpys(found):
    summary = Summary.of(found)
    assert [summary.low, summary.median, summary.high] == pytest.approx(np.percentile(found, [25, 50, 75]))
    assert (summary.count, summary.least, summary.most) == (len(found), min(found), max(found))


@given(values, st.randoms(use_true_random=False))
def test_the_order_does_not_matter(found, shuffler):
    shuffled = list(found)
    shuffler.shuffle(shuffled)
    assert Summary.of(shuffled) == Summary.of(found)


@given(values, st.floats(1e-3, 1e3))
def test_another_unit_is_another_factor(found, factor):
    summary, scaled = Summary.of(found), Summary.of(value * factor for value in found)
    assert scaled.median == pytest.approx(summary.median * factor)
    assert scaled.high - scaled.low == pytest.approx((summary.high - summary.low) * factor, rel=1e-6, abs=1e-6)


@given(st.lists(st.floats(1, 100), min_size=5, max_size=40), st.floats(1e3, 1e9))
def test_one_slow_moment_does_not_move_it_beyond_the_others(found, slow):
    assert Summary.of([*found, slow]).high <= max(found)


@given(values, values)
def test_of_two_at_most_one_is_above(a, b):
    one, other = Summary.of(a), Summary.of(b)
    assert not (one.is_above(other) and other.is_above(one))
    assert not one.is_above(one)
    if one.is_above(other):
        assert one.median > other.median


def test_few_values_must_all_be_above_and_of_many_the_middle_halves():
    assert Summary.of([10, 11, 12]).is_above(Summary.of([7, 8, 9]))
    assert not Summary.of([10, 11, 12]).is_above(Summary.of([7, 8, 10]))
    assert Summary.of([10, 11, 12] * 5).is_above(Summary.of([7, 8, 8, 9, 20] * 3))
    assert not Summary.of([9, 11, 12] * 5).is_above(Summary.of([7, 8, 10] * 5))


@pytest.mark.parametrize("rounds", [4, 6, 10, 15, 25])
def test_settings_that_are_alike_are_seldom_told_apart(rounds):
    rng = np.random.default_rng(rounds)
    told_apart = 0
    for _ in range(400):
        default, *others = (Summary.of(values) for values in rng.normal(100, 3, (8, rounds)))
        told_apart += max(others, key=lambda other: other.median).is_above(default)
    assert told_apart / 400 < 0.08


def test_nothing_has_no_summary():
    with pytest.raises(ValueError, match="nothing"):
        Summary.of([])
