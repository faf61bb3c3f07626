"""``densenet --help`` compared with ``python -c "import click"``."""

from __future__ import annotations

import sys

from inputs import Inputs
from processes import DENSENET, median_seconds, run
from suite import Table, Workload, run_one, target_status

MAX_RATIO = 3


def measure(_inputs: Inputs, workload: Workload) -> list[Table]:
    """Measure the time of the help page."""
    commands = {
        "`densenet --help`": [*DENSENET, "--help"],
        '`python -c "import click"`': [sys.executable, "-c", "import click"],
        '`python -c "pass"`': [sys.executable, "-c", "pass"],
    }
    rounds = workload.count(31, quick=5)
    results = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            results[name].append(run(command))
    page, click, _ = map(median_seconds, results.values())
    rows = (
        *((name, f"{median_seconds(samples) * 1e3:.0f}") for name, samples in results.items()),
        ("Ratio of the first two", f"**{page / click:.2f}**"),
        ("Target", f"at most {MAX_RATIO} ({target_status(page / click, maximum=MAX_RATIO)})"),
    )
    return [Table("help", ("Help page", "Median, ms"), rows, f"Medians of {rounds} rounds of one run each.")]


if __name__ == "__main__":
    run_one(measure)
