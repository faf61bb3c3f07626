"""The running average of the weights: what is measured and kept, while training goes on with its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    FloatArray = np.ndarray[Any, np.dtype[np.float32]]

EVERY = 8
"""Steps between two updates: an average over hundreds of steps needs no more."""

START = 9
"""The n-th update keeps no more than ``n / (n + START)`` of the average, so the first weights are soon forgotten."""


class Average:
    """An exponential average of a network's arrays, batch norm statistics among them.

    Args:
        weights: to begin with.
        horizon: steps over which it averages; 0 for the last weights alone.
    """

    def __init__(self, weights: Sequence[FloatArray], horizon: int) -> None:
        self.weights = [np.array(weight) for weight in weights]
        self.updates = 0
        self._horizon = horizon

    def is_due(self, step: int) -> bool:
        """Whether the weights after ``step`` steps are to be taken in."""
        return self._horizon > 0 and step % EVERY == 0

    def update(self, weights: Sequence[FloatArray]) -> None:
        """Take the weights of now in."""
        self.updates += 1
        keep = min(math.exp(-EVERY / self._horizon), self.updates / (self.updates + START))
        for mean, weight in zip(self.weights, weights, strict=True):
            mean += np.float32(1 - keep) * (weight - mean)
