"""``densenet predict``: classify images."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from densenet_cli.cli.command import FloatRange, command, option, output_option
from densenet_cli.cli.console import echo_image_error, echo_info, end_if_stdout_fails, stdout_console
from densenet_cli.cli.decision_options import decision_options
from densenet_cli.cli.model_options import create_classifier, model_options, model_settings
from densenet_cli.cli.options import NoteCounter, check_not_folder, echo_resumed, expand_sources, source_options
from densenet_cli.cli.path_types import OutputPath
from densenet_cli.cli.ray_options import RayRequest, check_ray_options, ray_options
from densenet_cli.cli.remote_output import uploads_output
from densenet_cli.output.record_formats import RECORD_FORMATS

if TYPE_CHECKING:
    from densenet_cli.classifier import Classifier
    from densenet_cli.images.previews import Preview
    from densenet_cli.labels import Labels
    from densenet_cli.predictor import Predictor
    from densenet_cli.report.predictions import PredictionReport
    from densenet_cli.results import Prediction


@command()
@option(
    "-k",
    "--top-k",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of labels per image.  [default: 5, or all for a multi-label model]",
)
@option(
    "--min-prob",
    type=FloatRange(0, 1),
    metavar="P",
    help="Omit labels with a probability below P.  [default: 0, or 0.5 for a multi-label model without -k]",
)
@decision_options
@source_options
@output_option(
    "--format",
    "format_",
    type=click.Choice(["table", *RECORD_FORMATS, "parquet"]),
    help="Output format. parquet requires --ray.  [default: by the extension of --output, or table; parquet with "
    "--ray]",
)
@output_option(
    "-o",
    "--output",
    type=OutputPath(can_be_remote=True, allow_dash=True),
    metavar="FILE",
    help="Write results to FILE (.json, .jsonl, or .csv; - for standard output; or a URL such as s3://bucket/FILE) and "
    "settings to FILE.meta.json. With --ray, a folder or URL for part files.",
)
@output_option(
    "--html",
    type=OutputPath(dir_okay=False),
    metavar="FILE",
    help="Write an HTML page that shows the images with their labels.",
)
@output_option("--overwrite", is_flag=True, help="Replace existing output files.")
@output_option("--resume", is_flag=True, help="Continue an interrupted run (.jsonl or .csv output, or with --ray).")
@output_option("--retry-errors", is_flag=True, help="With --resume, process failed images again.")
@ray_options
@model_options()
@uploads_output("records")
def predict(
    source: tuple[str, ...],
    top_k: int | None,
    min_prob: float | None,
    files_from: str | None,
    null: bool,
    suffix: tuple[str, ...],
    format_: str | None,
    output: str | None,
    html: str | None,
    overwrite: bool,
    resume: bool,
    retry_errors: bool,
    coverage: float | None,
    set_method: str | None,
    max_error: float | None,
    by_class: bool,
    ray: str | None,
    part_size: int | None,
    **model: Any,
) -> int:
    """Classify images.

    SOURCE is an image, a folder (searched recursively), an archive (.tar, .tar.gz, .zip), a glob, any of these in
    object storage (s3://bucket/photos), an http(s) URL, or - for an image on standard input.
    Results are written in the order of the sources, as soon as they are available. An image that fails is reported
    and does not stop the run.

    \b
    Examples:
      densenet predict cat.jpg
      densenet predict photos/ 'more/*.png' --variant 169 --format jsonl
      densenet predict photos/ -o labels.csv --resume
      densenet predict photos.zip 'shard-{000..099}.tar' -o labels.jsonl
      densenet predict photos/ --html report.html
      find . -name '*.jpg' -print0 | densenet predict --files-from - --null
      densenet predict scan.tif --weights model.safetensors -k 1
      densenet predict s3://bucket/photos/ --ray auto -o s3://bucket/labels/
    """
    check_ray_options(ray, click.get_current_context().params)
    sources = expand_sources(source, files_from, null, suffix, pages=model["pages"], offline=model["offline"])
    decisions = {"coverage": coverage, "set_method": set_method, "max_error": max_error, "by_class": by_class}
    if ray is not None:
        from densenet_cli.cli.ray_run import run_on_ray

        request = RayRequest(
            "predict",
            ray,
            part_size,
            output,
            format_,
            resume,
            overwrite,
            source,
            files_from,
            null,
            suffix,
            {"top_k": top_k, "min_prob": min_prob, **decisions},
            model,
        )
        return run_on_ray(request, create_classifier, partial(_ray_settings, request))
    from densenet_cli.cli.progress import ProgressBar
    from densenet_cli.output.records import check_records, open_records, resolve_record_format

    if output == "-":
        output = None
    check_not_folder(output)
    format_name = format_ or "table" if output is None else resolve_record_format(output, format_)
    as_records = format_name in RECORD_FORMATS
    # Check the output options before anything is loaded.
    if html is not None:
        if resume:
            raise click.UsageError("--html cannot be used with --resume, because the page shows a whole run.")
        from densenet_cli.report.page import check_page

        check_page(html, overwrite, output)
        overwrite = overwrite and output is not None  # otherwise it applies to the page only
    check_records(output, format_name, resume=resume, overwrite=overwrite, retry_errors=retry_errors)
    classifier = create_classifier(**model)
    predictor = _create_predictor(classifier, {"top_k": top_k, "min_prob": min_prob, **decisions})
    settings = _settings(classifier, model, predictor) if output or html else {}
    page: PredictionReport | None = None
    preview: type[Preview] | None = None
    preview_limit: int | None = None
    failed = 0
    if not (output or html):
        end_if_stdout_fails()
    with ExitStack() as stack:
        if html:
            from densenet_cli.images.previews import Thumbnail
            from densenet_cli.report.predictions import DEFAULT_THRESHOLD, MAX_THUMBNAILS, PredictionReport

            preview, preview_limit = Thumbnail, MAX_THUMBNAILS
            is_multi_label = classifier.config.is_multi_label
            page = stack.enter_context(
                PredictionReport(
                    Path(html),
                    classifier.model,
                    settings,
                    is_multi_label=is_multi_label,
                    has_sets=coverage is not None,
                    has_decisions=max_error is not None,
                    threshold=(is_multi_label and predictor.lowest_min_prob) or DEFAULT_THRESHOLD,
                )
            )
        if as_records:
            writer = stack.enter_context(
                open_records(
                    output, format_name, settings, resume=resume, overwrite=overwrite, retry_errors=retry_errors
                )
            )
            echo_resumed(writer.recorded)
            sources = writer.pending(sources)
            write: Callable[[Prediction], object] = writer.write
        else:
            from densenet_cli.cli.render import print_prediction

            write = partial(print_prediction, stdout_console(), min_prob=predictor.min_prob)
        notes = stack.enter_context(NoteCounter())
        progress = stack.enter_context(ProgressBar("count", hidden=not output and sys.stdout.isatty()))
        for result in classifier.stream(sources, preview=preview, preview_limit=preview_limit):
            notes.add(result.notes)
            prediction = predictor(result)
            write(prediction)
            if page:
                page.add(prediction, result.preview)
            if prediction.error:
                failed += 1
                echo_image_error(prediction.source, prediction.error)
            progress.advance("images")
        if as_records:
            failed += writer.recorded_errors
    return 1 if failed else 0


def _create_predictor(classifier: Classifier, arguments: dict[str, Any]) -> Predictor:
    predictor = classifier.predictor(**arguments)
    for warning in predictor.warnings:
        echo_info(warning)
    return predictor


def _ray_settings(request: RayRequest, classifier: Classifier) -> dict[str, Any]:
    return _settings(classifier, request.model, _create_predictor(classifier, request.decisions))


def _settings(classifier: Classifier, model: dict[str, Any], predictor: Predictor) -> dict[str, Any]:
    """Return the settings that results depend on. A file is resumed only with the same settings."""
    return {
        **model_settings(classifier, model),
        "activation": classifier.config.activation,
        "labels": _digest(classifier.labels),
        **predictor.settings,
    }


def _digest(labels: Labels) -> str:
    """Return a digest of the labels, 16 hexadecimal digits."""
    import hashlib

    text = "\n".join(f"{label.index}\t{label.id}\t{label.name}" for label in labels)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
