"""Split conformal prediction: sets of labels that contain the true one with a requested probability.

The score of a label says how badly it fits an image. A set contains the labels whose scores are at most a quantile of
the true labels' scores on the calibration images (Vovk et al., 2005; Angelopoulos and Bates, "A Gentle Introduction to
Conformal Prediction", 2021). Nothing is random: the same image always gets the same set.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from densenet_cli._types import BoolArray, FloatArray, IntArray

RAPS_PENALTY = 0.01
"""What each label after the first ``RAPS_FREE_LABELS`` adds to the score: lambda in the paper."""
RAPS_FREE_LABELS = 5
"""k_reg in the paper."""


def min_images(coverage: float) -> int:
    """Return the number of calibration images that ``coverage``, in (0, 1), needs at least."""
    return math.ceil(round(1 / (1 - coverage), 6)) - 1


def quantile_rank(images: int, coverage: float) -> int:
    """Return ceil((n + 1) * coverage): the rank of the score, counted from 1, below which a new score is so often.

    It is larger than ``images`` if there are too few of them.
    """
    return math.ceil(round((images + 1) * coverage, 6))


def quantile(scores: NDArray[Any], coverage: float) -> float:
    """Return the threshold for new scores, which are at most this large with probability ``coverage``.

    Args:
        scores: Scores of the true labels of calibration images, in any order.
        coverage: In (0, 1).

    Returns:
        The ceil((n + 1) * coverage)-th smallest score, or infinity if there are fewer.
    """
    rank = quantile_rank(len(scores), coverage)
    return math.inf if rank > len(scores) else float(np.partition(scores, rank - 1)[rank - 1])


def label_scores(probabilities: FloatArray, method: str) -> NDArray[np.float64]:
    """Return the score of each label.

    ``lac`` (Sadinle, Lei, and Wasserman, "Least Ambiguous Set-Valued Classifiers", JASA 2019) is one minus the
    probability. ``raps`` (Angelopoulos et al., "Uncertainty Sets for Image Classifiers using Conformal Prediction",
    ICLR 2021, with U = 0 instead of a random number) is the sum of the probabilities of the more probable labels, plus
    a penalty for the rank of the label. It is 0 for the most probable label, which every set therefore contains.

    Args:
        probabilities: Shape (..., classes).
        method: ``lac`` or ``raps``.

    Returns:
        float64 of the same shape.
    """
    values = np.asarray(probabilities, np.float64)
    if method == "lac":
        return 1 - values
    order = (-values).argsort(axis=-1, kind="stable")
    sums = np.zeros_like(values)
    np.take_along_axis(values, order, axis=-1)[..., :-1].cumsum(axis=-1, out=sums[..., 1:])
    sums += RAPS_PENALTY * np.maximum(0, np.arange(1, values.shape[-1] + 1) - RAPS_FREE_LABELS)
    scores = np.empty_like(values)
    np.put_along_axis(scores, order, sums, axis=-1)
    return scores


def true_scores(probabilities: FloatArray, targets: IntArray, method: str) -> NDArray[np.float64]:
    """Return the score of the true label of each image. See ``label_scores``."""
    scores: NDArray[np.float64] = label_scores(probabilities, method)[np.arange(len(targets)), targets]
    return scores


def label_set(probabilities: FloatArray, method: str, thresholds: float | NDArray[Any]) -> BoolArray:
    """Return which labels the set of each image contains: those with a score of at most the threshold.

    A set of ``raps`` always contains the most probable label. A set of ``lac`` is empty if no label is probable enough.

    Args:
        probabilities: Shape (..., classes).
        method: ``lac`` or ``raps``.
        thresholds: The quantile, or one of each class for class-conditional sets.
    """
    is_in_set: BoolArray = label_scores(probabilities, method) <= thresholds
    return is_in_set
