"""The files that an evaluation writes: a report, a table of mistakes, and plots."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densenet_cli.evaluation.metrics import ImageOutcome
from densenet_cli.evaluation.multi_label import MultiLabelOutcome
from densenet_cli.evaluation.multi_label_report import MultiLabelReport
from densenet_cli.evaluation.report import EvaluationReport
from densenet_cli.labels import ClassLabel, Labels
from densenet_cli.output.atomic import output_errors, write_file
from densenet_cli.output.checks import check_output_file, check_output_folder, format_from_suffix
from densenet_cli.text import csv_line, escape_name, shortest_float, to_unicode

PLOTS = {
    "confusion_matrix.png": "draw_confusion_matrix",
    "reliability_diagram.png": "draw_reliability_diagram",
    "risk_coverage_curve.png": "draw_risk_coverage_curve",
}
MULTI_LABEL_PLOTS = {
    "roc_curves.png": "draw_roc_curves",
    "precision_recall_curves.png": "draw_precision_recall_curves",
}
"""File name -> function in ``plots``, by name, so that ``check_plots`` does not import matplotlib."""

MISTAKE_COLUMNS = (
    "source",
    "true_index",
    "true_id",
    "true_label",
    "predicted_index",
    "predicted_id",
    "predicted_label",
    "probability",
    "true_probability",
    "true_rank",
)

MULTI_LABEL_MISTAKE_COLUMNS = ("source", "index", "id", "label", "error", "probability")


@dataclass(frozen=True)
class EvaluationFiles:
    """Paths of the files to write, each None for no such file.

    Attributes:
        report: The report as JSON.
        mistakes: The misclassified images as CSV.
        plots: Folder for plots as PNG, created if it is missing.
        overwrite: Whether existing files are replaced.
    """

    report: Path | None = None
    mistakes: Path | None = None
    plots: Path | None = None
    overwrite: bool = False

    def check(self) -> None:
        """Check the paths before any work, except for the plots, whose names depend on the kind of model.

        Raises:
            UsageError: A suffix is wrong or a file exists.
            OutputError: A folder is missing or read-only.
        """
        for path, format_name in ((self.report, "json"), (self.mistakes, "csv")):
            if path:
                format_from_suffix(path, {format_name: f".{format_name}"})
                check_output_file(path, self.overwrite)
        if self.plots:
            check_output_folder(self.plots)

    def check_plots(self, is_multi_label: bool) -> None:
        """Check the plots of a kind of model. Raises the errors of ``check``."""
        if self.plots:
            for name in _plots(is_multi_label):
                check_output_file(self.plots / name, self.overwrite, create_folder=True)

    def write(self, report: EvaluationReport | MultiLabelReport, mistakes: Sequence[Any]) -> None:
        """Write the files.

        Args:
            report: The report.
            mistakes: The outcomes with mistakes, of the kind of the report: ``ImageOutcome`` or ``MultiLabelOutcome``.

        Raises:
            OutputError: A file cannot be written.
        """
        is_multi_label = isinstance(report, MultiLabelReport)
        if self.report:
            write_file(self.report, report_to_json(report).encode())
        if self.mistakes:
            to_csv = multi_label_mistakes_to_csv if is_multi_label else mistakes_to_csv
            write_file(self.mistakes, "".join(to_csv(mistakes, report.labels)).encode())
        if self.plots:
            from densenet_cli.evaluation import plots

            with output_errors(self.plots):
                self.plots.mkdir(parents=True, exist_ok=True)
            for name, function in _plots(is_multi_label).items():
                write_file(self.plots / name, getattr(plots, function)(report))


def report_to_json(report: EvaluationReport | MultiLabelReport) -> str:
    """Return the report as JSON text that ends with a newline."""
    return json.dumps(report.to_dict(), indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def mistakes_to_csv(mistakes: Iterable[ImageOutcome], labels: Labels) -> Iterator[str]:
    """Yield the lines of a CSV table with ``MISTAKE_COLUMNS``, the most confident mistakes first.

    Names and probabilities have the form that ``predict`` writes.
    """
    yield csv_line(MISTAKE_COLUMNS)
    for mistake in sorted(mistakes, key=lambda mistake: -mistake.confidence):
        yield csv_line(
            (
                escape_name(mistake.source),
                *_label_fields(labels[mistake.target]),
                *_label_fields(labels[mistake.predicted]),
                repr(shortest_float(mistake.confidence)),
                repr(shortest_float(mistake.target_probability)),
                str(mistake.target_rank),
            )
        )


def multi_label_mistakes_to_csv(outcomes: Iterable[MultiLabelOutcome], labels: Labels) -> Iterator[str]:
    """Yield the lines of a CSV table with ``MULTI_LABEL_MISTAKE_COLUMNS``, the most confident mistakes first.

    An image has a row for each class that was predicted or missed incorrectly.
    """
    yield csv_line(MULTI_LABEL_MISTAKE_COLUMNS)
    mistakes = [(outcome.source, mistake) for outcome in outcomes for mistake in outcome.mistakes]
    for source, mistake in sorted(mistakes, key=lambda pair: -pair[1].confidence):
        yield csv_line(
            (
                escape_name(source),
                *_label_fields(labels[mistake.position]),
                "false_negative" if mistake.is_missed else "false_positive",
                repr(shortest_float(mistake.probability)),
            )
        )


def _plots(is_multi_label: bool) -> dict[str, str]:
    return MULTI_LABEL_PLOTS if is_multi_label else PLOTS


def _label_fields(label: ClassLabel) -> tuple[str, str, str]:
    return str(label.index), to_unicode(label.id or ""), to_unicode(label.name)
