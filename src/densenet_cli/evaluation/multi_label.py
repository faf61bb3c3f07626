"""Evaluation of multi-label models: each class is a separate decision, so an image can have several labels or none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from densenet_cli.errors import DensenetError, UsageError
from densenet_cli.evaluation.metrics import check_images
from densenet_cli.evaluation.multi_label_report import LabelMetrics, MultiLabelReport
from densenet_cli.evaluation.probability_fit import Fit
from densenet_cli.evaluation.ranking import RankingCurve
from densenet_cli.evaluation.report import Proportion
from densenet_cli.results import MIN_PROB, Failure

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray
    from densenet_cli.classifier import Classifier
    from densenet_cli.datasets import MultiLabelSource
    from densenet_cli.pipeline import Result

MAX_CURVE_POINTS = 200
"""Thresholds that are kept of each class, for drawing."""


def evaluate_multi_label(
    classifier: Classifier, sources: Iterable[MultiLabelSource], *, min_prob: float | None = None
) -> MultiLabelReport:
    """Evaluate a multi-label classifier. Memory use grows by 5 bytes per image and
    class, or 9 if it is calibrated.

    Args:
        classifier: The classifier.
        sources: The images and their classes. Iterated in a separate thread.
        min_prob: The probability from which an image is predicted to have a class, in [0, 1]. Defaults to 0.5, or to
            the thresholds of the model's calibration.

    Raises:
        UsageError: The classifier is not a multi-label model.
        DensenetError: No image could be classified.
        CheckpointError: The network produced NaN or infinite values.
    """
    if not classifier.config.is_multi_label:
        raise UsageError(f"{classifier.model} is not a multi-label model. Use `evaluate`.")
    metrics = MultiLabelAccumulator(classifier, min_prob)
    for result in classifier.stream(sources, metrics.outputs):
        metrics.add(result)
    return metrics.report()


class LabelMistake(NamedTuple):
    """A class that was predicted for an image that does not have it, or missed.

    Attributes:
        position: Position of the class in the head.
        is_missed: Whether the image has the class.
        probability: Probability of the class.
    """

    position: int
    is_missed: bool
    probability: float

    @property
    def confidence(self) -> float:
        """The probability that the model gives to the wrong decision."""
        return 1 - self.probability if self.is_missed else self.probability


@dataclass(frozen=True, slots=True)
class MultiLabelOutcome:
    """How one image was classified.

    Attributes:
        source: Name of the image.
        positives: Positions of its classes in the head.
        mistakes: The wrong decisions, the most confident first.
        error: Why the image could not be classified, or None.
    """

    source: str
    positives: frozenset[int]
    mistakes: tuple[LabelMistake, ...] = ()
    error: Failure | None = None

    @classmethod
    def from_result(cls, result: Result[MultiLabelSource], minima: float | FloatArray) -> MultiLabelOutcome:
        """Compare a result with the classes of its source.

        ``minima`` are the probabilities from which an image is predicted to have each class.
        """
        source = result.source
        if result.error:
            return cls(source.name, source.positives, error=Failure.of(result.error))
        probabilities = result.outputs["probabilities"]
        predicted = frozenset(np.flatnonzero(probabilities >= minima).tolist())
        wrong = (predicted ^ source.positives) - source.unknown
        mistakes = [
            LabelMistake(position, position in source.positives, float(probabilities[position])) for position in wrong
        ]
        mistakes.sort(key=lambda mistake: (-mistake.confidence, mistake.position))
        return cls(source.name, source.positives, tuple(mistakes))

    @property
    def is_mistake(self) -> bool:
        """Whether a decision was wrong."""
        return bool(self.mistakes)

    @property
    def confidence(self) -> float:
        """The confidence of the most confident mistake, 0 if there is none."""
        return self.mistakes[0].confidence if self.mistakes else 0.0


class MultiLabelAccumulator:
    """The probabilities and classes of all images.

    Args:
        classifier: The classifier.
        min_prob: See ``evaluate_multi_label``.

    Attributes:
        images: Number of classified images.
        failures: Name and error of each image that could not be classified.
        outputs: What ``Classifier.stream`` must compute.
    """

    def __init__(self, classifier: Classifier, min_prob: float | None = None) -> None:
        self._classifier = classifier
        if min_prob is None and not classifier.calibration:
            min_prob = MIN_PROB
        self._min_prob = min_prob
        calibrated = classifier.calibration.thresholds if classifier.calibration else ()
        self._minima = np.array(calibrated if min_prob is None else [min_prob] * len(classifier.labels), np.float32)
        self.images = 0
        self.failures: list[tuple[str, Failure]] = []
        self._without_mistake = 0
        self.outputs = ("probabilities", "raw_probabilities") if classifier.calibration else ("probabilities",)
        self._probabilities: list[FloatArray] = []
        self._uncalibrated: list[FloatArray] = []
        self._targets: list[np.ndarray[tuple[int], np.dtype[np.int8]]] = []
        """Per image and class: 1 if it has the class, 0 if not, -1 if it is unknown."""

    def add(self, result: Result[MultiLabelSource]) -> MultiLabelOutcome:
        """Add the result of one image, and return its outcome."""
        outcome = MultiLabelOutcome.from_result(result, self._minima)
        if outcome.error is not None:
            self.failures.append((outcome.source, outcome.error))
            return outcome
        self.images += 1
        self._without_mistake += not outcome.is_mistake
        probabilities = result.outputs["probabilities"]
        self._targets.append(result.source.targets(len(probabilities)))
        self._probabilities.append(probabilities.copy())  # The row may be a view of a batch.
        if self._classifier.calibration:
            self._uncalibrated.append(result.outputs["raw_probabilities"].copy())
        return outcome

    def report(self) -> MultiLabelReport:
        """Return the report.

        Raises:
            DensenetError: No image was classified, or all classes of all images are unknown.
        """
        check_images(self.images, len(self.failures))
        classifier, min_prob = self._classifier, self._min_prob
        probabilities, targets = np.stack(self._probabilities), np.stack(self._targets)
        classes = []
        for position, label in enumerate(classifier.labels):
            is_known = targets[:, position] >= 0
            if not is_known.any():
                continue
            is_positive, scores = targets[is_known, position] == 1, probabilities[is_known, position]
            is_predicted = scores >= self._minima[position]
            curve = RankingCurve.of(is_positive, scores)
            classes.append(
                LabelMetrics(
                    position=position,
                    label=label,
                    images=len(scores),
                    positives=curve.positives,
                    predicted=int(is_predicted.sum()),
                    correct=int((is_predicted & is_positive).sum()),
                    average_precision=curve.average_precision,
                    roc_auc=curve.roc_auc,
                    curve=curve.sample(MAX_CURVE_POINTS),
                )
            )
        if not classes:
            raise DensenetError(
                "No images to evaluate: whether they have a class is unknown for all images and classes."
            )
        return MultiLabelReport(
            model=classifier.model,
            labels=classifier.labels,
            settings={**classifier.preprocessing.to_dict(), "min_prob": min_prob},
            min_prob=min_prob,
            images=self.images,
            subset_accuracy=Proportion(self._without_mistake, self.images),
            failures=tuple(self.failures),
            classes=tuple(classes),
            fit=Fit.of_labels(probabilities, targets),
            uncalibrated=Fit.of_labels(np.stack(self._uncalibrated), targets) if self._uncalibrated else None,
        )
