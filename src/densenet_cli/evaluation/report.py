"""The results of an evaluation, and their JSON form."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from densenet_cli.evaluation.probability_fit import CalibrationBin, ProbabilityFit
from densenet_cli.labels import ClassLabel, Labels
from densenet_cli.results import Failure, Prediction
from densenet_cli.text import to_unicode

if TYPE_CHECKING:
    from densenet_cli._types import IntArray
    from densenet_cli.calibration.selective import RiskCoverageCurve

MAX_PAIRS = 20
"""Number of pairs in ``most_confused`` of the JSON form; ``confusion`` contains all."""


ERROR_LIMITS = (0.01, 0.05, 0.1)
"""Errors for which a report states how many images could be labeled."""
MAX_CURVE_POINTS = 200
"""Points of the risk-coverage curve in the JSON form."""

Z_95 = 1.959963984540054
"""The central 95% of a normal distribution lie within this many standard deviations of the mean."""


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


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """Metrics of one class.

    Attributes:
        position: Position in the head.
        label: Label of the class.
        images: Number of images of the class, at least 1.
        predicted: Number of images predicted as the class.
        correct: Number of images that are both.
    """

    position: int
    label: ClassLabel
    images: int
    predicted: int
    correct: int

    @property
    def precision(self) -> float | None:
        """Share of the images predicted as the class that are correct, or None if there are none."""
        return self.correct / self.predicted if self.predicted else None

    @property
    def recall(self) -> float:
        """Share of the images of the class that are correct."""
        return self.correct / self.images

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall: 2 TP / (2 TP + FP + FN)."""
        return 2 * self.correct / (self.images + self.predicted)


@dataclass(frozen=True, slots=True)
class ConfusedPair:
    """Images of one class that were predicted as another.

    Attributes:
        target: Label of the true class.
        predicted: Label of the predicted class.
        count: Number of images.
        share: Share of the images of the true class.
    """

    target: ClassLabel
    predicted: ClassLabel
    count: int
    share: float


@dataclass(frozen=True)
class EvaluationReport:
    """The results of an evaluation.

    Attributes:
        model: Name of the model.
        labels: Labels of the model.
        settings: Settings that the results depend on, as JSON types.
        competing_classes: Number of classes that could be predicted.
        images: Number of classified images, at least 1.
        failures: Name and error of each image that could not be classified.
        top1, top5: Top-1 and top-5 accuracy.
        fit: How well the probabilities fit the classes.
        confusion: Confusion matrix: (true, predicted) position -> number of images, for pairs that occurred.
        risk_coverage: Error among the most confident images, for each number of them.
        uncalibrated: The fit of the network's own probabilities, if the model is calibrated.
        is_interrupted: Whether the evaluation was interrupted before the last image.
    """

    model: str
    labels: Labels
    settings: Mapping[str, Any]
    competing_classes: int
    images: int
    failures: tuple[tuple[str, Failure], ...]
    top1: Proportion
    top5: Proportion
    fit: ProbabilityFit
    confusion: Mapping[tuple[int, int], int] = field(repr=False)
    risk_coverage: RiskCoverageCurve = field(repr=False, compare=False)
    uncalibrated: ProbabilityFit | None = None
    is_interrupted: bool = False

    @property
    def negative_log_likelihood(self) -> float:
        """Mean negative logarithm of the probability of the true class, in nats."""
        return self.fit.negative_log_likelihood

    @property
    def calibration_error(self) -> float:
        """Expected calibration error, in [0, 1]. See ``ProbabilityFit``."""
        return self.fit.calibration_error

    @property
    def bins(self) -> tuple[CalibrationBin, ...]:
        """The images by confidence."""
        return self.fit.bins

    @property
    def labeled_shares(self) -> dict[float, float]:
        """Error limit -> share of these images that could be labeled with at most this error, for ``ERROR_LIMITS``."""
        return {limit: self.risk_coverage.coverage_at(limit) for limit in ERROR_LIMITS}

    @cached_property
    def classes(self) -> tuple[ClassMetrics, ...]:
        """The classes that have images, in the order of the head."""
        images: Counter[int] = Counter()
        predictions: Counter[int] = Counter()
        for (target, predicted), count in self.confusion.items():
            images[target] += count
            predictions[predicted] += count
        return tuple(
            ClassMetrics(
                position,
                self.labels[position],
                images[position],
                predictions[position],
                self.confusion.get((position, position), 0),
            )
            for position in sorted(images)
        )

    @property
    def precision(self) -> float:
        """Mean precision over classes; 0 for a class that was never predicted."""
        return sum(metrics.precision or 0.0 for metrics in self.classes) / len(self.classes)

    @property
    def recall(self) -> float:
        """Mean recall over classes, also called balanced accuracy."""
        return sum(metrics.recall for metrics in self.classes) / len(self.classes)

    @property
    def f1(self) -> float:
        """Mean F1 over classes."""
        return sum(metrics.f1 for metrics in self.classes) / len(self.classes)

    def most_confused(self, max_pairs: int) -> list[ConfusedPair]:
        """Return up to ``max_pairs`` pairs of a true and a different predicted class, those with most images first."""
        images = {metrics.position: metrics.images for metrics in self.classes}
        confused = ((pair, count) for pair, count in self.confusion.items() if pair[0] != pair[1])
        ordered = sorted(confused, key=lambda item: (-item[1], -item[1] / images[item[0][0]], item[0]))
        return [
            ConfusedPair(self.labels[target], self.labels[predicted], count, count / images[target])
            for (target, predicted), count in ordered[:max_pairs]
        ]

    def confusion_matrix(self, max_rows: int) -> tuple[int, IntArray]:
        """Return the confusion matrix as an array.

        Args:
            max_rows: Maximum number of rows. If there are more classes, neighbors share a row and a column.

        Returns:
            The number of classes per row, and int64 counts of shape (rows, columns). Rows are true classes and columns
            are predicted classes, in the order of the head. If images were predicted as a class without images, they
            are counted in an additional last column.
        """
        step = -(-len(self.classes) // max_rows)
        row_of = {metrics.position: number // step for number, metrics in enumerate(self.classes)}
        rows = -(-len(self.classes) // step)
        counts = np.zeros((rows, rows + 1), np.int64)
        for (target, predicted), count in self.confusion.items():
            counts[row_of[target], row_of.get(predicted, rows)] += count
        return step, counts if counts[:, rows].any() else counts[:, :rows]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON types (see ``docs/reference/commands/evaluate.md``)."""
        return {
            "model": to_unicode(self.model),
            "settings": dict(self.settings),
            "interrupted": self.is_interrupted,
            "images": self.images,
            "failed": len(self.failures),
            "classes": len(self.classes),
            "competing_classes": self.competing_classes,
            "top1": self.top1.to_dict(),
            "top5": self.top5.to_dict(),
            "negative_log_likelihood": self.negative_log_likelihood,
            "calibration_error": self.calibration_error,
            "uncalibrated": self.uncalibrated
            and {
                "negative_log_likelihood": self.uncalibrated.negative_log_likelihood,
                "calibration_error": self.uncalibrated.calibration_error,
            },
            "risk_coverage": {
                "area": self.risk_coverage.area,
                "labeled": [
                    {"max_error": limit, "share": share} for limit, share in sorted(self.labeled_shares.items())
                ],
                "curve": self.risk_coverage.sample(MAX_CURVE_POINTS),
            },
            "macro": {"precision": self.precision, "recall": self.recall, "f1": self.f1},
            "calibration": [bin.to_dict() for bin in self.bins],
            "per_class": [
                {
                    **label_to_dict(metrics.label),
                    "images": metrics.images,
                    "predicted": metrics.predicted,
                    "correct": metrics.correct,
                    "precision": metrics.precision,
                    "recall": metrics.recall,
                    "f1": metrics.f1,
                }
                for metrics in self.classes
            ],
            "most_confused": [
                {
                    "true": label_to_dict(pair.target),
                    "predicted": label_to_dict(pair.predicted),
                    "count": pair.count,
                    "share": pair.share,
                }
                for pair in self.most_confused(MAX_PAIRS)
            ],
            "confusion": [
                [self.labels[target].index, self.labels[predicted].index, count]
                for (target, predicted), count in sorted(self.confusion.items())
            ],
            "failures": failures_to_list(self.failures, self.model),
        }


def failures_to_list(failures: Iterable[tuple[str, Failure]], model: str) -> list[dict[str, Any]]:
    """Return the records of failed images as ``predict`` writes them."""
    return [Prediction(name, model, error=failure).to_dict() for name, failure in failures]


def label_to_dict(label: ClassLabel) -> dict[str, Any]:
    """Return a label as JSON types."""
    return {
        "index": label.index,
        "id": None if label.id is None else to_unicode(label.id),
        "label": to_unicode(label.name),
    }
