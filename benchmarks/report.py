"""Tables of results: on the terminal, and between markers in ``docs/benchmarks.md``, whose prose stays as it is."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"
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
    rows = (
        ("Processor", f"{_processor()}, {len(os.sched_getaffinity(0))} cores for this process"),
        ("Memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB"),
        ("System", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        ("Python", platform.python_version()),
        ("Packages", ", ".join(f"{package} {version(package)}" for package in PACKAGES)),
        ("Measured on", time.strftime("%Y-%m-%d")),
    )
    return Table("machine", ("", "The machine"), rows)


def _processor() -> str:
    """Its name and, since a virtual machine may hide it, its family, model and widest vectors."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or "unknown"
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", "").split()
    vectors = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_tile") if name in flags]
    return (
        f"{fields.get('model name', 'unknown')} (family {fields.get('cpu family')}, model {fields.get('model')}; "
        f"{', '.join(vectors)})"
    )


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
