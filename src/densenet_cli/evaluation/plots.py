"""A measurement as images: the confusion matrix and the reliability diagram, PNG.

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

from densenet_cli.evaluation.matrix import matrix
from densenet_cli.evaluation.report import ClassResult, Report
from densenet_cli.evaluation.statistics import Proportion
from densenet_cli.text import to_unicode

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

COUNTED = 30
"""With more classes the cells have no room for their counts."""
NAMED = 250
"""With more classes only some are named, or the letters would be smaller than pixels."""
CELLS = 1000
"""With more classes neighbors share a cell."""
LONGEST = 28
"""Letters of a class's name."""
OTHERS = "(other classes)"
DARK = 0.3
"""Share from which a cell is so dark that its count is written in white."""
INK, SOFT, RIGHT, GAP = "#222222", "#8a8a8a", "#3b6ea8", "#d9694f"


def confusion_matrix(report: Report) -> bytes:
    """Rows are true classes, columns what they were taken for, color the share of the row."""
    import numpy as np

    step, counts = matrix(report, CELLS)
    names = [_short(result) for result in report.classes[::step]]
    rows, columns = counts.shape
    shares = np.ma.masked_equal(counts / counts.sum(axis=1, keepdims=True), 0)
    # In inches, and laid out by hand: having matplotlib measure a thousand names takes twenty seconds.
    cell = 0.42 if rows <= COUNTED else 0.075 if rows <= NAMED else 18 / rows
    points = 9.0 if rows <= COUNTED else 4.6 if rows <= NAMED else 6.0
    width, height = max(cell * columns, 3.5), max(cell * rows, 3.5)
    margin = 0.6 + max(map(len, (*names, OTHERS))) * points * 0.6 / 72
    size = (margin + width + 1.3, margin + height + 0.6)
    figure = Figure(figsize=size, dpi=120 if rows <= COUNTED else 150)
    axes = figure.add_axes((margin / size[0], margin / size[1], width / size[0], height / size[1]))
    # The root makes a mistake of one in a hundred visible beside a diagonal of nearly 1.
    image = axes.imshow(
        shares,
        cmap="Blues" if rows <= COUNTED else "magma_r",
        norm=PowerNorm(0.5, 0, 1),
        interpolation="nearest",
        aspect="auto",
    )
    if rows <= COUNTED:
        _write_counts(axes, counts, shares)
    else:
        _rule(axes, rows)
    _name(axes, names, columns > rows, points)
    long = min(height, 6.0)
    bar = figure.colorbar(
        image,
        cax=figure.add_axes(
            ((margin + width + 0.25) / size[0], (margin + height - long) / size[1], 0.18 / size[0], long / size[1])
        ),
        ticks=[0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1],
    )
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    bar.set_label("share of the true class's images")
    bar.outline.set_visible(False)
    axes.set_xlabel("taken for")
    axes.set_ylabel("true class")
    _title(axes, f"{report.model}: {report.images:,} images, {report.top1.value:.1%} right")
    return _png(figure)


def _short(result: ClassResult) -> str:
    name = to_unicode(result.label.name)
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _write_counts(axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    import numpy as np

    for row, column in np.argwhere(counts):
        color = "white" if shares[row, column] > DARK else INK
        axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", fontsize=8, color=color)


def _rule(axes: Axes, rows: int) -> None:
    """Lines that lead the eye from a cell to its names."""
    for place in range(0, rows, 10 if rows <= NAMED else 100):
        axes.axhline(place - 0.5, color=SOFT, linewidth=0.3, alpha=0.5)
        axes.axvline(place - 0.5, color=SOFT, linewidth=0.3, alpha=0.5)


def _name(axes: Axes, names: list[str], has_others: bool, points: float) -> None:
    step = 1 if len(names) <= NAMED else -(-len(names) // 120)
    places = list(range(0, len(names), step))
    shown = [names[place] for place in places]
    axes.set_yticks(places, shown, fontsize=points, parse_math=False)
    if has_others:
        places, shown = [*places, len(names)], [*shown, OTHERS]
    axes.set_xticks(places, shown, rotation=90, fontsize=points, parse_math=False)
    axes.tick_params(length=2, color=SOFT, pad=2)
    axes.spines[:].set_color(SOFT)


def reliability_diagram(report: Report) -> bytes:
    """Accuracy by confidence with 95 % intervals, and below it how many images are how confident."""
    figure = Figure(figsize=(6, 7), dpi=150, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bins = [bin for bin in report.bins if bin.images]
    middles = [(bin.low + bin.high) / 2 for bin in bins]
    width = report.bins[0].high - report.bins[0].low
    accuracies = [bin.correct / bin.images for bin in bins]
    confidences = [bin.total / bin.images for bin in bins]
    intervals = [Proportion(bin.correct, bin.images).interval for bin in bins]
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
    _title(upper, f"{report.model}: {report.images:,} images, calibration error {report.calibration_error:.1%}")
    lower.bar(
        middles, [bin.images / report.images for bin in bins], width, color=SOFT, edgecolor="white", linewidth=0.8
    )
    lower.set_xlim(0, 1)
    lower.set_xlabel("confidence (probability of the best class)")
    lower.set_ylabel("share of images")
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
    axes.set_title(to_unicode(text), fontsize=11, color=INK, pad=10, parse_math=False)


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        # A name in letters that the font lacks shows boxes; a page of warnings would not help.
        warnings.simplefilter("ignore")
        figure.savefig(stream, format="png")
    return stream.getvalue()
