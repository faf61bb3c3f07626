"""The running average of the weights: what is measured and shipped, while training goes on with its own."""

from __future__ import annotations

import math

import numpy as np

EVERY = 8
"""Steps between two updates: an average over hundreds of steps needs no more."""


class Average:
    """An exponential average of a list of arrays, batch-norm statistics among them, over about ``horizon`` steps."""

    def __init__(self, weights: list[np.ndarray], horizon: int) -> None:
        self.weights = [np.array(weight) for weight in weights]
        self.updates = 0
        self._keep = math.exp(-EVERY / horizon) if horizon else 0.0

    def update(self, weights: list[np.ndarray]) -> None:
        """Take in the weights of now. The first updates count for more, so that the start is soon forgotten."""
        self.updates += 1
        keep = min(self._keep, self.updates / (self.updates + 9))
        for mean, weight in zip(self.weights, weights, strict=True):
            mean += np.float32(1 - keep) * (weight - mean)
