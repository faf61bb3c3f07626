"""The confusion matrix as an array, for those who draw it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from densenet_cli.evaluation.report import Report


def matrix(report: Report, most: int) -> tuple[int, NDArray[np.int64]]:
    """Counts (rows, columns), rows being true classes and columns what they were taken for, in the head's order.

    Args:
        report: the measurement.
        most: rows at most; with more classes neighbors share a cell.

    Returns:
        How many classes share a row, and the counts; one more column than rows where images were taken for classes
        of which there are none.
    """
    import numpy as np

    step = -(-len(report.classes) // most)
    row_of = {result.position: number // step for number, result in enumerate(report.classes)}
    rows = -(-len(report.classes) // step)
    counts = np.zeros((rows, rows + 1), np.int64)
    for (truth, predicted), count in report.confusion.items():
        counts[row_of[truth], row_of.get(predicted, rows)] += count
    return step, counts if counts[:, rows].any() else counts[:, :rows]
