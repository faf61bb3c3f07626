"""Metrics of a classifier on labeled images, accumulated in constant memory."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from densenet_cli.errors import DensenetError, UsageError
from densenet_cli.evaluation.report import CalibrationBin, EvaluationReport, Proportion
from densenet_cli.results import Failure
from densenet_cli.text import plural

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray
    from densenet_cli.classifier import Classifier
    from densenet_cli.datasets import LabeledSource
    from densenet_cli.pipeline import Result

TOP_K = 5

BINS = 15
BIN_EDGES = tuple(edge / BINS for edge in range(BINS + 1))
"""Edges of the confidence bins. A bin contains its upper edge but not its lower one."""

MIN_PROBABILITY = 2.0**-126
"""Replaces a probability of 0 in logarithms: the smallest normal float32."""


def evaluate(
    classifier: Classifier, sources: Iterable[LabeledSource], *, restrict_to: Sequence[int] | None = None
) -> EvaluationReport:
    """Evaluate a classifier. Memory use does not grow with the number of images.

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
    for result in classifier.stream(sources):
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
    def from_result(cls, result: Result[LabeledSource], restrict_to: Sequence[int] | None = None) -> ImageOutcome:
        """Compare a result with the class of its source. See ``evaluate`` for ``restrict_to``."""
        source, target = result.source.name, result.source.target
        if result.error:
            return cls(source, target, error=Failure.of(result.error))
        probabilities = result.outputs["probabilities"]
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
    """Sums and counts over images. It does not keep the outcomes.

    Args:
        classifier: The classifier.
        restrict_to: Positions of the classes that can be predicted; None for all.

    Attributes:
        images: Number of classified images.
        failures: Name and error of each image that could not be classified.
    """

    def __init__(self, classifier: Classifier, restrict_to: Sequence[int] | None = None) -> None:
        self._classifier = classifier
        self._restrict_to = restrict_to
        self.images = 0
        self.failures: list[tuple[str, Failure]] = []
        self._top_k = 0
        self._negative_log_likelihood = 0.0
        self._confusion: Counter[tuple[int, int]] = Counter()
        self._bins = tuple(CalibrationBin(low, high) for low, high in pairwise(BIN_EDGES))

    def add(self, result: Result[LabeledSource]) -> ImageOutcome:
        """Add the result of one image, and return its outcome."""
        outcome = ImageOutcome.from_result(result, self._restrict_to)
        if outcome.error is not None:
            self.failures.append((outcome.source, outcome.error))
            return outcome
        self.images += 1
        self._top_k += outcome.target_rank <= TOP_K
        self._negative_log_likelihood += negative_log_likelihood(outcome.target_probability)
        self._confusion[outcome.target, outcome.predicted] += 1
        bin = self._bins[bin_index(outcome.confidence)]
        bin.images += 1
        bin.confidence_sum += outcome.confidence
        bin.correct += outcome.predicted == outcome.target
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
            negative_log_likelihood=self._negative_log_likelihood / self.images,
            bins=self._bins,
            confusion=dict(self._confusion),
        )


def check_images(images: int, failed: int) -> None:
    """Check that there are classified images. Raises ``DensenetError``."""
    if not images:
        raise DensenetError("No images to evaluate" + (f": {plural(failed, 'image')} failed." if failed else "."))


def bin_index(confidence: float) -> int:
    """Return the index of the bin for a confidence. The last bin also contains values that rounding raised above 1."""
    return min(max(bisect_left(BIN_EDGES, confidence) - 1, 0), BINS - 1)


def negative_log_likelihood(probability: float) -> float:
    """Return minus the natural logarithm of the probability of the true class, in nats; at most 87.3."""
    return -math.log(max(probability, MIN_PROBABILITY))
