"""``densenet evaluate``: measure a model's accuracy on labeled images."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from densenet_cli.cli.command import FloatRange, command, option, output_option
from densenet_cli.cli.console import echo_image_error, echo_info
from densenet_cli.cli.model_options import create_classifier, model_options
from densenet_cli.cli.options import (
    NoteCounter,
    check_access,
    dataset_options,
    select_pages,
    suffix_option,
    table_options,
)
from densenet_cli.cli.path_types import OutputPath
from densenet_cli.cli.remote_output import uploads_output
from densenet_cli.errors import UsageError
from densenet_cli.text import to_unicode

if TYPE_CHECKING:
    from densenet_cli.datasets import Dataset
    from densenet_cli.evaluation import EvaluationReport, MultiLabelReport
    from densenet_cli.report.evaluation import Mistakes


@command()
@click.argument("folder", required=False, metavar="[FOLDER]", type=click.Path())
@option("--restrict", is_flag=True, help="Limit predictions to the classes that occur in the dataset.")
@option(
    "--min-prob",
    type=FloatRange(0, 1),
    metavar="P",
    help="For a multi-label model: predict the labels with a probability of at least P.  [default: 0.5, or the model's "
    "calibrated thresholds]",
)
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
    type=OutputPath(can_be_remote=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the report to FILE as JSON. FILE can be a URL such as s3://bucket/report.json.",
)
@output_option(
    "--html",
    type=OutputPath(dir_okay=False),
    metavar="FILE",
    help="Write the report as an HTML page with images of the most confident mistakes.",
)
@output_option(
    "--mistakes",
    type=OutputPath(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write all mistakes to a CSV file, the most confident first.",
)
@output_option(
    "--plots",
    type=OutputPath(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write plots to FOLDER (PNG): a confusion matrix, a reliability diagram, and a risk-coverage curve, or for a "
    "multi-label model, ROC and precision-recall curves.",
)
@output_option("--overwrite", is_flag=True, help="Replace existing output files.")
@model_options()
@uploads_output("report", Path, can_resume=False)
def evaluate(
    folder: str | None,
    csv: str | None,
    path_column: str | None,
    label_column: str | None,
    suffix: tuple[str, ...],
    restrict: bool,
    min_prob: float | None,
    format_: str,
    output: Path | None,
    mistakes: Path | None,
    plots: Path | None,
    html: str | None,
    overwrite: bool,
    **model: Any,
) -> int:
    """Measure a model's accuracy on labeled images.

    FOLDER, or an archive, contains one folder per class, whose name is the WordNet ID or label of the class. Images can
    be nested at any depth. Some classes of the model can be missing, but every folder must name a class of the model.

    A multi-label model needs --csv, with labels such as "cat|dog" or one column of 0 and 1 per class.

    \b
    Examples:
      densenet evaluate val/
      densenet evaluate val/ --weights model.safetensors --mistakes wrong.csv
      densenet evaluate val/ --variant 169 -o report.json --plots plots/
      densenet evaluate val/ --html report.html
      densenet evaluate --csv test.csv --format json
      densenet evaluate images/ --csv findings.csv --weights multi_label.keras
    """
    if folder is None and csv is None:
        raise click.UsageError("No images given. Pass a folder that contains class folders, or use --csv.")
    from densenet_cli.cli.labeled_images import open_labeled_images
    from densenet_cli.cli.progress import ProgressBar
    from densenet_cli.datasets import open_dataset, shown_name
    from densenet_cli.evaluation import MetricsAccumulator, MultiLabelAccumulator
    from densenet_cli.evaluation.files import EvaluationFiles, report_to_json
    from densenet_cli.images.previews import Thumbnail

    # Check outputs and images before weights are downloaded. How to read the images depends on the model, but only a
    # model in a checkpoint can be a multi-label model.
    outputs = EvaluationFiles(output, mistakes, plots, overwrite)
    outputs.check()
    worst: Mistakes | None = None
    if html is not None:
        from densenet_cli.report.evaluation import Mistakes
        from densenet_cli.report.page import check_page

        check_page(html, overwrite, output, mistakes)
        worst = Mistakes()
    check_access([folder, csv], model["offline"])
    options = dataset_options(suffix, path_column, label_column, csv is not None, csv is None, model["offline"])
    images: Dataset | None = None
    if model["weights"] is None:
        outputs.check_plots(is_multi_label=False)
        images = open_dataset(folder, csv, options)
    classifier = create_classifier(**model)
    if images is None:
        outputs.check_plots(classifier.config.is_multi_label)
    metrics: MetricsAccumulator | MultiLabelAccumulator
    if classifier.config.is_multi_label:
        if restrict:
            raise UsageError("`restrict` does not apply to a multi-label model, whose classes do not compete.")
        labeled = open_labeled_images(classifier, images, folder, csv, options)
        metrics = MultiLabelAccumulator(classifier, min_prob)
    else:
        if min_prob is not None:
            raise UsageError("`min_prob` applies only to multi-label models.")
        labeled = open_labeled_images(classifier, images, folder, csv, options)
        restrict_to = sorted(set(labeled.positions.values())) if restrict else None
        if restrict_to and len(restrict_to) == 1:
            raise UsageError("`restrict` requires images of at least two classes.")
        metrics = MetricsAccumulator(classifier, restrict_to)

    wrong: list[Any] = []
    preview = Thumbnail if worst else None
    interrupted = False
    try:
        with NoteCounter() as notes, ProgressBar("count") as progress:
            sources = select_pages(labeled.sources, model["pages"], model["offline"])
            for result in classifier.stream(sources, metrics.outputs, preview=preview):
                outcome = metrics.add(result)
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
    for warning in labeled.dataset.warnings():
        echo_info(warning)
    report = metrics.report()
    settings = {
        "images": to_unicode(shown_name(csv or folder or "")),
        "weights_md5": _md5(classifier.weights),
        "engine": classifier.engine,
        "precision": classifier.precision,
        "activation": classifier.config.activation,
        "calibrated": classifier.calibration is not None,
        **report.settings,
        "assumptions": list(classifier.assumptions),
        **({} if classifier.config.is_multi_label else {"restrict": restrict}),
    }
    report = dataclasses.replace(report, settings=settings, is_interrupted=interrupted)
    if format_ == "json":
        sys.stdout.write(report_to_json(report))
    else:
        from densenet_cli.cli.evaluation_tables import print_report

        print_report(report)
    outputs.write(report, wrong)
    if html and worst:
        _write_page(Path(html), report, worst)
    if interrupted:
        raise KeyboardInterrupt
    return 1 if report.failures else 0


def _write_page(path: Path, report: EvaluationReport | MultiLabelReport, mistakes: Mistakes) -> None:
    from densenet_cli.evaluation import EvaluationReport
    from densenet_cli.report import evaluation, multi_label

    if isinstance(report, EvaluationReport):
        evaluation.write_page(path, report, mistakes.most_confident())
    else:
        multi_label.write_page(path, report, mistakes.most_confident())


def _md5(weights: Path) -> str:
    from densenet_cli.weights.shards import checkpoint_md5

    return checkpoint_md5(weights)
