"""Selective classification: label only the images that the model is confident about, with a limit for the error.

The method is "selection with guaranteed risk" (Geifman and El-Yaniv, "Selective Classification for Deep Neural
Networks", NeurIPS 2017, algorithm 1).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from densenet_cli._types import BoolArray, FloatArray

CONFIDENCE_LEVEL = 0.95
"""Probability, over calibration images, that the limit holds."""


class ErrorThreshold(NamedTuple):
    """A confidence from which images are labeled.

    Attributes:
        confidence: The threshold, or infinity if no threshold achieves the limit.
        coverage: Share of the calibration images that have it.
        error: Share of these whose label is wrong.
        bound: Upper bound of the error on new images.
    """

    confidence: float
    coverage: float = 0.0
    error: float = 0.0
    bound: float = 0.0


def error_bound(errors: int, images: int, confidence_level: float) -> float:
    """Return the exact upper confidence bound of an error rate (Clopper and Pearson, 1934).

    It is the rate for which ``errors`` or fewer errors in ``images`` images have probability 1 - ``confidence_level``.
    """
    if errors >= images:
        return 1.0
    delta = 1 - confidence_level
    if errors == 0:
        return float(-math.expm1(math.log(delta) / images))
    counts = np.arange(errors + 1)
    logs = np.log(np.arange(1, errors + 1)).cumsum()
    falling = np.log(np.arange(images, images - errors, -1)).cumsum()
    coefficients = np.concatenate([[0.0], falling - logs])
    low, high = errors / images, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        terms = coefficients + counts * math.log(middle) + (images - counts) * math.log1p(-middle)
        tail = np.exp(terms).sum()
        low, high = (middle, high) if tail > delta else (low, middle)
    return high


def find_threshold(
    confidences: FloatArray,
    is_correct: BoolArray,
    max_error: float,
    confidence_level: float = CONFIDENCE_LEVEL,
) -> ErrorThreshold:
    """Return a low confidence with a bound of the error of at most ``max_error``.

    All images are tried first, and then thresholds by binary search, of which each selects enough images to achieve
    ``max_error`` if all of their labels are right. The bounds share the probability to be wrong equally, so that all of
    them hold together with probability ``confidence_level``.

    The result is not always the lowest possible threshold: the bound of fewer images can be higher although their error
    is lower, and the search does not see this.

    Args:
        confidences: Confidence of each calibration image, in any order.
        is_correct: Whether its label is right.
        max_error: In (0, 1).
        confidence_level: In (0, 1).
    """
    images = len(confidences)
    best = ErrorThreshold(math.inf)
    if not images:
        return best
    order = np.asarray(confidences).argsort(kind="stable")
    values, wrong = np.asarray(confidences)[order], ~np.asarray(is_correct)[order]
    errors_from = np.append(wrong[::-1].cumsum()[::-1], 0)
    step_level = 1 - (1 - confidence_level) / max_thresholds(images)
    low, high = 0, images - _min_labeled(images, max_error, confidence_level) + 1
    middle = 0
    while low < high:
        first = int(values.searchsorted(values[middle]))  # images with equal confidences are labeled together
        errors, count = int(errors_from[first]), images - first
        # The bound is larger than the error, and takes long to compute for many errors.
        bound = 1.0 if errors > max_error * count else error_bound(errors, count, step_level)
        if bound <= max_error:
            if count / images > best.coverage:
                best = ErrorThreshold(float(values[middle]), count / images, errors / count, bound)
            high = middle
        else:
            low = middle + 1
        middle = (low + high) // 2
    return best


def max_thresholds(images: int) -> int:
    """Return how many thresholds ``find_threshold`` tries at most: the lowest, and floor(log2(n)) + 1 by search."""
    return images.bit_length() + 1


def _min_labeled(images: int, max_error: float, confidence_level: float) -> int:
    """Return the number of labels, all of them right, whose bound is at most ``max_error``."""
    return math.ceil(math.log((1 - confidence_level) / max_thresholds(images)) / math.log1p(-max_error))


def min_images(max_error: float, confidence_level: float = CONFIDENCE_LEVEL) -> int:
    """Return the number of correctly labeled calibration images from which ``max_error`` can be achieved."""
    images = 1
    for _ in range(50):
        needed = _min_labeled(images, max_error, confidence_level)
        if images >= needed:
            return images
        images = needed
    return images


class RiskCoverageCurve(NamedTuple):
    """The error among the images that are labeled, for each threshold from high to low.

    Attributes:
        coverage: Share of the images that are labeled, increasing to 1, float64 of shape (thresholds,).
        risk: Share of these whose label is wrong.
        area: Area under the curve: the mean risk over the images in the order of their confidence.
    """

    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]
    area: float

    @classmethod
    def of(cls, confidences: FloatArray, is_correct: BoolArray) -> Self:
        """Return the curve with each distinct confidence as a threshold. There is at least one image."""
        order = (-np.asarray(confidences)).argsort(kind="stable")
        values, wrong = np.asarray(confidences)[order], ~np.asarray(is_correct)[order]
        last_of_equal = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)
        counts: NDArray[Any] = last_of_equal + 1
        risk = wrong.cumsum()[last_of_equal] / counts
        area = float((risk * np.diff(counts, prepend=0)).sum() / len(values))
        return cls(counts / len(values), risk, area)

    def sample(self, count: int) -> list[tuple[float, float]]:
        """Return up to ``count`` points (coverage, risk), with the last one, for drawing."""
        selected = np.unique(np.linspace(0, len(self.risk) - 1, min(count, len(self.risk))).round().astype(int))
        return list(zip(self.coverage[selected].tolist(), self.risk[selected].tolist(), strict=True))

    def coverage_at(self, max_risk: float) -> float:
        """Return the largest share of the images that can be labeled with at most this risk on these images."""
        return float(self.coverage[self.risk <= max_risk].max(initial=0.0))
