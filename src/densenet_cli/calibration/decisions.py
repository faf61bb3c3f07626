"""Decisions with a guarantee from the calibration of a model: sets of labels, and labels with a limited error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from densenet_cli.calibration import conformal, selective
from densenet_cli.errors import UsageError
from densenet_cli.text import join_names, plural

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from densenet_cli._types import BoolArray, FloatArray
    from densenet_cli.calibration.record import Calibration


class LabelSets:
    """Sets of labels that contain the true label of an image with probability ``coverage``.

    With ``by_class``, this holds for the images of each class, not only for all images together. For a multi-label
    model it always does: a set contains each label that the image has with this probability.

    Args:
        calibration: The calibration of the model.
        names: Names of the classes, for messages.
        coverage: In (0, 1).
        method: ``lac`` or ``raps``; ``lac`` for a multi-label model.
        by_class: See above.

    Raises:
        UsageError: There are too few calibration images, or a multi-label model and another method.
    """

    def __init__(
        self,
        calibration: Calibration,
        names: Sequence[str],
        coverage: float,
        method: str = "lac",
        by_class: bool = False,
    ) -> None:
        self._method = method
        if calibration.is_multi_label:
            if method != "lac":
                raise UsageError(f"`set_method` {method} does not apply to multi-label models.")
            scores = [
                1 - np.asarray(label.probabilities[label.is_positive], np.float64) for label in calibration.label_scores
            ]
        elif by_class:
            all_scores, targets = calibration.scores.of_method(method), calibration.scores.targets
            scores = [all_scores[targets == position] for position in range(calibration.classes)]
        else:
            scores = [calibration.scores.of_method(method)]
        _check_enough_images(scores, names, coverage)
        thresholds = [conformal.quantile(values, coverage) for values in scores]
        self._thresholds: Any = thresholds[0] if len(thresholds) == 1 else np.array(thresholds)

    def __call__(self, probabilities: FloatArray) -> BoolArray:
        """Return which labels the set of an image contains. ``probabilities`` are calibrated, shape (classes,)."""
        return conformal.label_set(probabilities, self._method, self._thresholds)


def _check_enough_images(scores: list[NDArray[Any]], names: Sequence[str], coverage: float) -> None:
    needed = conformal.min_images(coverage)
    few = [names[position] for position, values in enumerate(scores) if len(values) < needed]
    if not few:
        return
    if len(scores) == 1:
        raise UsageError(
            f"A `coverage` of {coverage:g} needs at least {needed:,} calibration images. "
            f"The model has {len(scores[0]):,}."
        )
    raise UsageError(
        f"A `coverage` of {coverage:g} for each class needs at least {needed:,} calibration images of every class. "
        f"{plural(len(few), 'class has', 'classes have')} fewer: {join_names(few)}."
    )


class ErrorLimit:
    """Labels of which, with 95% confidence, at most ``max_error`` are wrong.

    With ``by_class``, this holds for the labels of each class. For a multi-label model it always does.

    Args:
        calibration: The calibration of the model.
        max_error: In (0, 1).
        by_class: See above.

    Attributes:
        coverage: Share of the calibration images that get a label. For a multi-label model, the share of the decisions
            about a class that assign it.
        thresholds: Probability of each class from which it is assigned, infinity for never.
    """

    def __init__(self, calibration: Calibration, max_error: float, by_class: bool = False) -> None:
        self._is_multi_label = calibration.is_multi_label
        self._images = calibration.images
        self._max_error = max_error
        if calibration.is_multi_label:
            groups = [(label.probabilities, label.is_positive) for label in calibration.label_scores]
        else:
            scores = calibration.scores
            groups = [(scores.confidences, scores.is_correct)]
            if by_class:
                is_predicted = [scores.predicted == position for position in range(calibration.classes)]
                groups = [(scores.confidences[rows], scores.is_correct[rows]) for rows in is_predicted]
        found = [selective.find_threshold(*group, max_error) for group in groups]
        counts = [len(group[0]) for group in groups]
        self.coverage = sum(n * item.coverage for n, item in zip(counts, found, strict=True)) / max(1, sum(counts))
        self.thresholds = np.broadcast_to([item.confidence for item in found], calibration.classes)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about classes that are never assigned, or that nothing is labeled at all."""
        limit = f"threshold keeps the error at or below {self._max_error:g}"
        missing = int(np.isinf(self.thresholds).sum())
        if missing == len(self.thresholds):
            hint = ""
            if self._images < (needed := selective.min_images(self._max_error)):
                hint = f" This limit needs at least {needed:,} calibration images. The model has {self._images:,}."
            return (f"No {limit}, so no image is labeled.{hint}",)
        if missing:
            classes = plural(missing, "class", "classes")
            return (f"For {classes}, no {limit}, so no image gets such a label.",)
        return ()

    def __call__(self, probabilities: FloatArray) -> BoolArray:
        """Return which labels an image gets. ``probabilities`` are calibrated, shape (classes,)."""
        is_assigned: BoolArray = np.asarray(probabilities) >= self.thresholds
        if not self._is_multi_label:
            is_best = np.zeros_like(is_assigned)
            is_best[np.asarray(probabilities).argmax()] = True
            is_assigned &= is_best
        return is_assigned


def check_level(name: str, value: float | None) -> None:
    """Check a coverage or an error limit. Raises ``UsageError`` if it is not between 0 and 1, exclusive."""
    if value is not None and not (math.isfinite(value) and 0 < value < 1):
        raise UsageError(f"`{name}` must be above 0 and below 1, not {value:g}.")
