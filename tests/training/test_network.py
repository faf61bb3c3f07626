"""Initial weights and averaged weights."""

from __future__ import annotations

import math

import numpy as np
import pytest


def test_the_average_forgets_its_initial_weights(keras):
    from densenet_cli.training.network import AVERAGING_INTERVAL, WeightAverage

    average = WeightAverage([np.zeros(1, np.float32)], horizon=80)
    steps = (AVERAGING_INTERVAL - 1, AVERAGING_INTERVAL, 2 * AVERAGING_INTERVAL)
    assert [average.is_due(step) for step in steps] == [False, True, True]
    for _ in range(100):
        average.update([np.ones(1, np.float32)])
    assert average.weights[0][0] > 0.999
    before = float(average.weights[0][0])
    average.update([np.full(1, 2, np.float32)])
    expected = before + (2 - before) * (1 - math.exp(-AVERAGING_INTERVAL / 80))
    assert average.weights[0][0] == pytest.approx(expected, abs=1e-6)


def test_no_averaging(keras):
    from densenet_cli.training.network import AVERAGING_INTERVAL, WeightAverage

    assert not WeightAverage([np.zeros(1, np.float32)], horizon=0).is_due(AVERAGING_INTERVAL)
