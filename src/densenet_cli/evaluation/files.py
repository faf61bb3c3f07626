"""The files that an evaluation writes: a report, a table of mistakes, and plots."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from densenet_cli.evaluation import mistakes
from densenet_cli.evaluation.report import Report
from densenet_cli.evaluation.tally import Outcome
from densenet_cli.output.atomic import output_errors, write_file
from densenet_cli.output.checks import check_output_file, format_from_suffix

PLOTS = ("confusion_matrix.png", "reliability_diagram.png")
"""Keys of ``plots.PLOTS``, written again so that matplotlib is imported only to draw; a test holds them equal."""


@dataclass(frozen=True)
class EvaluationFiles:
    """Paths of the files to write, each None for no such file.

    Attributes:
        report: the report as JSON.
        mistakes: the misclassified images as CSV.
        plots: folder for plots as PNG, created if it is missing.
        overwrite: whether existing files are replaced.
    """

    report: Path | None = None
    mistakes: Path | None = None
    plots: Path | None = None
    overwrite: bool = False

    def check(self) -> None:
        """Check the paths before any work.

        Raises:
            UsageError: a suffix is wrong, or a file exists.
            OutputError: a folder is missing or read-only.
        """
        for path, format_name in ((self.report, "json"), (self.mistakes, "csv")):
            if path:
                format_from_suffix(path, {format_name: f".{format_name}"})
        for path in (self.report, self.mistakes):
            if path:
                check_output_file(path, self.overwrite)
        if self.plots:
            for name in PLOTS:
                check_output_file(self.plots / name, self.overwrite, create_folder=True)

    def write(self, report: Report, wrong: Iterable[Outcome]) -> None:
        """Write the files. Raises OutputError."""
        if self.report:
            write_file(self.report, to_json(report).encode())
        if self.mistakes:
            write_file(self.mistakes, "".join(mistakes.to_csv(wrong, report.labels)).encode())
        if self.plots:
            from densenet_cli.evaluation import plots

            with output_errors(self.plots):
                self.plots.mkdir(parents=True, exist_ok=True)
            for name, draw in plots.PLOTS.items():
                write_file(self.plots / name, draw(report))


def to_json(report: Report) -> str:
    """Return the report as JSON text that ends with a newline."""
    return json.dumps(report.to_dict(), indent=2, ensure_ascii=True, allow_nan=False) + "\n"
