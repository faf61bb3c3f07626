"""``densenet evaluate``: measure a model's accuracy on labeled images."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from densenet_cli.cli.command import command, option, output_option
from densenet_cli.cli.console import echo_image_error, echo_info, printable, stdout_console
from densenet_cli.cli.options import (
    NoteCounter,
    create_classifier,
    dataset_options,
    model_options,
    select_pages,
    suffix_option,
    table_options,
)
from densenet_cli.errors import UsageError
from densenet_cli.text import plural, to_unicode

if TYPE_CHECKING:
    from rich.table import Table

    from densenet_cli.evaluation import EvaluationReport, ImageOutcome
    from densenet_cli.evaluation.report import Proportion
    from densenet_cli.report.evaluation import Mistakes

MAX_CLASSES = 20
"""Up to this number, all classes are shown. Otherwise the ``WORST_CLASSES`` with the lowest F1 are shown."""
WORST_CLASSES = 10
CONFUSED_PAIRS = 10


@command()
@click.argument("folder", required=False, metavar="[FOLDER]", type=click.Path())
@option("--restrict", is_flag=True, help="Limit predictions to the classes that occur in the dataset.")
@table_options
@suffix_option
@output_option(
    "--format",
    "format_",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="Format of standard output.",
)
@output_option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the report to FILE as JSON.",
)
@output_option(
    "--html",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write the report as an HTML page with images of the most confident mistakes.",
)
@output_option(
    "--mistakes",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write all misclassified images to a CSV file, the most confident first.",
)
@output_option(
    "--plots",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write a confusion matrix and a reliability diagram to FOLDER (PNG).",
)
@output_option("--overwrite", is_flag=True, help="Replace existing output files.")
@model_options()
def evaluate(
    folder: str | None,
    csv: str | None,
    path_column: str | None,
    label_column: str | None,
    suffix: tuple[str, ...],
    restrict: bool,
    format_: str,
    output: Path | None,
    mistakes: Path | None,
    plots: Path | None,
    html: str | None,
    overwrite: bool,
    **model: Any,
) -> int:
    """Measure a model's accuracy on labeled images.

    FOLDER contains one folder per class, whose name is the WordNet ID or label of the class. Images can be nested at
    any depth. Some classes of the model can be missing, but every folder must name a class of the model.

    \b
    Examples:
      densenet evaluate val/
      densenet evaluate val/ --weights model.safetensors --mistakes wrong.csv
      densenet evaluate val/ --variant 169 -o report.json --plots plots/
      densenet evaluate val/ --html report.html
      densenet evaluate --csv test.csv --format json
    """
    if folder is None and csv is None:
        raise click.UsageError("No images given. Pass a folder that contains class folders, or use --csv.")
    from densenet_cli.cli.progress import ProgressBar
    from densenet_cli.datasets import open_dataset
    from densenet_cli.evaluation import ImageOutcome, MetricsAccumulator
    from densenet_cli.evaluation.files import EvaluationFiles, report_to_json
    from densenet_cli.images.previews import Thumbnail
    from densenet_cli.labels import ClassResolver

    # Check outputs and images before weights are downloaded.
    outputs = EvaluationFiles(output, mistakes, plots, overwrite)
    outputs.check()
    worst: Mistakes | None = None
    if html is not None:
        from densenet_cli.report import evaluation as page
        from densenet_cli.report.page import check_page

        check_page(html, overwrite, output, mistakes)
        worst = page.Mistakes()
    images = open_dataset(folder, csv, dataset_options(suffix, path_column, label_column, csv is not None, csv is None))
    classifier = create_classifier(**model)
    positions = ClassResolver(classifier.labels).resolve_all(images.classes, images.description)
    restrict_to = sorted(set(positions.values())) if restrict else None
    if restrict_to and len(restrict_to) == 1:
        raise UsageError("`restrict` requires images of at least two classes.")

    metrics = MetricsAccumulator()
    wrong: list[ImageOutcome] = []
    preview = Thumbnail if worst else None
    interrupted = False
    try:
        with NoteCounter() as notes, ProgressBar("count") as progress:
            sources = select_pages(images.sources(positions), model["pages"], model["offline"])
            for result in classifier.stream(sources, preview=preview):
                outcome = ImageOutcome.from_result(result, restrict_to)
                metrics.add(outcome)
                notes.add(result.notes)
                if worst:
                    worst.add(outcome, result.preview)
                if outcome.error:
                    echo_image_error(outcome.source, outcome.error)
                elif mistakes and outcome.is_mistake:
                    wrong.append(outcome)
                progress.advance("images")
    except KeyboardInterrupt:
        interrupted = True
        if not metrics.images:
            raise
    for warning in images.warnings():
        echo_info(warning)
    report = metrics.report(classifier, restrict_to)
    settings = {
        "images": to_unicode(csv or folder or ""),
        "weights_md5": _md5(classifier.weights),
        "engine": model["engine"],
        **report.settings,
        "restrict": restrict,
    }
    report = dataclasses.replace(report, settings=settings, is_interrupted=interrupted)
    if format_ == "json":
        sys.stdout.write(report_to_json(report))
    else:
        _print_report(report)
    outputs.write(report, wrong)
    if html and worst:
        page.write_page(Path(html), report, worst.most_confident())
    if interrupted:
        raise KeyboardInterrupt
    return 1 if report.failures else 0


def _md5(weights: Path) -> str:
    from densenet_cli.weights.file_identity import file_md5

    return file_md5(weights)


def _print_report(report: EvaluationReport) -> None:
    from densenet_cli.cli.render import heading

    console = stdout_console()
    detail = f"{plural(report.images, 'image')}, {plural(len(report.classes), 'class', 'classes')}"
    if len(report.classes) != report.competing_classes:
        detail += f" (the model has {report.competing_classes:,})"
    console.print(heading(report.model, detail))
    if report.is_interrupted:
        console.print("  Interrupted: only the first images were evaluated.", style="yellow")
    if report.failures:
        console.print(f"  {plural(len(report.failures), 'image')} could not be classified.", style="yellow")
    for table in (_metrics_table(report), _classes_table(report), _confusions_table(report)):
        if table.row_count:
            console.print()
            console.print(table)


def _metrics_table(report: EvaluationReport) -> Table:
    from rich.table import Column

    from densenet_cli.cli.render import create_table, fixed_column, number_column

    table = create_table(fixed_column(""), number_column(""), Column(style="dim"), show_header=False)
    table.add_row("Top-1 accuracy", *_with_interval(report.top1), style="bold")
    if report.competing_classes > 5:
        table.add_row("Top-5 accuracy", *_with_interval(report.top5), style="bold")
    table.add_row("Negative log-likelihood", f"{report.negative_log_likelihood:.4f}", "nats")
    table.add_row("Expected calibration error", f"{report.calibration_error:.2%}", f"{len(report.bins)} bins")
    table.add_row("Precision", f"{report.precision:.2%}", "mean over classes")
    table.add_row("Recall", f"{report.recall:.2%}", "mean over classes")
    table.add_row("F1", f"{report.f1:.2%}", "mean over classes")
    return table


def _classes_table(report: EvaluationReport) -> Table:
    from densenet_cli.cli.render import create_table, number_column, text_column

    numbers = [number_column(name) for name in ("Images", "Precision", "Recall", "F1")]
    table = create_table(text_column("Class"), *numbers)
    results = list(report.classes)
    if len(results) > MAX_CLASSES:
        results = sorted(results, key=lambda result: result.f1)[:WORST_CLASSES]
        table.title = f"The {WORST_CLASSES} classes with the lowest F1"
    for result in results:
        precision = "-" if result.precision is None else f"{result.precision:.1%}"
        table.add_row(
            printable(result.label.name), f"{result.images:,}", precision, f"{result.recall:.1%}", f"{result.f1:.1%}"
        )
    return table


def _confusions_table(report: EvaluationReport) -> Table:
    from densenet_cli.cli.render import create_table, number_column, text_column

    table = create_table(
        text_column("Class"),
        text_column("Predicted"),
        number_column("Images"),
        number_column("Share of class"),
        title="Most frequent confusions",
    )
    for pair in report.most_confused(CONFUSED_PAIRS):
        names = printable(pair.target.name), printable(pair.predicted.name)
        table.add_row(*names, f"{pair.count:,}", f"{pair.share:.1%}")
    return table


def _with_interval(proportion: Proportion) -> tuple[str, str]:
    low, high = proportion.interval
    return f"{proportion.value:.2%}", f"95% confidence interval {low:.2%} to {high:.2%}"
