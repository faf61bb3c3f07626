"""``densenet export``: a model as a file that other tools run, checked beside the original."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from densenet_cli.cli.console import common_options, printable, say, show_progress
from densenet_cli.cli.options import make_classifier, which_model_options
from densenet_cli.export.formats import FORMATS


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@which_model_options
@click.option(
    "--format",
    "format_",
    type=click.Choice(list(FORMATS)),
    help="What to write.  [default: what the suffix of PATH says; without one, saved-model]",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The file to write; for saved-model the folder.",
)
@click.option(
    "--with-preprocessing",
    is_flag=True,
    help="Bake the normalization in: the input is uint8 RGB then, channels last.",
)
@click.option("--overwrite", is_flag=True, help="Replace what is at PATH.")
@common_options
def command(format_: str | None, output: Path, with_preprocessing: bool, overwrite: bool, **model: Any) -> None:
    """Write a model for other tools, its labels and preprocessing with it.

    The file is run beside the model on photographs before it gets its name. Where a probability differs by
    more than 0.0001, the command fails and leaves no file.

    \b
    Exit status: 0 written, 2 wrong usage, 3 no weights or unfit ones,
    4 the file can't be written or answers differently, 130 interrupted.

    \b
    Examples:
      densenet export -o densenet121.onnx
      densenet export --variant tiny --with-preprocessing -o tiny.tflite
      densenet export --weights model.safetensors --format saved-model -o served
      densenet export --variant 169 -o densenet169.safetensors
    """
    from densenet_cli.export import Plan

    plan = Plan(output, format_, with_preprocessing, overwrite)
    name = plan.check()  # before weights are fetched
    classifier = make_classifier(**model)
    if show_progress() and "tensorflow" in FORMATS[name].needs:
        say("TensorFlow writes this format; that takes a while.")
    written = plan.carry_out(classifier)
    if not written.has_labels:
        say(f"{classifier.model} has no labels, so the file names no classes; --labels FILE gives it some.")
    difference = f"{written.difference:.1e}" if written.difference else "0"
    click.echo(
        f"{printable(str(written.path))}: {written.format}, {written.size / 1e6:.1f} MB; "
        f"largest difference of a probability from the model's, on {written.images} photographs: {difference}"
    )
