"""The result of a measurement, and its JSON form: everything that a table, a plot or a page shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from densenet_cli.evaluation import statistics
from densenet_cli.evaluation.statistics import CalibrationBin, Proportion
from densenet_cli.labels import ClassLabel, Labels
from densenet_cli.results import Failure, Prediction
from densenet_cli.text import to_unicode

PAIRS = 20
"""Confused pairs that the JSON spells out; ``confusion`` has them all."""


@dataclass(frozen=True, slots=True)
class ClassResult:
    """How one class fared.

    Attributes:
        position: in the head.
        label: its label.
        images: how many show it, at least 1.
        predicted: how many were taken for it.
        correct: how many are both.
    """

    position: int
    label: ClassLabel
    images: int
    predicted: int
    correct: int

    @property
    def precision(self) -> float | None:
        """Share of the images taken for it that show it; None where none was."""
        return self.correct / self.predicted if self.predicted else None

    @property
    def recall(self) -> float:
        """Share of its images that were found."""
        return self.correct / self.images

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall: 2 TP / (2 TP + FP + FN)."""
        return 2 * self.correct / (self.images + self.predicted)


@dataclass(frozen=True, slots=True)
class Confusion:
    """Images of one class that were taken for another.

    Attributes:
        truth, predicted: the labels.
        count: how many images.
        share: of the true class's images.
    """

    truth: ClassLabel
    predicted: ClassLabel
    count: int
    share: float


@dataclass(frozen=True)
class Report:
    """A measurement.

    Attributes:
        model: the model's name.
        labels: what each position of its head means.
        settings: what else the numbers depend on, of JSON's types.
        competing: how many classes an image could be taken for.
        images: how many were classified, at least 1.
        failures: name and reason of those that could not be.
        top1, top5: how often the true class came first, and among the first five.
        negative_log_likelihood: mean of minus the logarithm of the true class's probability, in nats.
        bins: the images by confidence.
        confusion: (true, predicted) position -> images; only pairs that occurred.
        is_interrupted: whether images were left out because somebody ended the run.
    """

    model: str
    labels: Labels
    settings: Mapping[str, Any]
    competing: int
    images: int
    failures: tuple[tuple[str, Failure], ...]
    top1: Proportion
    top5: Proportion
    negative_log_likelihood: float
    bins: tuple[CalibrationBin, ...]
    confusion: Mapping[tuple[int, int], int] = field(repr=False)
    is_interrupted: bool = False

    @property
    def calibration_error(self) -> float:
        """Expected calibration error of 15 bins, in [0, 1]."""
        return statistics.calibration_error(self.bins)

    @cached_property
    def classes(self) -> tuple[ClassResult, ...]:
        """The classes of which there were images, in the head's order."""
        true: Counter[int] = Counter()
        predicted: Counter[int] = Counter()
        for (truth, taken_for), count in self.confusion.items():
            true[truth] += count
            predicted[taken_for] += count
        return tuple(
            ClassResult(
                position,
                self.labels[position],
                true[position],
                predicted[position],
                self.confusion.get((position,) * 2, 0),
            )
            for position in sorted(true)
        )

    @property
    def precision(self) -> float:
        """Mean precision of the classes; one that nothing was taken for counts as 0."""
        return sum(result.precision or 0.0 for result in self.classes) / len(self.classes)

    @property
    def recall(self) -> float:
        """Mean recall of the classes, also called balanced accuracy."""
        return sum(result.recall for result in self.classes) / len(self.classes)

    @property
    def f1(self) -> float:
        """Mean F1 of the classes."""
        return sum(result.f1 for result in self.classes) / len(self.classes)

    def most_confused(self, number: int) -> list[Confusion]:
        """The pairs of a true and a wrong class with the most images, up to ``number``."""
        images = {result.position: result.images for result in self.classes}
        wrong = ((pair, count) for pair, count in self.confusion.items() if pair[0] != pair[1])
        ordered = sorted(wrong, key=lambda item: (-item[1], -item[1] / images[item[0][0]], item[0]))
        return [
            Confusion(self.labels[truth], self.labels[predicted], count, count / images[truth])
            for (truth, predicted), count in ordered[:number]
        ]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON's types (``docs/reference/commands/evaluate.md`` describes it)."""
        return {
            "model": to_unicode(self.model),
            "settings": dict(self.settings),
            "interrupted": self.is_interrupted,
            "images": self.images,
            "failed": len(self.failures),
            "classes": len(self.classes),
            "competing_classes": self.competing,
            "top1": self.top1.to_dict(),
            "top5": self.top5.to_dict(),
            "negative_log_likelihood": self.negative_log_likelihood,
            "calibration_error": self.calibration_error,
            "macro": {"precision": self.precision, "recall": self.recall, "f1": self.f1},
            "calibration": [bin.to_dict() for bin in self.bins],
            "per_class": [
                {
                    **_label(result.label),
                    "images": result.images,
                    "predicted": result.predicted,
                    "correct": result.correct,
                    "precision": result.precision,
                    "recall": result.recall,
                    "f1": result.f1,
                }
                for result in self.classes
            ],
            "most_confused": [
                {
                    "true": _label(pair.truth),
                    "predicted": _label(pair.predicted),
                    "count": pair.count,
                    "share": pair.share,
                }
                for pair in self.most_confused(PAIRS)
            ],
            "confusion": [
                [self.labels[truth].index, self.labels[predicted].index, count]
                for (truth, predicted), count in sorted(self.confusion.items())
            ],
            "failures": [Prediction(name, self.model, error=failure).to_dict() for name, failure in self.failures],
        }


def _label(label: ClassLabel) -> dict[str, Any]:
    return {
        "index": label.index,
        "id": None if label.id is None else to_unicode(label.id),
        "label": to_unicode(label.name),
    }
