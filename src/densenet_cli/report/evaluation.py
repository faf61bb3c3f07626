"""The page of a measurement: its numbers, two drawings, every class, and the worst mistakes as images."""

from __future__ import annotations

import dataclasses
import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from densenet_cli.evaluation.metrics import Example
from densenet_cli.images.sources import from_object
from densenet_cli.output.atomic import write_file
from densenet_cli.report import figures
from densenet_cli.report.page import plain, render, written_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from densenet_cli.evaluation import Outcome, Report
    from densenet_cli.images.sources import Source

MOST = 60
"""Mistakes to look at."""
PAIRS = 20
FAILURES = 500
"""More are counted, not listed."""


class Mistakes:
    """The wrong images that the network was surest of; ``MOST`` are kept, however many there are."""

    def __init__(self) -> None:
        self._waiting: deque[Source] = deque()
        self._kept: list[tuple[float, int, Outcome, Source]] = []
        self._number = 0

    def watch(self, examples: Iterable[Example]) -> Iterator[Example]:
        """The examples on their way; ``add`` takes what becomes of them."""
        for example in examples:
            source = from_object(example.image)
            self._waiting.append(source)
            yield dataclasses.replace(example, image=source)

    def add(self, outcome: Outcome) -> None:
        """What became of the next one, in their order."""
        source = self._waiting.popleft()
        self._number += 1
        if outcome.is_mistake:
            heapq.heappush(self._kept, (outcome.confidence, -self._number, outcome, source))
            if len(self._kept) > MOST:
                heapq.heappop(self._kept)

    def images(self, thumbnail: Callable[[Source], bytes | None]) -> list[tuple[Outcome, bytes | None]]:
        """The worst first, each with its thumbnail; of equally sure ones the first measured comes first."""
        return [(outcome, thumbnail(source)) for _, _, outcome, source in sorted(self._kept, reverse=True)]


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
