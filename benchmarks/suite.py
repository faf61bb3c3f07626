"""Shared by the benchmarks: tables of results, the amount of work, and the main function of each script.

Results are printed, and written between markers in ``docs/concepts/performance.md``, whose other text does not change.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from inputs import Inputs, temporary_inputs

from densenet_cli.benchmarking.report import describe_machine

DOCUMENT = Path(__file__).parents[1] / "docs" / "concepts" / "performance.md"
PACKAGES = (
    *("tensorflow", "keras", "numpy", "onnxruntime"),
    *(["openvino"] if find_spec("openvino") else []),
    *("pillow", "click", "rich"),
)


@dataclass(frozen=True)
class Table:
    """Results of a benchmark.

    Attributes:
        name: name of the marker in the document.
        columns: column headings.
        rows: formatted cells.
        note: how it was measured, in one or two sentences.
        document: the file with the marker.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    document: Path = DOCUMENT

    def markdown(self) -> str:
        """Return the table and its note as Markdown, without the marker."""
        lines = [self.columns, tuple("---" for _ in self.columns), *self.rows]
        table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
        return f"{table}\n\n{self.note}\n" if self.note else f"{table}\n"

    def text(self) -> str:
        """Return the table and its note for a terminal."""
        widths = [max(len(cell) for cell in column) for column in zip(self.columns, *self.rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
            for cells in (self.columns, tuple("-" * width for width in widths), *self.rows)
        ]
        return "\n".join([f"\n== {self.name} ==", *lines, *([self.note] if self.note else [])])


@dataclass(frozen=True)
class Workload:
    """The amount of work. A quick run only shows that the scripts work; its results are not written."""

    quick: bool = False

    def count(self, full: int, quick: int) -> int:
        """Return ``full``, or ``quick`` for a quick run."""
        return quick if self.quick else full


Benchmark = Callable[[Inputs, Workload], list[Table]]


def target_status(value: float, minimum: float | None = None, maximum: float | None = None) -> str:
    """Return whether a target is met, for a cell."""
    met = (minimum is None or value >= minimum) and (maximum is None or value <= maximum)
    return "met" if met else "missed"


def machine_table() -> Table:
    """Return a table of the machine, the software, and the date."""
    machine = describe_machine(PACKAGES)
    rows = (
        ("Processor", f"{machine.processor}, {machine.cores} cores for this process"),
        ("Memory", f"{machine.memory / 1e9:.0f} GB" if machine.memory else "unknown"),
        ("System", machine.system),
        ("Python", machine.python),
        ("Packages", ", ".join(f"{package} {version}" for package, version in machine.packages.items())),
        ("Measured on", time.strftime("%Y-%m-%d")),
    )
    return Table("machine", ("", "Machine"), rows)


def write_tables(tables: list[Table]) -> None:
    """Replace the tables of the same names in their documents.

    Raises:
        SystemExit: a document has no marker for a table.
    """
    for table in tables:
        text = table.document.read_text(encoding="utf-8")
        before, start, rest = text.partition(f"<!-- {table.name} -->\n")
        _, end, after = rest.partition(f"<!-- /{table.name} -->")
        if not end:
            raise SystemExit(f"{table.document} has no marker for the table {table.name}.")
        table.document.write_text(before + start + table.markdown() + end + after, encoding="utf-8")


def run_one(benchmark: Benchmark) -> None:
    """Run one benchmark as a script and print its tables."""
    parser = argparse.ArgumentParser(description=benchmark.__doc__)
    parser.add_argument("--quick", action="store_true", help="run a few rounds of little work")
    workload = Workload(parser.parse_args().quick)
    with temporary_inputs() as inputs:
        for table in [machine_table(), *benchmark(inputs, workload)]:
            print(table.text())
