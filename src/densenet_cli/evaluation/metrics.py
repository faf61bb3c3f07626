"""Images with their true classes in, what the classifier made of each out; and the whole of it as one report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from densenet_cli.evaluation.tally import Outcome, Tally
from densenet_cli.results import Failure

if TYPE_CHECKING:
    import numpy as np

    from densenet_cli.classifier import Classifier
    from densenet_cli.evaluation.report import Report
    from densenet_cli.images.sources import LabeledSource
    from densenet_cli.pipeline import Result

    FloatArray = np.ndarray[Any, np.dtype[np.float32]]


def evaluate(classifier: Classifier, sources: Iterable[LabeledSource], *, among: Sequence[int] | None = None) -> Report:
    """Measure a classifier; memory does not grow with the number of images.

    Args:
        classifier: what to measure.
        sources: images whose classes are known; iterated in a separate thread.
        among: let only the classes at these positions of the head compete; None for all.

    Raises:
        DensenetError: no image could be classified.
        CheckpointError: the network produced NaN or infinite values.
    """
    tally = Tally()
    for result in classifier.stream(sources):
        tally.add(outcome_of(result, among=among))
    return tally.report(classifier, among=among)


def outcome_of(result: Result[LabeledSource], *, among: Sequence[int] | None = None) -> Outcome:
    """What became of one image. See ``evaluate`` for ``among``."""
    name, truth = result.source.name, result.source.target
    if result.error:
        return Outcome(name, truth, failure=Failure.of(result.error))
    probabilities = result.outputs["probabilities"]
    return _outcome(name, truth, probabilities if among is None else _restricted(probabilities, among))


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
