"""A measurement as pictures: the confusion matrix and the reliability diagram, PNG.

Drawn without pyplot, which would look for a display and keep state. matplotlib is imported by nothing else here.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from densenet_cli.evaluation.report import ClassResult, Report
from densenet_cli.evaluation.statistics import Proportion

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

NAMED = 250
"""With more classes only some are named, or the letters would be smaller than pixels."""
COUNTED = 30
"""With more classes the cells have no room for their counts."""
CELLS = 1000
"""With more classes neighbours share a cell."""
LONGEST = 28
"""Letters of a class's name."""
INK, SOFT, RIGHT, GAP = "#222222", "#8a8a8a", "#3b6ea8", "#d9694f"


def confusion_matrix(report: Report) -> bytes:
    """Rows are true classes, columns what they were taken for, colour the share of the row."""
    import numpy as np

    names, counts = _matrix(report)
    rows, columns = counts.shape
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # Inches: large enough for the names, no larger than a screen takes well.
    side = min(max(5.0, 0.42 * rows if rows <= COUNTED else 3 + 0.075 * rows), 20.0)
    figure = Figure(figsize=(side + 2.6, side + 2.2), dpi=120 if rows <= COUNTED else 150, layout="constrained")
    axes = figure.add_subplot()
    # The root makes a mistake of one in a hundred visible beside a diagonal of nearly 1.
    image = axes.imshow(
        shares, cmap="Blues" if rows <= COUNTED else "magma_r", norm=PowerNorm(0.5, 0, 1), interpolation="nearest"
    )
    if rows <= COUNTED:
        _write_counts(axes, counts, shares)
    _name(axes, names, columns > rows)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, ticks=[0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1])
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    bar.set_label("share of the true class's pictures")
    bar.outline.set_visible(False)
    axes.set_xlabel("taken for")
    axes.set_ylabel("true class")
    _title(axes, f"{report.model}: {report.pictures:,} pictures, {report.top1.value:.1%} right")
    return _png(figure)


def _matrix(report: Report) -> tuple[list[str], NDArray[np.int64]]:
    """Names of the rows, and counts (rows, columns); one more column where pictures were taken for other classes."""
    import numpy as np

    step = -(-len(report.classes) // CELLS)
    row_of = {result.position: number // step for number, result in enumerate(report.classes)}
    rows = -(-len(report.classes) // step)
    counts = np.zeros((rows, rows + 1), np.int64)
    for (truth, predicted), count in report.confusion.items():
        counts[row_of[truth], row_of.get(predicted, rows)] += count
    names = [_short(result) for result in report.classes[::step]]
    return names, counts if counts[:, rows].any() else counts[:, :rows]


def _short(result: ClassResult) -> str:
    name = result.label.name
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _write_counts(axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    rows, columns = counts.shape
    size = max(5.5, min(9.0, 110 / rows))
    for row in range(rows):
        for column in range(columns):
            if counts[row, column]:
                # On the root's scale half of the range is at a quarter.
                colour = "white" if shares[row, column] > 0.3 else INK
                axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", fontsize=size, color=colour)


def _name(axes: Axes, names: list[str], has_others: bool) -> None:
    rows = len(names)
    step = 1 if rows <= NAMED else -(-rows // 100)
    size = 9.0 if rows <= 15 else max(3.6, min(9.0, 8 if rows <= COUNTED else 5.2 if rows <= 120 else 4.2))
    if step > 1:
        size = 6.0
    places = list(range(0, rows, step))
    shown = [names[place] for place in places]
    across = (places, shown) if not has_others else ([*places, rows], [*shown, "(other classes)"])
    axes.set_xticks(across[0], across[1], rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(places, shown, fontsize=size, parse_math=False)
    axes.tick_params(length=2, color=SOFT, pad=2)
    for spine in axes.spines.values():
        spine.set_color(SOFT)


def reliability_diagram(report: Report) -> bytes:
    """Accuracy by confidence with 95 % intervals, and below it how many pictures are how confident."""
    figure = Figure(figsize=(6, 7), dpi=150, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bins = [bin for bin in report.bins if bin.pictures]
    middles = [(bin.low + bin.high) / 2 for bin in bins]
    width = report.bins[0].high - report.bins[0].low
    accuracies = [bin.correct / bin.pictures for bin in bins]
    confidences = [bin.total / bin.pictures for bin in bins]
    intervals = [Proportion(bin.correct, bin.pictures).interval for bin in bins]
    upper.bar(middles, accuracies, width, color=RIGHT, edgecolor="white", linewidth=0.8, label="accuracy")
    gaps = [confidence - accuracy for confidence, accuracy in zip(confidences, accuracies, strict=True)]
    upper.bar(
        middles, gaps, width, accuracies, color=GAP, alpha=0.35, edgecolor=GAP, linewidth=0.8, label="gap to confidence"
    )
    errors = [
        [accuracy - low for accuracy, (low, _) in zip(accuracies, intervals, strict=True)],
        [high - accuracy for accuracy, (_, high) in zip(accuracies, intervals, strict=True)],
    ]
    upper.errorbar(
        middles, accuracies, errors, fmt="none", ecolor=INK, elinewidth=0.9, capsize=2.5, label="95 % interval"
    )
    upper.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle="--", zorder=3, label="perfectly calibrated")
    upper.set_ylim(0, 1)
    upper.set_ylabel("accuracy")
    upper.legend(loc="upper left", frameon=False, fontsize=9)
    _title(upper, f"{report.model}: {report.pictures:,} pictures, calibration error {report.calibration_error:.1%}")
    lower.bar(
        middles, [bin.pictures / report.pictures for bin in bins], width, color=SOFT, edgecolor="white", linewidth=0.8
    )
    lower.set_xlim(0, 1)
    lower.set_xlabel("confidence (probability of the best class)")
    lower.set_ylabel("share of pictures")
    for axes in (upper, lower):
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
        axes.set_axisbelow(True)
    return _png(figure)


PLOTS: dict[str, Callable[[Report], bytes]] = {
    "confusion_matrix.png": confusion_matrix,
    "reliability_diagram.png": reliability_diagram,
}
"""File name -> what draws it."""


def _title(axes: Any, text: str) -> None:
    axes.set_title(text, fontsize=11, color=INK, pad=10, parse_math=False)


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        # A name in letters that the font lacks shows boxes; a page of warnings would not help.
        warnings.simplefilter("ignore")
        figure.savefig(stream, format="png")
    return stream.getvalue()
