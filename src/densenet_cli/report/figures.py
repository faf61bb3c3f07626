"""What is drawn on the page of a measurement, in the coordinates it is drawn in; the templates make SVG of it."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING
from unicodedata import east_asian_width

from densenet_cli.evaluation.matrix import matrix
from densenet_cli.evaluation.statistics import Proportion
from densenet_cli.results import printable

if TYPE_CHECKING:
    from densenet_cli.evaluation.report import Report

NAMED = 30
"""With more classes the matrix shows those that are confused most, and all of them as one image without names."""
PICKED = 20
PIXELS = 600
"""With more classes neighbors share a pixel."""
CELL = 26
LETTER = 6.4
"""Width of a letter of a class's name."""
LONGEST = 26

RIGHT, WRONG = (56, 132, 220), (222, 84, 74)
"""Of the image without names: on white and on black alike; how opaque is what tells a share."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Images of one class that were taken for one class.

    Attributes:
        x, y: its upper left corner.
        count: how many.
        opacity: in [0, 0.5]: as the root of the share of the true class's images, so that one in a hundred is seen.
            More, and the count on it could not be read.
        is_right: whether the classes are the same.
        says: all of it in words.
    """

    x: float
    y: float
    count: int
    opacity: float
    is_right: bool
    says: str


@dataclass(frozen=True)
class ConfusionFigure:
    """A matrix with names.

    Attributes:
        names: of the rows, cut to ``LONGEST`` letters.
        columns: of the columns: the same, and perhaps one more for all other classes.
        cells: those that are not empty.
        left, top: where the first cell begins; names are before that.
        width, height: of all.
        of: how many classes there are.
    """

    names: list[str]
    columns: list[str]
    cells: list[Cell]
    left: float
    top: float
    width: float
    height: float
    of: int


def confusion(report: Report) -> ConfusionFigure:
    """All classes, or of many those that are confused most, in the head's order."""
    picked = _picked(report)
    results = [result for result in report.classes if result.position in picked]
    row_of = {result.position: row for row, result in enumerate(results)}
    others = len(results)
    counts: dict[tuple[int, int], int] = {}
    for (truth, predicted), count in report.confusion.items():
        if truth in row_of:
            place = row_of[truth], row_of.get(predicted, others)
            counts[place] = counts.get(place, 0) + count
    names = [_short(result.label.name) for result in results]
    has_others = any(column == others for _, column in counts)
    columns = [*names, "other classes"] if has_others else names
    margin = 12 + LETTER * max(map(_letters, columns), default=0)
    whole = [*(result.label.name for result in results), "other classes"]
    cells = [
        Cell(
            x=margin + CELL * column,
            y=margin + CELL * row,
            count=count,
            opacity=round(0.06 + 0.44 * math.sqrt(count / results[row].images), 3),
            is_right=row == column,
            says=f"{whole[row]}, taken for {whole[column]}: {count:,} of {results[row].images:,}",
        )
        for (row, column), count in sorted(counts.items())
    ]
    width, height = margin + CELL * len(columns) + 1, margin + CELL * len(names) + 1
    return ConfusionFigure(names, columns, cells, margin, margin, width, height, len(report.classes))


def _picked(report: Report) -> set[int]:
    """Positions of the classes to show: all, or those in the pairs with the most images."""
    known = {result.position for result in report.classes}
    if len(known) <= NAMED:
        return known
    picked: dict[int, None] = {}
    pairs = ((pair, count) for pair, count in report.confusion.items() if pair[0] != pair[1] and pair[1] in known)
    for pair, _ in sorted(pairs, key=lambda item: (-item[1], item[0])):
        if len(picked.keys() | set(pair)) > PICKED:
            break
        picked.update(dict.fromkeys(pair))
    return set(picked)


def _letters(text: str) -> int:
    """How many letters' room it takes; those of East Asia take two."""
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def heat_map(report: Report) -> bytes | None:
    """All of many classes, a pixel a pair: PNG, transparent where there is nothing; None where they are few."""
    if len(report.classes) <= NAMED:
        return None
    import numpy as np
    from PIL import Image

    _, counts = matrix(report, PIXELS)
    shares = counts / counts.sum(axis=1, keepdims=True)
    levels = np.where(counts > 0, np.clip(np.round(30 + 97 * np.sqrt(shares)), 30, 127), 0).astype(np.uint8)
    diagonal = np.arange(len(counts))
    wrong = levels.copy()
    wrong[diagonal, diagonal] = 0
    image = Image.fromarray(levels + np.where(wrong > 0, 128, 0).astype(np.uint8), "P")
    image.putpalette(bytes(RIGHT * 128 + WRONG * 128))
    file = io.BytesIO()
    image.save(file, "PNG", transparency=bytes(min(255, 2 * level) for level in range(128)) * 2, optimize=True)
    return file.getvalue()


LEFT, TOP, WIDE, HIGH, LOW_TOP, LOW_HIGH = 46, 10, 420, 280, 306, 64
"""Of the reliability diagram: the upper part's corner and size, the lower part's upper edge and height."""


@dataclass(frozen=True, slots=True)
class Bin:
    """The images of some confidence.

    Attributes:
        x, width: of its bar.
        accuracy, confidence, low, high: heights, from above: what share is right, what the network said, and the 95 %
            interval of the first.
        share: the lower bar's height, from above; that of the fullest bin is ``LOW_HIGH``.
        says: all of it in words.
    """

    x: float
    width: float
    accuracy: float
    confidence: float
    low: float
    high: float
    share: float
    says: str


def reliability(report: Report) -> list[Bin]:
    """The bins in which there are images."""
    bins = []
    most = max(bin.images for bin in report.bins)
    for bin in report.bins:
        if not bin.images:
            continue
        accuracy, confidence = bin.correct / bin.images, bin.total / bin.images
        low, high = Proportion(bin.correct, bin.images).interval
        bins.append(
            Bin(
                x=round(LEFT + WIDE * bin.low, 1),
                width=round(WIDE * (bin.high - bin.low), 1),
                accuracy=_height(accuracy),
                confidence=_height(confidence),
                low=_height(low),
                high=_height(high),
                share=round(LOW_TOP + LOW_HIGH * (1 - bin.images / most), 1),
                says=f"confidence {bin.low:.0%} to {bin.high:.0%}: {bin.images:,} images, {accuracy:.1%} right "
                f"({low:.1%} to {high:.1%}), {confidence:.1%} said",
            )
        )
    return bins


def _height(value: float) -> float:
    return round(TOP + HIGH * (1 - value), 1)
