"""``densenet explain``: show which image regions drove a prediction."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from densenet_cli.cli.command import command, option, output_option
from densenet_cli.cli.console import echo_image_error, echo_info, end_if_stdout_fails, stdout_console
from densenet_cli.cli.model_options import create_classifier, model_options
from densenet_cli.cli.options import NoteCounter, expand_sources, source_options
from densenet_cli.cli.path_types import OutputPath
from densenet_cli.errors import UsageError

if TYPE_CHECKING:
    from densenet_cli.explain.cam import Explanation


@command()
@option(
    "-k",
    "--top-k",
    type=click.IntRange(min=1),
    metavar="N",
    help="Explain the N most probable classes.  [default: 1]",
)
@option(
    "--class",
    "classes",
    multiple=True,
    metavar="CLASS",
    help="Explain this class instead: a label, WordNet ID, or index. Can be repeated.",
)
@source_options
@output_option("--show", is_flag=True, help="Draw the maps in the terminal.")
@output_option(
    "-o",
    "--output",
    type=OutputPath(can_be_remote=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write a PNG per image to FOLDER, under its path: photos/1.jpg becomes photos/1.jpg.png. FOLDER can be a URL "
    "such as s3://bucket/maps.",
)
@output_option(
    "--format",
    "format_",
    type=click.Choice(["table", "json", "jsonl"]),
    default="table",
    show_default=True,
    help="Format of standard output. JSON includes the peak and the bounding box of each map.",
)
@output_option("--overwrite", is_flag=True, help="Replace existing files in FOLDER.")
@model_options(without=["ten_crop"])
def explain(
    source: tuple[str, ...],
    files_from: str | None,
    null: bool,
    suffix: tuple[str, ...],
    output: Path | str | None,
    overwrite: bool,
    show: bool,
    format_: str,
    top_k: int | None,
    classes: tuple[str, ...],
    **model: Any,
) -> int:
    """Show which image regions drove a prediction (class activation maps).

    SOURCE is an image, a folder (searched recursively), an archive (.tar, .tar.gz, .zip), a glob, any of these in
    object storage (s3://bucket/photos), an http(s) URL, or - for an image on standard input.
    Each map is drawn over the original image, from dark (low evidence) to bright (high evidence). Regions outside the
    model's input are gray. The maps are exact for a head of global average pooling and one dense layer: the mean of a
    map plus the bias of its class is the logit. Other heads get Grad-CAM.

    \b
    Examples:
      densenet explain cat.jpg -o maps/
      densenet explain cat.jpg --show --variant tiny
      densenet explain photos/ -o maps/ -k 3 --input-size 448
      densenet explain cat.jpg -o maps/ --class 'tiger cat' --class n02124075
      densenet explain photos/ --format jsonl
    """
    sources = expand_sources(source, files_from, null, suffix, pages=model["pages"], offline=model["offline"])
    as_json = format_ != "table"
    if output is None and not show and not as_json:
        raise click.UsageError("No output chosen. Use --output FOLDER, --show, or --format json.")
    if show and as_json:
        raise click.UsageError(f"--show cannot be used with --format {format_}. Both write to standard output.")
    if overwrite and output is None:
        raise click.UsageError("--overwrite requires --output.")
    if classes and top_k is not None:
        raise click.UsageError("--class cannot be used with --top-k.")
    from densenet_cli.cli.progress import ProgressBar

    if output is not None:
        from densenet_cli import storage
        from densenet_cli.output.gallery import Gallery, check_gallery

        if isinstance(output, str) and model["offline"]:
            raise UsageError(f"Cannot write {storage.redact(output)}: network access is disabled (`offline`).")
        # Check the first file before weights are downloaded.
        first = next(sources, None)
        check_gallery(output, first.name if first else None, overwrite)
        sources = chain([first] if first else [], sources)
    classifier = create_classifier(**model)
    failed = 0
    if output is None:
        end_if_stdout_fails()
    with ExitStack() as stack:
        if as_json:
            from densenet_cli.output.records import StreamWriter

            write: Callable[[Explanation], None] = stack.enter_context(StreamWriter(sys.stdout.buffer, format_)).write
        else:
            from densenet_cli.cli.render import print_explanation

            write = partial(print_explanation, stdout_console(), draw_maps=show)
        notes = stack.enter_context(NoteCounter())
        progress = stack.enter_context(ProgressBar("count", hidden=output is None and sys.stdout.isatty()))
        explainer = classifier.explainer(top_k or 1, classes or None)
        results = classifier.stream(sources, explainer.outputs, preview=explainer.preview)
        explanations: Iterator[Explanation] = map(explainer, results)
        if output is not None:
            # Close the generator however the run ends, so that files that are being written are completed.
            saved = stack.enter_context(closing(Gallery(output, overwrite).save(explanations, classifier.threads)))
            explanations = (replace(explanation, drawing=path) for explanation, path in saved)
        is_noted = as_json  # JSON records contain the method
        for explanation in explanations:
            if not is_noted and not explanation.error and explanation.method != "cam":
                echo_info("The maps are Grad-CAM, because the head is not a single dense layer on the mean.")
                is_noted = True
            write(explanation)
            notes.add(explanation.notes)
            if explanation.error:
                failed += 1
                echo_image_error(explanation.source, explanation.error)
            progress.advance("images")
    return 1 if failed else 0
