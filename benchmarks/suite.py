"""What the scripts share: how often, how much, and how one of them runs alone."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import report
from material import Material, temporary


@dataclass(frozen=True)
class Effort:
    """How much to do. ``quick`` shows that the scripts work; its numbers mean little and are never written down."""

    quick: bool = False

    def of(self, usual: int, quick: int) -> int:
        """``usual``, or with ``quick`` that many."""
        return quick if self.quick else usual


Measure = Callable[[Material, Effort], list[report.Table]]


def alone(measure: Measure) -> None:
    """Run one script by itself and print its tables."""
    parser = argparse.ArgumentParser(description=measure.__doc__)
    parser.add_argument("--quick", action="store_true", help="a few rounds of small work: does it run?")
    effort = Effort(parser.parse_args().quick)
    with temporary() as material:
        for table in [report.machine(), *measure(material, effort)]:
            print(table.text())
