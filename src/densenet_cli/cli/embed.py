"""``densenet embed``: images in, one vector each out."""

from __future__ import annotations

from typing import Any

import click

from densenet_cli.cli.console import common_options, printable, say, warn_failed
from densenet_cli.cli.options import (
    LABELS_OPTION,
    images_of,
    make_classifier,
    model_options_but,
    model_settings,
    say_recorded,
    source_options,
)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False),
    required=True,
    metavar="FILE",
    help="Write there: .npz, .npy or .parquet. FILE.sources.jsonl beside it lists the sources, "
    "FILE.meta.json the settings.",
)
@model_options_but(LABELS_OPTION)
@source_options
@click.option("--overwrite", is_flag=True, help="Replace an existing output file.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted output file, or add to a whole one.")
@click.option("--retry-errors", is_flag=True, help="With --resume: do the failed ones again.")
@common_options
def command(
    source: tuple[str, ...],
    files_from: str | None,
    null: bool,
    output: str,
    overwrite: bool,
    resume: bool,
    retry_errors: bool,
    **model: Any,
) -> int:
    """Turn images into vectors, for search, clustering and near-duplicates.

    An image's vector is the network's last features, averaged: what its head would classify by. SOURCE is an
    image, a folder (searched recursively), a glob, an http(s) URL, or - for one image on standard input.
    An image that fails is listed with its reason and has no vector.

    \b
    Exit status: 0 all done, 1 some image failed, 2 wrong usage, 3 no weights
    or unfit ones, 4 output can't be written, 130 interrupted.

    \b
    Examples:
      densenet embed photos/ -o features.npz
      densenet embed photos/ -o features.npz --resume
      densenet embed photos/ 'more/*.png' -o features.parquet --variant 201
    """
    found = images_of(source, files_from, null)
    from densenet_cli.cli.progress import counting
    from densenet_cli.output.embedding import EmbeddingFile, width_of

    # What can be wrong with the output is found before weights are fetched.
    file = EmbeddingFile(output, resume=resume, overwrite=overwrite, retry_errors=retry_errors)
    classifier = make_classifier(**model)
    width = width_of(classifier.config)
    try:
        with file.open(model_settings(classifier, model["engine"]), width) as vectors:
            say_recorded(vectors.recorded)
            with counting("images") as counter:
                for result in classifier.stream(vectors.pending(found), ("features",)):
                    embedding = classifier.embedding(result)
                    vectors.write(embedding)
                    if embedding.error:
                        warn_failed(embedding.source, embedding.error.type, embedding.error.message)
                    counter.advance()
    except KeyboardInterrupt:
        if file.parts.exists():
            say(f"What is finished is kept in {printable(str(file.parts))}; --resume goes on behind it.")
        raise
    say(f"{_count(vectors.rows, 'vector')} of {width:,} numbers in {printable(output)}.")
    if vectors.failed:
        say(f"{_count(vectors.failed, 'source')} failed; the reasons are in {printable(str(file.listing))}.")
    return 1 if vectors.failed else 0


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
