"""The formulas, each with its source. Plain numbers in, plain numbers out."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

BINS = 15
EDGES = tuple(edge / BINS for edge in range(BINS + 1))
"""Borders of the bins of confidence. A bin holds what is above its lower border and not above its upper one."""

Z = 1.959963984540054
"""Of the normal distribution, 95 % lie within so many standard deviations of the mean."""

LEAST = 2.0**-126
"""The smallest normal float32: what a probability of 0 counts as in a logarithm."""


@dataclass(frozen=True, slots=True)
class Proportion:
    """A share of successes with its 95 % interval.

    Attributes:
        successes, trials: the counts; at least one trial.
    """

    successes: int
    trials: int

    @property
    def value(self) -> float:
        """The share, in [0, 1]."""
        return self.successes / self.trials

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval of 95 %, in [0, 1] (Wilson, JASA 22, 1927).

        Unlike the usual one it never leaves [0, 1] and covers what it promises for few trials and for shares near 0 and
        1 too (Brown, Cai and DasGupta, "Interval estimation for a binomial proportion", Statistical Science 16, 2001).
        """
        n, p = self.trials, self.value
        spread = 1 + Z * Z / n
        middle = (p + Z * Z / (2 * n)) / spread
        half = Z / spread * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
        # Exactly 0 and 1 at the ends, which rounding would miss by a hair.
        low = 0.0 if self.successes == 0 else max(0.0, middle - half)
        high = 1.0 if self.successes == n else min(1.0, middle + half)
        return low, high

    def to_dict(self) -> dict[str, float | int]:
        """As JSON's types."""
        low, high = self.interval
        return {"correct": self.successes, "value": self.value, "low": low, "high": high}


@dataclass(slots=True)
class CalibrationBin:
    """The images whose confidence (the best class's probability) lies in (low, high].

    Attributes:
        low, high: the borders.
        images: how many there are.
        correct: how many of them were classified right.
        total: the sum of their confidences.
    """

    low: float
    high: float
    images: int = 0
    correct: int = 0
    total: float = 0.0

    @property
    def confidence(self) -> float | None:
        """Their mean confidence, None where there is no image."""
        return self.total / self.images if self.images else None

    @property
    def accuracy(self) -> float | None:
        """The share of them that is right, None where there is no image."""
        return self.correct / self.images if self.images else None

    def to_dict(self) -> dict[str, float | int | None]:
        """As JSON's types."""
        return {
            "low": self.low,
            "high": self.high,
            "images": self.images,
            "confidence": self.confidence,
            "accuracy": self.accuracy,
        }


def bin_of(confidence: float) -> int:
    """The bin of a confidence. Rounding may leave a float32 probability a hair above 1: that is the last bin's."""
    return min(max(bisect_left(EDGES, confidence) - 1, 0), BINS - 1)


def calibration_error(bins: tuple[CalibrationBin, ...]) -> float:
    """Expected calibration error, in [0, 1]: how far confidence and accuracy of a bin differ, weighted by its images.

    Equation 3 of Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, with their 15 bins of equal width.
    """
    return sum(abs(bin.total - bin.correct) for bin in bins) / sum(bin.images for bin in bins)


def surprise(probability: float) -> float:
    """Minus the natural logarithm of the true class's probability, in nats; at most 87.3."""
    return -math.log(max(probability, LEAST))
