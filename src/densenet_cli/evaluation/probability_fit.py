"""How well probabilities fit the classes of images: negative log-likelihood and calibration by confidence."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from densenet_cli.calibration.temperature import BINS, expected_calibration_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from densenet_cli._types import FloatArray

BIN_EDGES = tuple(edge / BINS for edge in range(BINS + 1))
"""Edges of the confidence bins. A bin contains its upper edge but not its lower one."""

MIN_PROBABILITY = 2.0**-126
"""Replaces a probability of 0 in logarithms: the smallest normal float32."""


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


@dataclass(slots=True)
class ProbabilityFit:
    """How well probabilities fit the classes of images.

    Attributes:
        bins: The images by confidence.
        images: Number of images.
        loss_sum: Sum of the negative logarithms of the probability of the true class, in nats.
    """

    bins: tuple[CalibrationBin, ...]
    images: int = 0
    loss_sum: float = 0.0

    @classmethod
    def empty(cls) -> Self:
        """Return the fit without images."""
        return cls(tuple(CalibrationBin(low, high) for low, high in pairwise(BIN_EDGES)))

    def add(self, confidence: float, is_correct: bool, target_probability: float) -> None:
        """Add an image: the probabilities of its most probable class, which may be its class, and of its class."""
        self.images += 1
        self.loss_sum += negative_log_likelihood(target_probability)
        bin = self.bins[bin_index(confidence)]
        bin.images += 1
        bin.confidence_sum += confidence
        bin.correct += is_correct

    @property
    def negative_log_likelihood(self) -> float:
        """Mean negative logarithm of the probability of the true class, in nats."""
        return self.loss_sum / self.images

    @property
    def calibration_error(self) -> float:
        """Expected calibration error, in [0, 1]: the mean gap between confidence and accuracy over all images.

        Equation 3 of Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, with 15 bins of equal width.
        """
        return sum(abs(bin.confidence_sum - bin.correct) for bin in self.bins) / self.images


@dataclass(frozen=True)
class Fit:
    """How well the probabilities of several images fit their classes.

    Attributes:
        negative_log_likelihood: Mean over the images, in nats; for a multi-label model, the mean binary cross-entropy
            of the labels.
        calibration_error: Expected calibration error, in [0, 1]; for a multi-label model, the mean over the labels.
    """

    negative_log_likelihood: float
    calibration_error: float

    @classmethod
    def of_labels(cls, probabilities: FloatArray, targets: NDArray[Any]) -> Self:
        """Return the fit of a multi-label model.

        Args:
            probabilities: Shape (images, classes).
            targets: 1 for a class of the image, 0 for another class, and -1 if it is unknown. One is known.
        """
        losses, errors = [], []
        for values, truth in zip(probabilities.T, targets.T, strict=True):
            is_known = truth >= 0
            if is_known.any():
                known, is_positive = values[is_known].astype(np.float64), truth[is_known] == 1
                likelihoods = np.where(is_positive, known, 1 - known)
                losses.append(-np.log(np.maximum(likelihoods, MIN_PROBABILITY)).mean())
                errors.append(expected_calibration_error(values[is_known], is_positive))
        return cls(float(np.mean(losses)), float(np.mean(errors)))


def bin_index(confidence: float) -> int:
    """Return the index of the bin for a confidence. The last bin also contains values that rounding raised above 1."""
    return min(max(bisect_left(BIN_EDGES, confidence) - 1, 0), BINS - 1)


def negative_log_likelihood(probability: float) -> float:
    """Return minus the natural logarithm of the probability of the true class, in nats; at most 87.3."""
    return -math.log(max(probability, MIN_PROBABILITY))
