"""How well scores separate the images of one class from the others: ROC AUC and average precision.

The definitions are those of scikit-learn's ``roc_auc_score`` and ``average_precision_score``. Images with equal scores
are on the same side of every threshold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from densenet_cli._types import BoolArray, FloatArray, IntArray


class RankingCurve(NamedTuple):
    """The number of images with a score of at least a threshold, for each threshold from high to low.

    Attributes:
        true_positives: Number of images of the class, int64 of shape (thresholds,). The last one counts all.
        false_positives: Number of other images.
    """

    true_positives: IntArray
    false_positives: IntArray

    @classmethod
    def of(cls, is_positive: BoolArray, scores: FloatArray) -> Self:
        """Return the curve with each distinct score as a threshold.

        Args:
            is_positive: Whether each image is of the class, shape (images,).
            scores: The score of each image, at least one.
        """
        order = scores.argsort(kind="stable")[::-1]
        scores, positives = scores[order], is_positive[order].astype(np.int64).cumsum()
        last_of_equal = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
        true_positives = positives[last_of_equal]
        return cls(true_positives, last_of_equal + 1 - true_positives)

    @property
    def positives(self) -> int:
        """Number of images of the class."""
        return int(self.true_positives[-1])

    @property
    def negatives(self) -> int:
        """Number of other images."""
        return int(self.false_positives[-1])

    @property
    def roc_auc(self) -> float | None:
        """The area under the ROC curve, or None without images of the class or without others.

        It is the probability that an image of the class has a higher score than another image; equal scores count half.
        """
        if not self.positives or not self.negatives:
            return None
        heights = self.true_positives + np.append(0, self.true_positives[:-1])
        area = int((np.diff(self.false_positives, prepend=0) * heights).sum())
        return area / (2 * self.positives * self.negatives)

    @property
    def average_precision(self) -> float | None:
        """The average precision, or None without images of the class or without others.

        It is the mean precision at each threshold, weighted by the increase in recall: the area under the
        precision-recall curve without interpolation.
        """
        if not self.positives or not self.negatives:
            return None
        gains = np.diff(self.true_positives, prepend=0)
        return float((gains * self.precision).sum() / self.positives)

    @property
    def precision(self) -> NDArray[np.float64]:
        """Share of the images with at least the threshold that are of the class."""
        precision: NDArray[np.float64] = self.true_positives / (self.true_positives + self.false_positives)
        return precision

    def sample(self, count: int) -> Self:
        """Return about ``count`` of the thresholds, for drawing: the first, the last, and equidistant ones."""
        if len(self.true_positives) <= count:
            return self
        distances = self.true_positives / max(1, self.positives) + self.false_positives / max(1, self.negatives)
        selected = np.unique(distances.searchsorted(np.linspace(distances[0], distances[-1], count)))
        return type(self)(self.true_positives[selected], self.false_positives[selected])
