"""Print tables of results, and write them between markers in ``docs/concepts/performance.md``."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from densenet_cli.benchmarking.machine import describe_machine

DOCUMENT = Path(__file__).parents[1] / "docs" / "concepts" / "performance.md"
PACKAGES = ("tensorflow", "keras", "numpy", "onnxruntime", "pillow", "click", "rich")


@dataclass(frozen=True)
class Table:
    """What was measured.

    Attributes:
        name: of the marker in the document.
        columns: their headings.
        rows: cells, ready to be read.
        note: how often and on what, in a sentence or two.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        """The table and its note, without the marker."""
        lines = [self.columns, tuple("---" for _ in self.columns), *self.rows]
        table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
        return f"{table}\n\n{self.note}\n" if self.note else f"{table}\n"

    def text(self) -> str:
        """The table for a terminal."""
        widths = [max(len(cell) for cell in column) for column in zip(self.columns, *self.rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
            for cells in (self.columns, tuple("-" * width for width in widths), *self.rows)
        ]
        return "\n".join([f"\n== {self.name} ==", *lines, *([self.note] if self.note else [])])


def verdict(value: float, least: float | None = None, most: float | None = None) -> str:
    """Whether a target is met, for a cell."""
    met = (least is None or value >= least) and (most is None or value <= most)
    return "met" if met else "missed"


def machine() -> Table:
    """Where and when it was measured."""
    found = describe_machine(PACKAGES)
    rows = (
        ("Processor", f"{found.processor}, {found.cores} cores for this process"),
        ("Memory", f"{found.memory / 1e9:.0f} GB" if found.memory else "unknown"),
        ("System", found.system),
        ("Python", found.python),
        ("Packages", ", ".join(f"{package} {version}" for package, version in found.packages.items())),
        ("Measured on", time.strftime("%Y-%m-%d")),
    )
    return Table("machine", ("", "The machine"), rows)


def write(tables: list[Table]) -> None:
    """Put the tables into the document in place of those of the same names.

    Raises:
        SystemExit: the document has no marker of that name.
    """
    text = DOCUMENT.read_text(encoding="utf-8")
    for table in tables:
        before, start, rest = text.partition(f"<!-- {table.name} -->\n")
        _, end, behind = rest.partition(f"<!-- /{table.name} -->")
        if not end:
            raise SystemExit(f"{DOCUMENT} has no place for {table.name}.")
        text = before + start + table.markdown() + end + behind
    DOCUMENT.write_text(text, encoding="utf-8")
