"""What is kept of each outcome: sums and counts, never the probabilities themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from densenet_cli.errors import DensenetError
from densenet_cli.evaluation import statistics
from densenet_cli.evaluation.report import Report
from densenet_cli.evaluation.statistics import CalibrationBin, Proportion

if TYPE_CHECKING:
    from densenet_cli.classifier import Classifier
    from densenet_cli.results import Failure

TOP = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image.

    Attributes:
        name: the source's.
        truth: position of its class in the head.
        predicted: position of the most probable class.
        confidence: that class's probability.
        probability: the true class's.
        rank: the true class's place among all, 1 for the most probable.
        failure: why there is no prediction; the four numbers mean nothing then.
    """

    name: str
    truth: int
    predicted: int = -1
    confidence: float = 0.0
    probability: float = 0.0
    rank: int = 0
    failure: Failure | None = None

    @property
    def is_mistake(self) -> bool:
        """Whether it was classified, and wrong."""
        return self.failure is None and self.predicted != self.truth


class Tally:
    """Adds outcomes up.

    Attributes:
        images: how many were classified.
        failures: name and reason of each that was not.
    """

    def __init__(self) -> None:
        self.images = 0
        self.failures: list[tuple[str, Failure]] = []
        self._top = 0
        self._surprise = 0.0
        self._confusion: Counter[tuple[int, int]] = Counter()
        borders = zip(statistics.EDGES, statistics.EDGES[1:], strict=False)
        self._bins = tuple(CalibrationBin(low, high) for low, high in borders)

    def add(self, outcome: Outcome) -> None:
        """Count one more."""
        if outcome.failure is not None:
            self.failures.append((outcome.name, outcome.failure))
            return
        self.images += 1
        self._top += outcome.rank <= TOP
        self._surprise += statistics.surprise(outcome.probability)
        self._confusion[outcome.truth, outcome.predicted] += 1
        bin = self._bins[statistics.bin_of(outcome.confidence)]
        bin.images += 1
        bin.total += outcome.confidence
        bin.correct += outcome.predicted == outcome.truth

    def report(self, classifier: Classifier, *, among: Sequence[int] | None = None) -> Report:
        """What it comes to. Raises ``DensenetError`` where nothing was classified."""
        if not self.images:
            tried = f"None of the {len(self.failures):,} images could be classified" if self.failures else "No image"
            raise DensenetError(f"{tried}: there is nothing to measure.")
        correct = sum(count for (truth, predicted), count in self._confusion.items() if truth == predicted)
        preprocessing = classifier.preprocessing
        return Report(
            model=classifier.model,
            labels=classifier.labels,
            settings={
                "preprocess": preprocessing.mode,
                "input_size": preprocessing.input_size,
                "exact": preprocessing.exact,
                "ten_crop": preprocessing.ten_crop,
            },
            competing=len(among) if among is not None else len(classifier.labels),
            images=self.images,
            failures=tuple(self.failures),
            top1=Proportion(correct, self.images),
            top5=Proportion(self._top, self.images),
            negative_log_likelihood=self._surprise / self.images,
            bins=self._bins,
            confusion=dict(self._confusion),
        )
