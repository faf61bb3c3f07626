"""The page of a measurement: its numbers, two drawings, every class, and the worst mistakes as images."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from densenet_cli.images.previews import Thumbnail
from densenet_cli.output.atomic import write_file
from densenet_cli.report import figures
from densenet_cli.report.page import plain, render, written_at

if TYPE_CHECKING:
    from densenet_cli.evaluation import Outcome, Report
    from densenet_cli.images.previews import Preview

MOST = 60
"""Mistakes to look at."""
PAIRS = 20
FAILURES = 500
"""More are counted, not listed."""


class Mistakes:
    """The wrong images that the network was surest of; ``MOST`` are kept, however many there are."""

    def __init__(self) -> None:
        self._kept: list[tuple[float, int, Outcome, bytes | None]] = []
        self._number = 0

    def add(self, outcome: Outcome, preview: Preview | None) -> None:
        """Keep one more image if it is among the worst. Of equally confident mistakes the first ones are kept."""
        self._number += 1
        if outcome.is_mistake:
            jpeg = preview.jpeg if isinstance(preview, Thumbnail) else None
            heapq.heappush(self._kept, (outcome.confidence, -self._number, outcome, jpeg))
            if len(self._kept) > MOST:
                heapq.heappop(self._kept)

    def images(self) -> list[tuple[Outcome, bytes | None]]:
        """Return the mistakes, the most confident first, each with its thumbnail (JPEG)."""
        return [(outcome, jpeg) for _, _, outcome, jpeg in sorted(self._kept, reverse=True)]


def write(path: Path, report: Report, mistakes: Sequence[tuple[Outcome, bytes | None]]) -> None:
    """Write the page, whole or not at all.

    Args:
        path: the file, which was checked already (``page.check``).
        report: the measurement.
        mistakes: what ``Mistakes.images`` gives.

    Raises:
        OutputError: it can't be written.
    """
    page = render(
        "evaluation.html",
        ("theme.js", "evaluation.js"),
        report=report,
        date=written_at(),
        settings=plain(report.settings),
        confusion=figures.confusion(report),
        heat_map=figures.heat_map(report),
        bins=figures.reliability(report),
        figures=figures,
        pairs=report.most_confused(PAIRS),
        mistakes=mistakes,
        wrong=report.images - report.top1.successes,
        failures=report.failures[:FAILURES],
    )
    write_file(path, page.encode())
