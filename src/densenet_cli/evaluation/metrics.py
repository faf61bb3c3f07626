"""Metrics of a classifier on labeled images, accumulated in 5 bytes per image."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from densenet_cli.calibration.selective import RiskCoverageCurve
from densenet_cli.errors import DensenetError, UsageError
from densenet_cli.evaluation.probability_fit import ProbabilityFit
from densenet_cli.evaluation.report import EvaluationReport, Proportion
from densenet_cli.results import Failure
from densenet_cli.text import plural

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray
    from densenet_cli.classifier import Classifier
    from densenet_cli.datasets import LabeledSource
    from densenet_cli.pipeline import Result

TOP_K = 5


def evaluate(
    classifier: Classifier, sources: Iterable[LabeledSource], *, restrict_to: Sequence[int] | None = None
) -> EvaluationReport:
    """Evaluate a classifier. Memory use grows by 5 bytes per image.

    Args:
        classifier: The classifier.
        sources: The images and the positions of their classes in the head. Iterated in a separate thread.
        restrict_to: Positions of the classes that can be predicted; None for all.

    Raises:
        UsageError: The classifier is a multi-label model.
        DensenetError: No image could be classified.
        CheckpointError: The network produced NaN or infinite values.
    """
    if classifier.config.is_multi_label:
        raise UsageError(f"{classifier.model} is a multi-label model. Use `evaluate_multi_label`.")
    metrics = MetricsAccumulator(classifier, restrict_to)
    for result in classifier.stream(sources, metrics.outputs):
        metrics.add(result)
    return metrics.report()


@dataclass(frozen=True, slots=True)
class ImageOutcome:
    """How one image was classified.

    Attributes:
        source: Name of the image.
        target: Position of its class in the head.
        predicted: Position of the most probable class.
        confidence: Probability of the most probable class.
        target_probability: Probability of the image's class.
        target_rank: Rank of the image's class, 1 for the most probable one.
        error: Why the image could not be classified, else None. If it is set, the preceding four have no meaning.
    """

    source: str
    target: int
    predicted: int = -1
    confidence: float = 0.0
    target_probability: float = 0.0
    target_rank: int = 0
    error: Failure | None = None

    @classmethod
    def from_result(
        cls, result: Result[LabeledSource], restrict_to: Sequence[int] | None = None, output: str = "probabilities"
    ) -> ImageOutcome:
        """Compare an output of a result with the class of its source. See ``evaluate`` for ``restrict_to``."""
        source, target = result.source.name, result.source.target
        if result.error:
            return cls(source, target, error=Failure.of(result.error))
        probabilities = result.outputs[output]
        if restrict_to is not None:
            probabilities = _restrict(probabilities, restrict_to)
        predicted = int(probabilities.argmax())
        target_probability = probabilities[target]
        # Ties are broken by position, as in argmax and in a stable sort.
        rank = 1 + int((probabilities > target_probability).sum())
        rank += int((probabilities[:target] == target_probability).sum())
        return cls(source, target, predicted, float(probabilities[predicted]), float(target_probability), rank)

    @property
    def is_mistake(self) -> bool:
        """Whether the image was classified incorrectly."""
        return self.error is None and self.predicted != self.target


def _restrict(probabilities: FloatArray, positions: Sequence[int]) -> FloatArray:
    """Return probabilities that sum to 1 over ``positions``, and are -1 elsewhere so that they rank last."""
    selected = probabilities[list(positions)]
    total = selected.sum()
    restricted = np.full_like(probabilities, -1)
    restricted[list(positions)] = selected / total if total else 1 / len(selected)
    return restricted


class MetricsAccumulator:
    """Sums and counts over images, and the confidence of each. It does not keep the outcomes.

    Args:
        classifier: The classifier.
        restrict_to: Positions of the classes that can be predicted; None for all.

    Attributes:
        images: Number of classified images.
        failures: Name and error of each image that could not be classified.
        outputs: What ``Classifier.stream`` must compute.
    """

    def __init__(self, classifier: Classifier, restrict_to: Sequence[int] | None = None) -> None:
        self._classifier = classifier
        self._restrict_to = restrict_to
        self.images = 0
        self.failures: list[tuple[str, Failure]] = []
        self._top_k = 0
        self._confusion: Counter[tuple[int, int]] = Counter()
        self._fit = ProbabilityFit.empty()
        self._uncalibrated = ProbabilityFit.empty() if classifier.calibration else None
        self.outputs = ("probabilities", "raw_probabilities") if self._uncalibrated else ("probabilities",)
        self._confidences = array("f")
        self._is_correct = bytearray()

    def add(self, result: Result[LabeledSource]) -> ImageOutcome:
        """Add the result of one image, and return its outcome."""
        outcome = ImageOutcome.from_result(result, self._restrict_to)
        if outcome.error is not None:
            self.failures.append((outcome.source, outcome.error))
            return outcome
        self.images += 1
        self._top_k += outcome.target_rank <= TOP_K
        self._confusion[outcome.target, outcome.predicted] += 1
        self._fit.add(outcome.confidence, not outcome.is_mistake, outcome.target_probability)
        if self._uncalibrated:
            raw = ImageOutcome.from_result(result, self._restrict_to, "raw_probabilities")
            self._uncalibrated.add(raw.confidence, not raw.is_mistake, raw.target_probability)
        self._confidences.append(outcome.confidence)
        self._is_correct.append(not outcome.is_mistake)
        return outcome

    def report(self) -> EvaluationReport:
        """Return the report.

        Raises:
            DensenetError: No image was classified.
        """
        check_images(self.images, len(self.failures))
        classifier, restrict_to = self._classifier, self._restrict_to
        correct = sum(count for (target, predicted), count in self._confusion.items() if target == predicted)
        return EvaluationReport(
            model=classifier.model,
            labels=classifier.labels,
            settings=classifier.preprocessing.to_dict(),
            competing_classes=len(classifier.labels if restrict_to is None else restrict_to),
            images=self.images,
            failures=tuple(self.failures),
            top1=Proportion(correct, self.images),
            top5=Proportion(self._top_k, self.images),
            fit=self._fit,
            uncalibrated=self._uncalibrated,
            confusion=dict(self._confusion),
            risk_coverage=RiskCoverageCurve.of(
                np.array(self._confidences, np.float32), np.frombuffer(bytes(self._is_correct), np.bool_)
            ),
        )


def check_images(images: int, failed: int) -> None:
    """Check that there are classified images. Raises ``DensenetError``."""
    if not images:
        raise DensenetError("No images to evaluate" + (f": {plural(failed, 'image')} failed." if failed else "."))
