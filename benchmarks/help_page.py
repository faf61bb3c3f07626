"""``densenet --help`` beside ``python -c "import click"``."""

from __future__ import annotations

import sys

from material import Material
from processes import DENSENET, run, seconds_of
from report import Table, verdict
from suite import Effort, alone

SLOWER = 3


def measure(_material: Material, effort: Effort) -> list[Table]:
    """Time of the help page."""
    rounds = effort.of(31, 5)
    page, click, python = [], [], []
    for _ in range(rounds):
        page.append(run([*DENSENET, "--help"]))
        click.append(run([sys.executable, "-c", "import click"]))
        python.append(run([sys.executable, "-c", "pass"]))
    ratio = seconds_of(page) / seconds_of(click)
    rows = (
        ("`densenet --help`", f"{seconds_of(page) * 1e3:.0f}"),
        ('`python -c "import click"`', f"{seconds_of(click) * 1e3:.0f}"),
        ('`python -c "pass"`', f"{seconds_of(python) * 1e3:.0f}"),
        ("ratio of the first two", f"**{ratio:.2f}**"),
        ("target", f"{SLOWER} at most ({verdict(ratio, most=SLOWER)})"),
    )
    return [Table("help", ("The help page", "median, ms"), rows, f"Medians of {rounds} rounds, one of each in turn.")]


if __name__ == "__main__":
    alone(measure)
