"""The page of an evaluation: metrics, figures, results by class, and the most confident mistakes with thumbnails."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from densenet_cli.images.previews import Thumbnail
from densenet_cli.output.atomic import write_file
from densenet_cli.report import figures
from densenet_cli.report.page import current_time, format_settings, render

if TYPE_CHECKING:
    from densenet_cli.evaluation import EvaluationReport, ImageOutcome
    from densenet_cli.images.previews import Preview

MAX_MISTAKES = 60
MAX_CONFUSIONS = 20
MAX_FAILURES = 500


class Mistakes:
    """Collects the ``MAX_MISTAKES`` misclassified images with the highest confidence, and their thumbnails."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, ImageOutcome, bytes | None]] = []
        self._added = 0

    def add(self, outcome: ImageOutcome, preview: Preview | None) -> None:
        """Add an outcome. Of mistakes with equal confidence, the first ones are kept."""
        self._added += 1
        if outcome.is_mistake:
            jpeg = preview.jpeg if isinstance(preview, Thumbnail) else None
            heapq.heappush(self._heap, (outcome.confidence, -self._added, outcome, jpeg))
            if len(self._heap) > MAX_MISTAKES:
                heapq.heappop(self._heap)

    def most_confident(self) -> list[tuple[ImageOutcome, bytes | None]]:
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
        confusion=figures.confusion_figure(report),
        heat_map=figures.confusion_heat_map(report),
        reliability=figures.reliability_bars(report),
        figures=figures,
        confusions=report.most_confused(MAX_CONFUSIONS),
        mistakes=mistakes,
        mistake_count=report.images - report.top1.successes,
        failures=report.failures[:MAX_FAILURES],
    )
    write_file(path, page.encode())
