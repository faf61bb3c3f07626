"""The files that a measurement leaves: checked before hours of work, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from densenet_cli.errors import UsageError
from densenet_cli.evaluation import mistakes
from densenet_cli.evaluation.report import Report
from densenet_cli.evaluation.tally import Outcome
from densenet_cli.output.atomic import output_errors, write_file
from densenet_cli.output.checks import check_target
from densenet_cli.results import unicode

PLOTS = ("confusion_matrix.png", "reliability_diagram.png")
"""Keys of ``plots.PLOTS``, written again so that matplotlib is imported only to draw; a test holds them equal."""


@dataclass(frozen=True)
class Outputs:
    """Where the files go.

    Attributes:
        report: the report as JSON, or None.
        mistakes: the wrong images as CSV, or None.
        plots: a folder for the PNGs, made if need be, or None.
        overwrite: whether existing files are replaced.
    """

    report: Path | None = None
    mistakes: Path | None = None
    plots: Path | None = None
    overwrite: bool = False

    def check(self) -> None:
        """Raise what writing would raise, as far as that can be known before.

        Raises:
            UsageError: a wrong suffix, an existing file, a missing library.
            OutputError: a folder that is missing or can't be written.
        """
        for path, suffix in ((self.report, ".json"), (self.mistakes, ".csv")):
            if path and path.suffix.lower() != suffix:
                raise UsageError(f"{_name(path)} will hold {suffix[1:].upper()}: let its name end in {suffix}.")
        if self.plots and find_spec("matplotlib") is None:
            raise UsageError("Plots need one more package: pip install matplotlib.")
        for path in (self.report, self.mistakes):
            if path:
                check_target(path, self.overwrite)
        if self.plots:
            for name in PLOTS:
                check_target(self.plots / name, self.overwrite, makes_folder=True)

    def write(self, report: Report, wrong: Iterable[Outcome]) -> None:
        """Write them. Raises OutputError."""
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
    """The report as JSON text, a newline at its end."""
    return json.dumps(report.to_dict(), indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def _name(path: Path) -> str:
    return unicode(str(path))
