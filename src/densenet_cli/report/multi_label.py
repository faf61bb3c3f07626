"""The page of an evaluation of a multi-label model: metrics, curves, results by label, and confident mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from densenet_cli.output.atomic import write_file
from densenet_cli.report import evaluation as figures
from densenet_cli.report.page import current_time, format_settings, render

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from densenet_cli.evaluation import MultiLabelOutcome, MultiLabelReport
    from densenet_cli.evaluation.multi_label_report import LabelMetrics

MAX_CURVES = 20
MAX_LABELS = 5
"""Mistakes that are listed for an image."""

COLORS = (
    "#1f77b4",
    "#ff7f0e",
    "#2ca02c",
    "#d62728",
    "#9467bd",
    "#8c564b",
    "#e377c2",
    "#7f7f7f",
    "#bcbd22",
    "#17becf",
)
"""Colors of curves, visible on white and on black. After these, curves are dashed."""


def write_page(
    path: Path, report: MultiLabelReport, mistakes: Sequence[tuple[MultiLabelOutcome, bytes | None]]
) -> None:
    """Write the page atomically. See ``report.evaluation.write_page`` for the arguments and exceptions."""
    page = render(
        "multi_label.html",
        ("theme.js", "evaluation.js"),
        report=report,
        date=current_time(),
        settings=format_settings(report.settings),
        roc_curves=roc_curves(report),
        precision_recall_curves=precision_recall_curves(report),
        figures=figures,
        mistakes=mistakes,
        mistake_count=report.images - report.subset_accuracy.successes,
        max_labels=MAX_LABELS,
        failures=report.failures[: figures.MAX_FAILURES],
    )
    write_file(path, page.encode())


@dataclass(frozen=True, slots=True)
class Curve:
    """A curve of one label.

    Attributes:
        name: The label.
        area: The area under the curve.
        color: An SVG color.
        is_dashed: Whether the line is dashed.
        path: SVG path data.
    """

    name: str
    area: float
    color: str
    is_dashed: bool
    path: str


def roc_curves(report: MultiLabelReport) -> list[Curve]:
    """Lay out the ROC curves of the ``MAX_CURVES`` labels with the most images."""

    def path(metrics: LabelMetrics) -> str:
        curve = metrics.curve
        x, y = curve.false_positives / curve.negatives, curve.true_positives / curve.positives
        return _path(np.append(0, x), np.append(0, y))

    return _curves(report, path, lambda metrics: metrics.roc_auc)


def precision_recall_curves(report: MultiLabelReport) -> list[Curve]:
    """Lay out the precision-recall curves of the ``MAX_CURVES`` labels with the most images."""

    def path(metrics: LabelMetrics) -> str:
        recall, precision = metrics.curve.true_positives / metrics.curve.positives, metrics.curve.precision
        # Steps: the precision of a threshold holds for all recalls down to that of the threshold before it.
        return _path(np.append(0, recall).repeat(2)[:-1], precision.repeat(2)[np.r_[0, : 2 * len(precision)]])

    return _curves(report, path, lambda metrics: metrics.average_precision)


def _curves(
    report: MultiLabelReport, path: Callable[[LabelMetrics], str], area: Callable[[LabelMetrics], float | None]
) -> list[Curve]:
    classes = sorted(report.averaged_classes, key=lambda metrics: -metrics.positives)[:MAX_CURVES]
    classes.sort(key=lambda metrics: metrics.position)
    return [
        Curve(
            metrics.label.name, area(metrics) or 0.0, COLORS[number % len(COLORS)], number >= len(COLORS), path(metrics)
        )
        for number, metrics in enumerate(classes)
    ]


def _path(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    """Return SVG path data through points in [0, 1]."""
    columns = np.round(figures.PLOT_LEFT + figures.PLOT_WIDTH * x, 1).tolist()
    rows = np.round(figures.PLOT_TOP + figures.PLOT_HEIGHT * (1 - y), 1).tolist()
    return "M" + "L".join(f"{column:g} {row:g}" for column, row in zip(columns, rows, strict=True))
