"""Images with their true classes in, what the classifier made of each out; and the whole of it as one report."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from densenet_cli.errors import ImageError
from densenet_cli.evaluation.tally import Outcome, Tally
from densenet_cli.images.sources import Source, from_object
from densenet_cli.results import Failure

if TYPE_CHECKING:
    import numpy as np

    from densenet_cli.classifier import Classifier
    from densenet_cli.evaluation.report import Report

    FloatArray = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, slots=True)
class Example:
    """An image whose class is known.

    Attributes:
        image: what ``Classifier.predict`` takes: a path, a URL, bytes, an array, a ``Source``, ...
        truth: its class's position in the head.
    """

    image: object
    truth: int


def evaluate(classifier: Classifier, examples: Iterable[Example], *, among: Sequence[int] | None = None) -> Report:
    """Measure a classifier; memory does not grow with the number of examples.

    Args:
        classifier: what to measure.
        examples: walked in a thread of its own.
        among: let only the classes at these positions of the head compete; None for all.

    Raises:
        DensenetError: not one image could be classified.
        CheckpointError: the network's outputs are no numbers.
    """
    tally = Tally()
    for outcome in measure(classifier, examples, among=among):
        tally.add(outcome)
    return tally.report(classifier, among=among)


def measure(
    classifier: Classifier, examples: Iterable[Example], *, among: Sequence[int] | None = None
) -> Iterator[Outcome]:
    """Each example's outcome, streaming and in order. See ``evaluate`` for the arguments."""
    truths: deque[int] = deque()

    def sources() -> Iterator[Source]:
        for example in examples:
            truths.append(example.truth)
            yield from_object(example.image)

    # Outputs come in the order of their sources, so the oldest truth that is waiting is always the next one's.
    for name, output in classifier.probabilities(sources()):
        truth = truths.popleft()
        if isinstance(output, ImageError):
            yield Outcome(name, truth, failure=Failure.of(output))
        else:
            yield _outcome(name, truth, output if among is None else _restricted(output, among))


def _restricted(probabilities: FloatArray, among: Sequence[int]) -> FloatArray:
    """The probabilities once only some classes compete: theirs over their sum, and all others below any of them."""
    import numpy as np

    some = probabilities[list(among)]
    total = some.sum()
    restricted = np.full_like(probabilities, -1)
    restricted[list(among)] = some / total if total else 1 / len(some)
    return restricted


def _outcome(name: str, truth: int, probabilities: FloatArray) -> Outcome:
    best = int(probabilities.argmax())
    mine = probabilities[truth]
    # Among equals the one that stands first in the head comes first, as in a stable sort and in argmax.
    rank = 1 + int((probabilities > mine).sum()) + int((probabilities[:truth] == mine).sum())
    return Outcome(name, truth, best, float(probabilities[best]), float(mine), rank)
