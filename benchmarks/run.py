"""Run the benchmarks and update the tables of ``docs/concepts/performance.md``: ``run.py [--quick] [NAME...]``."""

from __future__ import annotations

import argparse

import cold_start
import explain
import first_run
import folder
import help_page
import isolation
import large
import memory
import report
from material import temporary
from suite import Effort, Measure

BENCHMARKS: dict[str, Measure] = {
    "help_page": help_page.measure,
    "cold_start": cold_start.measure,
    "first_run": first_run.measure,
    "folder": folder.measure,
    "large": large.measure,
    "explain": explain.measure,
    "memory": memory.measure,
    "isolation": isolation.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all when none is named")
    parser.add_argument("--quick", action="store_true", help="a few rounds of small work; nothing is written down")
    asked = parser.parse_args()
    if unknown := set(asked.name) - set(BENCHMARKS):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    tables = [report.machine()]
    print(tables[0].text(), flush=True)
    with temporary() as material:
        for name in asked.name or BENCHMARKS:
            measured = BENCHMARKS[name](material, Effort(asked.quick))
            tables += measured
            print("\n".join(table.text() for table in measured), flush=True)
    if not asked.quick:
        report.write(tables)


if __name__ == "__main__":
    main()
