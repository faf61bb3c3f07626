"""The page of an evaluation: metrics, figures, results by class, and the most confident mistakes with thumbnails.

The figures are computed here, and the template turns them into SVG.
"""

from __future__ import annotations

import heapq
import io
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from unicodedata import east_asian_width

import numpy as np
from PIL import Image

from densenet_cli.evaluation.report import MAX_CURVE_POINTS, Proportion
from densenet_cli.images.previews import Thumbnail
from densenet_cli.output.atomic import write_file
from densenet_cli.report.page import current_time, format_settings, render
from densenet_cli.text import to_printable

if TYPE_CHECKING:
    from densenet_cli.evaluation import EvaluationReport, ImageOutcome
    from densenet_cli.images.previews import Preview

MAX_MISTAKES = 60
MAX_CONFUSIONS = 20
MAX_FAILURES = 500

MAX_NAMED_CLASSES = 30
"""With more classes, the matrix shows only the most confused ones, and an image without names shows all."""
MAX_SELECTED_CLASSES = 20
MAX_HEAT_MAP_SIDE = 600
"""Pixels per side of the image of all classes. With more classes, neighbors share a pixel."""
CELL_SIZE = 26
CHAR_WIDTH = 6.4
"""Average width of a character of a class name."""
MAX_NAME_LENGTH = 26
OTHER_CLASSES = "other classes"

CORRECT_COLOR, INCORRECT_COLOR = (56, 132, 220), (222, 84, 74)
"""Colors of the image of all classes, visible on white and on black. The opacity encodes the share."""


class Outcome(Protocol):
    """What ``Mistakes`` needs to know about an image: an ``ImageOutcome`` or a ``MultiLabelOutcome``."""

    @property
    def is_mistake(self) -> bool:
        """Whether the image was classified incorrectly."""

    @property
    def confidence(self) -> float:
        """The probability that the model gives to the mistake."""


class Mistakes:
    """Collects the ``MAX_MISTAKES`` misclassified images with the highest confidence, and their thumbnails."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Any, bytes | None]] = []
        self._added = 0

    def add(self, outcome: Outcome, preview: Preview | None) -> None:
        """Add an outcome. Of mistakes with equal confidence, the first ones are kept."""
        self._added += 1
        if outcome.is_mistake:
            jpeg = preview.jpeg if isinstance(preview, Thumbnail) else None
            heapq.heappush(self._heap, (outcome.confidence, -self._added, outcome, jpeg))
            if len(self._heap) > MAX_MISTAKES:
                heapq.heappop(self._heap)

    def most_confident(self) -> list[tuple[Any, bytes | None]]:
        """Return the mistakes, highest confidence first, each with its thumbnail (a JPEG file) or None."""
        return [(outcome, jpeg) for _, _, outcome, jpeg in sorted(self._heap, reverse=True)]


def write_page(path: Path, report: EvaluationReport, mistakes: Sequence[tuple[ImageOutcome, bytes | None]]) -> None:
    """Write the page atomically.

    Args:
        path: The file, already checked with ``page.check_page``.
        report: The results.
        mistakes: The result of ``Mistakes.most_confident``.

    Raises:
        UsageError: ``SOURCE_DATE_EPOCH`` is not a number.
        OutputError: The file cannot be written.
    """
    page = render(
        "evaluation.html",
        ("theme.js", "evaluation.js"),
        report=report,
        date=current_time(),
        settings=format_settings(report.settings),
        confusion=confusion_figure(report),
        heat_map=confusion_heat_map(report),
        reliability=reliability_bars(report),
        risk_coverage=risk_coverage_figure(report),
        figures=sys.modules[__name__],
        confusions=report.most_confused(MAX_CONFUSIONS),
        mistakes=mistakes,
        mistake_count=report.images - report.top1.successes,
        failures=report.failures[:MAX_FAILURES],
    )
    write_file(path, page.encode())


@dataclass(frozen=True, slots=True)
class ConfusionCell:
    """A cell of the confusion matrix.

    Attributes:
        x, y: The upper left corner.
        count: Number of images.
        opacity: Grows with the square root of the share of the row, so that small shares are visible. At most 0.5,
            to keep the count on top of it legible.
        is_correct: Whether the cell is on the diagonal.
        description: Tooltip.
    """

    x: float
    y: float
    count: int
    opacity: float
    is_correct: bool
    description: str


@dataclass(frozen=True)
class ConfusionFigure:
    """A confusion matrix with class names.

    Attributes:
        names: Names of the rows, at most ``MAX_NAME_LENGTH`` characters each.
        columns: Names of the columns: the same, and a column for all other classes if needed.
        cells: The cells that are not empty.
        margin: Space for the names, left of the first cell and above it.
        width, height: Size of the figure.
    """

    names: list[str]
    columns: list[str]
    cells: list[ConfusionCell]
    margin: float
    width: float
    height: float


def confusion_figure(report: EvaluationReport) -> ConfusionFigure:
    """Lay out the confusion matrix of all classes, or of the most confused ones if there are too many to name."""
    selected = _select_classes(report)
    results = [result for result in report.classes if result.position in selected]
    row_of = {result.position: row for row, result in enumerate(results)}
    others = len(results)
    counts: dict[tuple[int, int], int] = {}
    for (target, predicted), count in report.confusion.items():
        if target in row_of:
            key = row_of[target], row_of.get(predicted, others)
            counts[key] = counts.get(key, 0) + count
    names = [_abbreviate(result.label.name) for result in results]
    has_others = any(column == others for _, column in counts)
    columns = [*names, OTHER_CLASSES] if has_others else names
    margin = 12 + CHAR_WIDTH * max(map(_display_width, columns), default=0)
    full_names = [*(result.label.name for result in results), OTHER_CLASSES]
    cells = [
        ConfusionCell(
            x=margin + CELL_SIZE * column,
            y=margin + CELL_SIZE * row,
            count=count,
            opacity=round(0.06 + 0.44 * math.sqrt(count / results[row].images), 3),
            is_correct=row == column,
            description=(
                f"{full_names[row]}, predicted as {full_names[column]}: "
                f"{count:,} of {results[row].images:,} images ({count / results[row].images:.1%})"
            ),
        )
        for (row, column), count in sorted(counts.items())
    ]
    width, height = margin + CELL_SIZE * len(columns) + 1, margin + CELL_SIZE * len(names) + 1
    return ConfusionFigure(names, columns, cells, margin, width, height)


def _select_classes(report: EvaluationReport) -> set[int]:
    """Return the positions of the classes to show: all, or those of the most frequent confusions."""
    evaluated = {result.position for result in report.classes}
    if len(evaluated) <= MAX_NAMED_CLASSES:
        return evaluated
    selected: set[int] = set()
    pairs = [(pair, count) for pair, count in report.confusion.items() if pair[0] != pair[1] and pair[1] in evaluated]
    for pair, _ in sorted(pairs, key=lambda item: (-item[1], item[0])):
        if len(selected | set(pair)) > MAX_SELECTED_CLASSES:
            break
        selected.update(pair)
    return selected


def _display_width(text: str) -> int:
    """Return the width of the text in characters. East Asian wide characters count as two."""
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in text)


def _abbreviate(name: str) -> str:
    name = to_printable(name)
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…"


def confusion_heat_map(report: EvaluationReport) -> bytes | None:
    """Draw the confusion matrix of all classes with one pixel per cell, transparent where it is empty.

    Returns:
        A PNG file, or None if the classes are few enough to be named.
    """
    if len(report.classes) <= MAX_NAMED_CLASSES:
        return None
    _, counts = report.confusion_matrix(MAX_HEAT_MAP_SIDE)
    shares = counts / counts.sum(axis=1, keepdims=True)
    # Palette indices 0 to 127 are shades of one color, 128 to 255 of the other.
    levels = np.where(counts > 0, np.clip(np.round(30 + 97 * np.sqrt(shares)), 30, 127), 0).astype(np.uint8)
    incorrect = levels.copy()
    np.fill_diagonal(incorrect, 0)
    image = Image.fromarray(levels + np.where(incorrect > 0, 128, 0).astype(np.uint8), "P")
    image.putpalette(bytes(CORRECT_COLOR * 128 + INCORRECT_COLOR * 128))
    file = io.BytesIO()
    image.save(file, "PNG", transparency=bytes(min(255, 2 * level) for level in range(128)) * 2, optimize=True)
    return file.getvalue()


PLOT_LEFT, PLOT_TOP, PLOT_WIDTH, PLOT_HEIGHT = 46, 10, 420, 280
"""Plot area of the reliability diagram."""
HISTOGRAM_TOP, HISTOGRAM_HEIGHT = 306, 64
"""Plot area of the histogram of confidence below it."""


@dataclass(frozen=True, slots=True)
class ReliabilityBar:
    """A bar of the reliability diagram: the images in one bin of confidence.

    Attributes:
        x, width: Position and width of the bar.
        accuracy, confidence: y of the accuracy and of the mean confidence.
        low, high: y of the limits of the accuracy's 95% confidence interval.
        share: y of the top of the bar in the histogram; the fullest bin has ``HISTOGRAM_HEIGHT``.
        description: Tooltip.
    """

    x: float
    width: float
    accuracy: float
    confidence: float
    low: float
    high: float
    share: float
    description: str


def reliability_bars(report: EvaluationReport) -> list[ReliabilityBar]:
    """Lay out the bars of the bins that are not empty."""
    bars = []
    max_images = max(bin.images for bin in report.bins)
    for bin in report.bins:
        if not bin.images:
            continue
        accuracy, confidence = bin.correct / bin.images, bin.confidence_sum / bin.images
        low, high = Proportion(bin.correct, bin.images).interval
        bars.append(
            ReliabilityBar(
                x=round(PLOT_LEFT + PLOT_WIDTH * bin.low, 1),
                width=round(PLOT_WIDTH * (bin.high - bin.low), 1),
                accuracy=_plot_y(accuracy),
                confidence=_plot_y(confidence),
                low=_plot_y(low),
                high=_plot_y(high),
                share=round(HISTOGRAM_TOP + HISTOGRAM_HEIGHT * (1 - bin.images / max_images), 1),
                description=(
                    f"Confidence {bin.low:.0%} to {bin.high:.0%}: {bin.images:,} images, accuracy {accuracy:.1%} "
                    f"(95% CI {low:.1%} to {high:.1%}), mean confidence {confidence:.1%}"
                ),
            )
        )
    return bars


@dataclass(frozen=True, slots=True)
class RiskCoverageFigure:
    """The risk-coverage curve.

    Attributes:
        path: SVG path.
        top: The error at the top of the plot.
    """

    path: str
    top: float


def risk_coverage_figure(report: EvaluationReport) -> RiskCoverageFigure:
    """Lay out the risk-coverage curve. The first images can have an error above the plot, which is cut off."""
    points = report.risk_coverage.sample(MAX_CURVE_POINTS)
    highest = max(risk for coverage, risk in points if coverage >= 0.1)
    top = next(top for top in (0.05, 0.1, 0.2, 0.5, 1) if top >= highest)
    path = "L".join(f"{PLOT_LEFT + PLOT_WIDTH * x:.1f} {_plot_y(min(1.0, y / top))}" for x, y in points)
    return RiskCoverageFigure(f"M{path}", top)


def _plot_y(value: float) -> float:
    """Return the y coordinate of a value in [0, 1]."""
    return round(PLOT_TOP + PLOT_HEIGHT * (1 - value), 1)
