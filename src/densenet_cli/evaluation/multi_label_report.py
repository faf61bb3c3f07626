"""The results of an evaluation of a multi-label model, and their JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from densenet_cli.evaluation.probability_fit import Fit
from densenet_cli.evaluation.ranking import RankingCurve
from densenet_cli.evaluation.report import Proportion, failures_to_list, label_to_dict
from densenet_cli.labels import ClassLabel, Labels
from densenet_cli.results import Failure
from densenet_cli.text import to_unicode


@dataclass(frozen=True, slots=True)
class DecisionMetrics:
    """Metrics of decisions: whether each of a number of images has a class.

    Attributes:
        positives: Number of images that have the class.
        predicted: Number of images that are predicted to have it.
        correct: Number of images that are both.
    """

    positives: int
    predicted: int
    correct: int

    @property
    def precision(self) -> float | None:
        """Share of the predictions that are correct, or None if there are none."""
        return self.correct / self.predicted if self.predicted else None

    @property
    def recall(self) -> float | None:
        """Share of the positives that are predicted, or None if there are none."""
        return self.correct / self.positives if self.positives else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN), or None without positives and predictions."""
        total = self.positives + self.predicted
        return 2 * self.correct / total if total else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMetrics(DecisionMetrics):
    """Metrics of one class.

    Attributes:
        position: Position in the head.
        label: Label of the class.
        images: Number of images of which it is known whether they have the class, at least 1.
        average_precision: See ``RankingCurve``.
        roc_auc: See ``RankingCurve``.
        curve: Points of the ROC and the precision-recall curve.
    """

    position: int
    label: ClassLabel
    images: int
    average_precision: float | None
    roc_auc: float | None
    curve: RankingCurve = field(repr=False)

    @property
    def has_both(self) -> bool:
        """Whether there are images of the class and others. Only then are its metrics part of means."""
        return 0 < self.positives < self.images


@dataclass(frozen=True)
class MultiLabelReport:
    """The results of an evaluation of a multi-label model.

    Means are over the classes that some images have and others do not.

    Attributes:
        model: Name of the model.
        labels: Labels of the model.
        settings: Settings that the results depend on, as JSON types.
        min_prob: The probability from which an image is predicted to have a class; None for the thresholds of the
            model's calibration.
        images: Number of classified images, at least 1.
        subset_accuracy: The images without a wrong decision.
        failures: Name and error of each image that could not be classified.
        classes: The classes with known values, in the order of the head, at least 1.
        fit: How well the probabilities fit the classes.
        uncalibrated: The fit of the network's own probabilities, if the model is calibrated.
        is_interrupted: Whether the evaluation was interrupted before the last image.
    """

    model: str
    labels: Labels
    settings: Mapping[str, Any]
    min_prob: float | None
    images: int
    subset_accuracy: Proportion
    failures: tuple[tuple[str, Failure], ...]
    classes: tuple[LabelMetrics, ...]
    fit: Fit
    uncalibrated: Fit | None = None
    is_interrupted: bool = False

    @property
    def averaged_classes(self) -> list[LabelMetrics]:
        """The classes that means are over."""
        return [metrics for metrics in self.classes if metrics.has_both]

    @property
    def left_out_classes(self) -> list[LabelMetrics]:
        """The classes that all or none of the images have."""
        return [metrics for metrics in self.classes if not metrics.has_both]

    @property
    def mean_average_precision(self) -> float | None:
        """Mean of the average precisions, or None if there is no class to average over."""
        return _mean([metrics.average_precision for metrics in self.averaged_classes])

    @property
    def mean_roc_auc(self) -> float | None:
        """Mean of the areas under the ROC curves, or None if there is no class to average over."""
        return _mean([metrics.roc_auc for metrics in self.averaged_classes])

    @property
    def precision(self) -> float | None:
        """Mean precision; 0 for a class that was never predicted."""
        return _mean([metrics.precision for metrics in self.averaged_classes])

    @property
    def recall(self) -> float | None:
        """Mean recall."""
        return _mean([metrics.recall for metrics in self.averaged_classes])

    @property
    def f1(self) -> float | None:
        """Mean F1, also called macro F1."""
        return _mean([metrics.f1 for metrics in self.averaged_classes])

    @property
    def micro(self) -> DecisionMetrics:
        """Metrics of all decisions about all classes together."""
        return DecisionMetrics(
            sum(metrics.positives for metrics in self.classes),
            sum(metrics.predicted for metrics in self.classes),
            sum(metrics.correct for metrics in self.classes),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON types (see ``docs/reference/commands/evaluate.md``)."""
        return {
            "model": to_unicode(self.model),
            "settings": dict(self.settings),
            "interrupted": self.is_interrupted,
            "images": self.images,
            "failed": len(self.failures),
            "classes": len(self.classes),
            "averaged_classes": len(self.averaged_classes),
            "subset_accuracy": self.subset_accuracy.to_dict(),
            "mean_average_precision": self.mean_average_precision,
            "mean_roc_auc": self.mean_roc_auc,
            **vars(self.fit),
            "uncalibrated": vars(self.uncalibrated) if self.uncalibrated else None,
            "macro": _decisions_to_dict(self),
            "micro": _decisions_to_dict(self.micro),
            "per_class": [
                {
                    **label_to_dict(metrics.label),
                    "images": metrics.images,
                    "positives": metrics.positives,
                    "predicted": metrics.predicted,
                    "correct": metrics.correct,
                    "average_precision": metrics.average_precision,
                    "roc_auc": metrics.roc_auc,
                    **_decisions_to_dict(metrics),
                }
                for metrics in self.classes
            ],
            "failures": failures_to_list(self.failures, self.model),
        }


def _decisions_to_dict(metrics: DecisionMetrics | MultiLabelReport) -> dict[str, float | None]:
    return {"precision": metrics.precision, "recall": metrics.recall, "f1": metrics.f1}


def _mean(values: list[float | None]) -> float | None:
    return fmean(value or 0.0 for value in values) if values else None
