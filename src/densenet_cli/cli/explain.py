"""``densenet explain``: where in an image the network saw what it says."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from densenet_cli.cli.console import common_options, warn_failed
from densenet_cli.cli.options import images_of, make_classifier, model_options, source_options

if TYPE_CHECKING:
    from densenet_cli.explain.cam import Explanation


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write a PNG an image into DIR, in folders as the sources lie: photos/1.jpg becomes photos/1.jpg.png.",
)
@click.option("--overwrite", is_flag=True, help="Replace existing files in DIR.")
@click.option("--show", is_flag=True, help="Draw the maps in the terminal.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["table", "json", "jsonl"]),
    default="table",
    show_default=True,
    help="What goes to standard output; JSON has each map's peak and the box of its upper half.",
)
@click.option(
    "-k",
    "--top-k",
    type=click.IntRange(min=1),
    metavar="N",
    help="Maps of the N most probable classes.  [default: 1]",
)
@click.option(
    "--class",
    "classes",
    multiple=True,
    metavar="CLASS",
    help="A map of this class instead: label, WordNet id or index. May be given several times.",
)
@click.option(
    "--input-size",
    type=click.IntRange(1, 4096),
    metavar="N",
    help="Run the network on NxN pixels, 448 for a finer map.  [default: the model's own]",
)
@model_options
@source_options
@common_options
def command(
    source: tuple[str, ...],
    files_from: str | None,
    null: bool,
    output: Path | None,
    overwrite: bool,
    show: bool,
    format_: str,
    top_k: int | None,
    classes: tuple[str, ...],
    **model: Any,
) -> int:
    """Show where in an image the network saw what it says.

    The class activation map of a DenseNet is exact: its mean and the class's bias make the logit. It is laid on
    the original photograph, from dark (least) to bright (most); what the network did not see is gray.

    \b
    Exit status: 0 all done, 1 some image failed, 2 wrong usage, 3 no weights
    or unfit ones, 4 output can't be written, 130 interrupted.

    \b
    Examples:
      densenet explain cat.jpg -o maps/
      densenet explain cat.jpg --show --variant tiny
      densenet explain photos/ -o maps/ -k 3 --input-size 448
      densenet explain cat.jpg -o maps/ --class 'tiger cat' --class n02124075
      densenet explain photos/ --format jsonl
    """
    found = images_of(source, files_from, null)
    as_json = format_ != "table"
    if output is None and not show and not as_json:
        raise click.UsageError("Say where the maps go: -o DIR for images, --show for the terminal, or --format json.")
    if show and as_json:
        raise click.UsageError("--show and --format json would both write to standard output; choose one.")
    if overwrite and output is None:
        raise click.UsageError("--overwrite goes with -o.")
    if classes and top_k is not None:
        raise click.UsageError("-k and --class both say which maps; choose one.")
    if model["ten_crop"]:
        raise click.UsageError("A map lies on one square of the image, and --ten-crop takes ten.")
    from densenet_cli.cli.progress import counting

    if output is not None:
        from densenet_cli.output.gallery import Gallery, check_gallery

        # Check the first file before weights are downloaded.
        first = next(found, None)
        check_gallery(output, first.name if first else None, overwrite)
        found = chain([first] if first else [], found)
    classifier = make_classifier(**model)
    failed = 0
    with ExitStack() as stack:
        if as_json:
            from densenet_cli.output.records import StreamWriter

            put: Callable[[Explanation], None] = stack.enter_context(StreamWriter(sys.stdout.buffer, format_)).write
        else:
            from densenet_cli.cli.explanations import Explanations

            put = Explanations(show).show
        counter = stack.enter_context(counting("images", quietly=output is None and sys.stdout.isatty()))
        explainer = classifier.explainer(top_k or 1, classes or None)
        explained: Iterator[Explanation] = map(
            explainer, classifier.stream(found, explainer.outputs, preview=explainer.preview)
        )
        if output is not None:
            # Close the generator however the run ends, so that files that are being written are completed.
            saved = stack.enter_context(closing(Gallery(output, overwrite).save(explained, classifier.threads)))
            explained = (replace(explanation, drawing=path) for explanation, path in saved)
        for explanation in explained:
            put(explanation)
            if explanation.error:
                failed += 1
                warn_failed(explanation.source, explanation.error.type, explanation.error.message)
            counter.advance()
    return 1 if failed else 0
