"""The learning rate, held against the formulas of the papers."""

from __future__ import annotations

import math

import pytest

from densenet_cli.training.averaging import EVERY, Average
from densenet_cli.training.schedule import learning_rate
from densenet_cli.training.settings import Phase, Settings

SETTINGS = Settings(sizes=(Phase(32, 6), Phase(48, 5)), learning_rate=0.2, warmup=1)


def test_warm_up_is_linear():
    assert [learning_rate(SETTINGS, epoch) for epoch in (0, 0.25, 0.5)] == pytest.approx([0, 0.05, 0.1])


def test_cosine_falls_to_zero():
    assert learning_rate(SETTINGS, 1) == pytest.approx(0.2)
    assert learning_rate(SETTINGS, 6) == pytest.approx(0.1)
    assert learning_rate(SETTINGS, 8.5) == pytest.approx(0.1 * (1 + math.cos(math.pi * 0.75)))
    assert learning_rate(SETTINGS, 11) == pytest.approx(0, abs=1e-12)


def test_steps_are_the_papers():
    settings = Settings(sizes=(Phase(32, 300),), learning_rate=0.1, schedule="step", warmup=0)
    rates = [learning_rate(settings, epoch) for epoch in (0, 149.9, 150, 224.9, 225, 300)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_an_average_forgets_its_start_and_follows_slowly():
    import numpy as np

    average = Average([np.zeros(1, np.float32)], horizon=80)
    assert [average.is_due(step) for step in (EVERY - 1, EVERY, 2 * EVERY)] == [False, True, True]
    for _ in range(100):
        average.update([np.ones(1, np.float32)])
    assert average.weights[0][0] > 0.999
    before = float(average.weights[0][0])
    average.update([np.full(1, 2, np.float32)])
    assert average.weights[0][0] == pytest.approx(before + (2 - before) * (1 - math.exp(-EVERY / 80)), abs=1e-6)
    assert not Average([np.zeros(1, np.float32)], horizon=0).is_due(EVERY)
