"""Statistical formulas and their sources, on plain numbers."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

BINS = 15
BIN_EDGES = tuple(edge / BINS for edge in range(BINS + 1))
"""Edges of the confidence bins. A bin contains its upper edge but not its lower one."""

Z_95 = 1.959963984540054
"""The central 95% of a normal distribution lie within this many standard deviations of the mean."""

MIN_PROBABILITY = 2.0**-126
"""Replaces a probability of 0 in logarithms: the smallest normal float32."""


@dataclass(frozen=True, slots=True)
class Proportion:
    """A proportion of successes with its 95% confidence interval.

    Attributes:
        successes: Number of successes.
        trials: Number of trials, at least 1.
    """

    successes: int
    trials: int

    @property
    def value(self) -> float:
        """The proportion, in [0, 1]."""
        return self.successes / self.trials

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% Wilson score interval, in [0, 1] (Wilson, JASA 22, 1927).

        Unlike the normal approximation, it stays within [0, 1] and keeps its coverage for few trials and for
        proportions near 0 and 1 (Brown, Cai, and DasGupta, "Interval Estimation for a Binomial Proportion", Statistical
        Science 16, 2001).
        """
        n, p, z = self.trials, self.value, Z_95
        scale = 1 + z * z / n
        center = (p + z * z / (2 * n)) / scale
        margin = z / scale * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        # The limits are exactly 0 and 1 here; the formula is off by a rounding error.
        low = 0.0 if self.successes == 0 else max(0.0, center - margin)
        high = 1.0 if self.successes == n else min(1.0, center + margin)
        return low, high

    def to_dict(self) -> dict[str, float | int]:
        """Return the proportion as JSON types."""
        low, high = self.interval
        return {"correct": self.successes, "value": self.value, "low": low, "high": high}


@dataclass(slots=True)
class CalibrationBin:
    """The images whose confidence (probability of the predicted class) is in (low, high].

    Attributes:
        low, high: Edges of the bin.
        images: Number of images.
        correct: Number of correctly classified images.
        confidence_sum: Sum of the confidences.
    """

    low: float
    high: float
    images: int = 0
    correct: int = 0
    confidence_sum: float = 0.0

    @property
    def confidence(self) -> float | None:
        """The mean confidence, or None if the bin is empty."""
        return self.confidence_sum / self.images if self.images else None

    @property
    def accuracy(self) -> float | None:
        """The accuracy, or None if the bin is empty."""
        return self.correct / self.images if self.images else None

    def to_dict(self) -> dict[str, float | int | None]:
        """Return the bin as JSON types."""
        return {
            "low": self.low,
            "high": self.high,
            "images": self.images,
            "confidence": self.confidence,
            "accuracy": self.accuracy,
        }


def bin_index(confidence: float) -> int:
    """Return the index of the bin for a confidence. The last bin also contains values that rounding raised above 1."""
    return min(max(bisect_left(BIN_EDGES, confidence) - 1, 0), BINS - 1)


def negative_log_likelihood(probability: float) -> float:
    """Return minus the natural logarithm of the probability of the true class, in nats; at most 87.3."""
    return -math.log(max(probability, MIN_PROBABILITY))
