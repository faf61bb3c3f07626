"""``densenet evaluate``: how good a model is on images whose classes are known."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from densenet_cli.cli.console import common_options, say, warn_failed
from densenet_cli.cli.options import make_classifier, model_options
from densenet_cli.errors import UsageError
from densenet_cli.text import to_unicode

if TYPE_CHECKING:
    from densenet_cli.datasets import Dataset
    from densenet_cli.evaluation import Outcome
    from densenet_cli.report.evaluation import Mistakes


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", required=False, metavar="[DIR]", type=click.Path())
@click.option(
    "--csv",
    "csv_file",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Take the images from a table with the columns path and label. Paths start from DIR, else from its folder.",
)
@click.option("--restrict", is_flag=True, help="Let only the classes that there are images of compete.")
@model_options
@click.option(
    "--format",
    "format_",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="What goes to standard output.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the whole report there as well, as JSON.",
)
@click.option(
    "--mistakes",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write every wrong image to this CSV file, the surest mistakes first.",
)
@click.option(
    "--plots",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Draw a confusion matrix and a reliability diagram there (PNG).",
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write the whole report there as a page, with the worst mistakes as images.",
)
@click.option("--overwrite", is_flag=True, help="Replace existing output files.")
@common_options
def command(
    folder: str | None,
    csv_file: str | None,
    restrict: bool,
    format_: str,
    output: Path | None,
    mistakes: Path | None,
    plots: Path | None,
    html: str | None,
    overwrite: bool,
    **model: Any,
) -> int:
    """Measure a model on images whose classes are known.

    DIR holds a folder for each class, called by its WordNet id, readable name or index, with images at any
    depth. It may hold fewer classes than the model knows, but no others.

    \b
    Exit status: 0 all done, 1 some image failed, 2 wrong usage, 3 no weights
    or unfit ones, 4 output can't be written, 130 interrupted.

    \b
    Examples:
      densenet evaluate val/
      densenet evaluate val/ --weights model.safetensors --mistakes wrong.csv
      densenet evaluate val/ --variant 169 -o report.json --plots plots/
      densenet evaluate val/ --html report.html
      densenet evaluate --csv test.csv --format json
    """
    if folder is None and csv_file is None:
        raise click.UsageError("Name a folder that holds class folders, or give --csv.")
    from densenet_cli.cli.progress import counting
    from densenet_cli.evaluation import Tally, outcome_of
    from densenet_cli.evaluation.files import EvaluationFiles, to_json
    from densenet_cli.images.previews import Thumbnail
    from densenet_cli.labels import ClassResolver

    # What can be wrong with outputs and images is found before weights are fetched.
    outputs = EvaluationFiles(output, mistakes, plots, overwrite)
    outputs.check()
    worst: Mistakes | None = None
    if html is not None:
        from densenet_cli.report import evaluation as page
        from densenet_cli.report.page import check_page

        check_page(html, overwrite, output, mistakes)
        worst = page.Mistakes()
    images = _collection(folder, csv_file)
    classifier = make_classifier(**model)
    positions = ClassResolver(classifier.labels).resolve_all(images.classes, images.description)
    among = sorted(set(positions.values())) if restrict else None
    if among and len(among) == 1:
        raise UsageError("With --restrict and images of one class only, every answer would be right.")

    tally = Tally()
    wrong: list[Outcome] = []
    preview = Thumbnail if worst else None
    interrupted = False
    try:
        with counting("images") as counter:
            for result in classifier.stream(images.sources(positions), preview=preview):
                outcome = outcome_of(result, among=among)
                tally.add(outcome)
                if worst:
                    worst.add(outcome, result.preview)
                if outcome.failure:
                    warn_failed(outcome.name, outcome.failure.type, outcome.failure.message)
                elif mistakes and outcome.is_mistake:
                    wrong.append(outcome)
                counter.advance()
    except KeyboardInterrupt:
        interrupted = True
        if not tally.images:
            raise
    for warning in images.warnings():
        say(warning)
    report = tally.report(classifier, among=among)
    settings = {
        "images": to_unicode(csv_file or folder or ""),
        "weights_md5": _md5(classifier.weights),
        "engine": model["engine"],
        **report.settings,
        "restrict": restrict,
    }
    report = dataclasses.replace(report, settings=settings, is_interrupted=interrupted)
    if format_ == "json":
        sys.stdout.write(to_json(report))
    else:
        from densenet_cli.cli.evaluation_tables import show

        show(report)
    outputs.write(report, wrong)
    if html and worst:
        page.write_page(Path(html), report, worst.most_confident())
    if interrupted:
        raise KeyboardInterrupt
    return 1 if report.failures else 0


def _collection(folder: str | None, csv_file: str | None) -> Dataset:
    from densenet_cli.datasets import ClassFolders, LabelTable

    return LabelTable(csv_file, folder) if csv_file else ClassFolders(folder or "")


def _md5(weights: Path) -> str:
    from densenet_cli.weights.file_identity import file_md5

    return file_md5(weights)
