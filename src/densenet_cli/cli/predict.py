"""``densenet predict``: images in, labels out."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from densenet_cli.cli.console import common_options, warn_failed
from densenet_cli.cli.options import (
    images_of,
    make_classifier,
    model_options,
    model_settings,
    say_recorded,
    source_options,
)
from densenet_cli.errors import UsageError
from densenet_cli.results import FORMATS

if TYPE_CHECKING:
    from densenet_cli.classifier import Classifier
    from densenet_cli.images.previews import Preview
    from densenet_cli.labels import Labels
    from densenet_cli.report.predictions import PredictionReport


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-k",
    "--top-k",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    metavar="N",
    help="Labels an image; more than there are means all.",
)
@click.option(
    "--min-prob",
    type=click.FloatRange(0, 1),
    default=0.0,
    metavar="P",
    help="Leave out labels less probable than this.",
)
@model_options
@source_options
@click.option(
    "--format",
    "format_",
    type=click.Choice(["table", *FORMATS]),
    help="How results are written.  [default: table, or what -o's suffix says]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Write there: .json, .jsonl or .csv (- for standard output). FILE.meta.json beside it holds the settings.",
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write a page with every image there as well: one file to look at, search and sort.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing output file.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted output file (.jsonl or .csv).")
@click.option("--retry-errors", is_flag=True, help="With --resume: do the failed ones again.")
@common_options
def command(
    source: tuple[str, ...],
    top_k: int,
    min_prob: float,
    files_from: str | None,
    null: bool,
    format_: str | None,
    output: str | None,
    html: str | None,
    overwrite: bool,
    resume: bool,
    retry_errors: bool,
    **model: Any,
) -> int:
    """Classify images.

    SOURCE is an image, a folder (searched recursively), a glob, an http(s) URL, or - for one image on
    standard input. Results come in order as they are ready; an image that fails is one error among them.

    \b
    Exit status: 0 all done, 1 some image failed, 2 wrong usage, 3 no weights
    or unfit ones, 4 output can't be written, 130 interrupted.

    \b
    Examples:
      densenet predict cat.jpg
      densenet predict photos/ 'more/*.png' --variant 169 --format jsonl
      densenet predict photos/ -o labels.csv --resume
      densenet predict photos/ --html report.html
      find . -name '*.jpg' -print0 | densenet predict --files-from - --null
      densenet predict scan.tif --weights model.safetensors -k 1
    """
    found = images_of(source, files_from, null)
    from densenet_cli.cli.progress import counting
    from densenet_cli.output import records

    if output == "-":
        output = None
    kind = format_ or "table" if output is None else records.format_of(output, format_)
    as_records = kind in FORMATS
    # Contradictions in the options for output are found here, before anything is loaded.
    if html is not None:
        if resume:
            raise UsageError("--html shows a whole run, so it can't go with --resume; leave one of them out.")
        from densenet_cli.report.page import check_page

        check_page(html, overwrite, output)
        overwrite = overwrite and output is not None  # else it is the page's
    writing = partial(records.open_records, output, kind, resume=resume, overwrite=overwrite, retry_errors=retry_errors)
    if as_records or resume or overwrite or retry_errors:
        writing({})
    classifier = make_classifier(**model)
    settings = _settings(classifier, model["engine"], top_k, min_prob) if output or html else {}
    page: PredictionReport | None = None
    preview: type[Preview] | None = None
    preview_limit: int | None = None
    with ExitStack() as stack:
        if html:
            from densenet_cli.images.previews import Thumbnail
            from densenet_cli.report.predictions import MAX_THUMBNAILS, PredictionReport

            preview, preview_limit = Thumbnail, MAX_THUMBNAILS
            page = stack.enter_context(PredictionReport(Path(html), classifier.model, settings))
        if as_records:
            writer = stack.enter_context(writing(settings))
            say_recorded(writer.recorded)
            found, show, failed = writer.pending(found), writer.write, writer.recorded_errors
        else:
            from densenet_cli.cli.render import Tables

            show, failed = Tables().show, 0
        counter = stack.enter_context(counting("images", quietly=not output and sys.stdout.isatty()))
        for result in classifier.stream(found, preview=preview, preview_limit=preview_limit):
            prediction = classifier.prediction(result, top_k, min_prob)
            show(prediction)
            if page:
                page.add(prediction, result.preview)
            if prediction.error:
                failed += 1
                warn_failed(prediction.source, prediction.error.type, prediction.error.message)
            counter.advance()
    return 1 if failed else 0


def _settings(classifier: Classifier, engine: str, top_k: int, min_prob: float) -> dict[str, Any]:
    """What the results depend on: a run with other settings must not be appended to the file."""
    return {
        **model_settings(classifier, engine),
        "labels": _digest(classifier.labels),
        "top_k": top_k,
        "min_prob": min_prob,
    }


def _digest(labels: Labels) -> str:
    """The label table in 16 hexadecimal digits, to notice another one."""
    import hashlib

    text = "\n".join(f"{label.index}\t{label.id}\t{label.name}" for label in labels)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
