"""Plots of an evaluation as PNG files: the confusion matrix and the reliability diagram, or curves of each class.

Figures are created without pyplot, which would need a display and keep global state.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from densenet_cli.evaluation.multi_label_report import LabelMetrics, MultiLabelReport
from densenet_cli.evaluation.report import ClassMetrics, EvaluationReport, Proportion
from densenet_cli.text import to_unicode

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from densenet_cli._types import IntArray

MAX_CLASSES_WITH_COUNTS = 30
"""With more classes, cells are too small for counts."""
MAX_CLASSES_WITH_NAMES = 250
"""With more classes, only some names are shown."""
MAX_CELLS = 1000
"""Maximum number of rows. With more classes, neighbors share a cell."""
MAX_NAME_LENGTH = 28
MAX_CURVES_WITH_NAMES = 20
"""With more classes, curves have one color and no legend."""
OTHER_CLASSES = "(other classes)"
MAX_POINTS = 1000
"""Points of the risk-coverage curve."""
DARK_CELL_SHARE = 0.3
"""Cells with a larger share are so dark that their counts are white."""

TEXT_COLOR, MUTED_COLOR, BAR_COLOR, GAP_COLOR = "#222222", "#8a8a8a", "#3b6ea8", "#d9694f"


def draw_confusion_matrix(report: EvaluationReport) -> bytes:
    """Draw the confusion matrix. Rows are true classes, columns are predicted classes, colors are shares of the row."""
    step, counts = report.confusion_matrix(MAX_CELLS)
    names = [_abbreviate(metrics) for metrics in report.classes[::step]]
    rows, columns = counts.shape
    has_counts = rows <= MAX_CLASSES_WITH_COUNTS
    shares = np.ma.masked_equal(counts / counts.sum(axis=1, keepdims=True), 0)
    # Sizes are in inches. The layout is computed here because matplotlib takes 20 seconds to measure 1,000 names.
    if has_counts:
        cell, font_size = 0.42, 9.0
    elif rows <= MAX_CLASSES_WITH_NAMES:
        cell, font_size = 0.075, 4.6
    else:
        cell, font_size = 18 / rows, 6.0
    width, height = max(cell * columns, 3.5), max(cell * rows, 3.5)
    margin = 0.6 + max(map(len, (*names, OTHER_CLASSES))) * font_size * 0.6 / 72
    size = (margin + width + 1.3, margin + height + 0.6)
    figure = Figure(figsize=size, dpi=120 if has_counts else 150)
    axes = figure.add_axes((margin / size[0], margin / size[1], width / size[0], height / size[1]))
    # The square root makes a share of 1% visible next to a diagonal of nearly 100%.
    norm, color_map = PowerNorm(0.5, 0, 1), "Blues" if has_counts else "magma_r"
    image = axes.imshow(shares, cmap=color_map, norm=norm, interpolation="nearest", aspect="auto")
    if has_counts:
        _draw_counts(axes, counts, shares)
    else:
        _draw_grid(axes, rows)
    _draw_names(axes, names, columns > rows, font_size)
    bar_height = min(height, 6.0)
    left, bottom = margin + width + 0.25, margin + height - bar_height
    bar_axes = figure.add_axes((left / size[0], bottom / size[1], 0.18 / size[0], bar_height / size[1]))
    color_bar = figure.colorbar(image, cax=bar_axes, ticks=[0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1])
    color_bar.ax.yaxis.set_major_formatter(_format_percent)
    color_bar.set_label("share of the images of the true class")
    color_bar.outline.set_visible(False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    _set_title(axes, f"{report.model}: {report.images:,} images, {report.top1.value:.1%} top-1 accuracy")
    return _to_png(figure)


def _abbreviate(metrics: ClassMetrics | LabelMetrics) -> str:
    name = to_unicode(metrics.label.name)
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…"


def _draw_counts(axes: Axes, counts: IntArray, shares: NDArray[np.float64]) -> None:
    for row, column in np.argwhere(counts):
        color = "white" if shares[row, column] > DARK_CELL_SHARE else TEXT_COLOR
        axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", fontsize=8, color=color)


def _draw_grid(axes: Axes, rows: int) -> None:
    for position in range(0, rows, 10 if rows <= MAX_CLASSES_WITH_NAMES else 100):
        axes.axhline(position - 0.5, color=MUTED_COLOR, linewidth=0.3, alpha=0.5)
        axes.axvline(position - 0.5, color=MUTED_COLOR, linewidth=0.3, alpha=0.5)


def _draw_names(axes: Axes, names: list[str], has_others: bool, font_size: float) -> None:
    step = 1 if len(names) <= MAX_CLASSES_WITH_NAMES else -(-len(names) // 120)
    positions = list(range(0, len(names), step))
    shown = [names[position] for position in positions]
    axes.set_yticks(positions, shown, fontsize=font_size, parse_math=False)
    if has_others:
        positions, shown = [*positions, len(names)], [*shown, OTHER_CLASSES]
    axes.set_xticks(positions, shown, rotation=90, fontsize=font_size, parse_math=False)
    axes.tick_params(length=2, color=MUTED_COLOR, pad=2)
    axes.spines[:].set_color(MUTED_COLOR)


def draw_reliability_diagram(report: EvaluationReport) -> bytes:
    """Draw accuracy by confidence with 95% confidence intervals, and the distribution of confidence below it."""
    figure = Figure(figsize=(6, 7), dpi=150, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bins = [bin for bin in report.bins if bin.images]
    centers = [(bin.low + bin.high) / 2 for bin in bins]
    width = report.bins[0].high - report.bins[0].low
    accuracies = np.array([bin.accuracy for bin in bins])
    gaps = np.array([bin.confidence for bin in bins]) - accuracies
    low, high = np.array([Proportion(bin.correct, bin.images).interval for bin in bins]).T
    upper.bar(centers, accuracies, width, color=BAR_COLOR, edgecolor="white", linewidth=0.8, label="accuracy")
    upper.bar(
        centers,
        gaps,
        width,
        accuracies,
        color=GAP_COLOR,
        alpha=0.35,
        edgecolor=GAP_COLOR,
        linewidth=0.8,
        label="gap between confidence and accuracy",
    )
    upper.errorbar(
        centers,
        accuracies,
        [accuracies - low, high - accuracies],
        fmt="none",
        ecolor=TEXT_COLOR,
        elinewidth=0.9,
        capsize=2.5,
        label="95% confidence interval",
    )
    upper.plot([0, 1], [0, 1], color=MUTED_COLOR, linewidth=1, linestyle="--", zorder=3, label="perfect calibration")
    upper.set_ylim(0, 1)
    upper.set_ylabel("accuracy")
    upper.legend(loc="upper left", frameon=False, fontsize=9)
    _set_title(
        upper, f"{report.model}: {report.images:,} images, {report.calibration_error:.1%} expected calibration error"
    )
    shares = [bin.images / report.images for bin in bins]
    lower.bar(centers, shares, width, color=MUTED_COLOR, edgecolor="white", linewidth=0.8)
    lower.set_xlim(0, 1)
    lower.set_xlabel("confidence (probability of the predicted class)")
    lower.set_ylabel("share of images")
    for axes in (upper, lower):
        axes.yaxis.set_major_formatter(_format_percent)
        axes.xaxis.set_major_formatter(_format_percent)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
        axes.set_axisbelow(True)
    return _to_png(figure)


def draw_risk_coverage_curve(report: EvaluationReport) -> bytes:
    """Draw the error among the most confident images, for each share of the images that is labeled."""
    figure = Figure(figsize=(6, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    coverage, risk = zip(*report.risk_coverage.sample(MAX_POINTS), strict=True)
    axes.plot(coverage, risk, color=BAR_COLOR, linewidth=1.6)
    for limit, share in report.labeled_shares.items():
        if share:
            risk = report.risk_coverage.risk[report.risk_coverage.coverage.searchsorted(share)]
            axes.plot(share, risk, "o", color=GAP_COLOR, markersize=4, clip_on=False)
            text = f"{share:.0%} at {limit:.0%} error"
            axes.annotate(text, (share, risk), (6, 2), textcoords="offset points", fontsize=8, va="bottom")
    axes.set_xlim(0, 1)
    axes.set_ylim(0)
    axes.set_xlabel("share of the images that are labeled, the most confident first")
    axes.set_ylabel("error among them")
    _set_title(axes, f"{report.model}: area under the curve {report.risk_coverage.area:.4f}")
    axes.xaxis.set_major_formatter(_format_percent)
    axes.yaxis.set_major_formatter(_format_percent)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    return _to_png(figure)


def draw_roc_curves(report: MultiLabelReport) -> bytes:
    """Draw the ROC curve of each class: true positive rate by false positive rate."""
    figure, axes = _create_curves(report, "ROC AUC", report.mean_roc_auc)
    names = []
    for metrics, style in _curve_styles(report):
        curve = metrics.curve
        shares = curve.false_positives / curve.negatives, curve.true_positives / curve.positives
        axes.plot(*(np.append(0, values) for values in shares), **style)
        names.append(f"{_abbreviate(metrics)} ({metrics.roc_auc:.3f})")
    _add_legend(axes, names)
    axes.plot([0, 1], [0, 1], color=MUTED_COLOR, linewidth=1, linestyle="--")
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    return _to_png(figure)


def draw_precision_recall_curves(report: MultiLabelReport) -> bytes:
    """Draw the precision by recall of each class."""
    figure, axes = _create_curves(report, "average precision", report.mean_average_precision)
    names = []
    for metrics, style in _curve_styles(report):
        recall, precision = metrics.curve.true_positives / metrics.curve.positives, metrics.curve.precision
        axes.plot(np.append(0, recall), np.append(precision[0], precision), drawstyle="steps-pre", **style)
        names.append(f"{_abbreviate(metrics)} ({metrics.average_precision:.3f})")
    _add_legend(axes, names)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    return _to_png(figure)


def _create_curves(report: MultiLabelReport, name: str, mean: float | None) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.5, 6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.01)
    axes.set_aspect("equal")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    detail = "" if mean is None else f", mean {name} {mean:.3f}"
    _set_title(axes, f"{report.model}: {report.images:,} images{detail}")
    return figure, axes


def _curve_styles(report: MultiLabelReport) -> Iterator[tuple[LabelMetrics, dict[str, Any]]]:
    """Yield the classes that have a curve, and how to draw it."""
    classes = report.averaged_classes
    has_names = len(classes) <= MAX_CURVES_WITH_NAMES
    for number, metrics in enumerate(classes):
        if has_names:
            yield metrics, {"color": f"C{number % 10}", "linestyle": "-" if number < 10 else "--", "clip_on": False}
        else:
            yield metrics, {"color": BAR_COLOR, "alpha": 0.3, "linewidth": 0.7, "clip_on": False}


def _add_legend(axes: Axes, names: list[str]) -> None:
    if not 0 < len(names) <= MAX_CURVES_WITH_NAMES:
        return
    # Numbers at first, because matplotlib leaves out names that begin with an underscore.
    numbers = list(map(str, range(len(names))))
    legend = axes.legend(axes.lines, numbers, loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, fontsize=9)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)


def _format_percent(value: float, _position: float) -> str:
    """Format a tick. Unlike ``PercentFormatter``, each tick has only the decimals that it needs: 2.5%, 5%."""
    return f"{value * 100:g}%"


def _set_title(axes: Any, text: str) -> None:
    axes.set_title(to_unicode(text), fontsize=11, color=TEXT_COLOR, pad=10, parse_math=False)


def _to_png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        # Characters that the font lacks are drawn as boxes. A warning for each of them would not help.
        warnings.simplefilter("ignore")
        figure.savefig(stream, format="png")
    return stream.getvalue()
