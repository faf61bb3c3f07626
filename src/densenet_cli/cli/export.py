"""``densenet export``: write a model for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from densenet_cli.cli.console import common_options, printable, say, show_progress
from densenet_cli.cli.options import make_classifier, which_model_options
from densenet_cli.export.formats import EXPORT_FORMATS


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@which_model_options
@click.option(
    "--format",
    "format_",
    type=click.Choice(list(EXPORT_FORMATS)),
    help="Output format.  [default: by the suffix of PATH; saved-model without a suffix]",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="File to write, or folder for saved-model.",
)
@click.option(
    "--with-preprocessing",
    is_flag=True,
    help="Include the normalization in the file, so that its input is uint8 RGB, channels last.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing file or SavedModel.")
@common_options
def command(format_: str | None, output: Path, with_preprocessing: bool, overwrite: bool, **model: Any) -> None:
    """Export a model with its labels and preprocessing to a format of other tools.

    The exported file is compared with the model on photographs. If any probability differs by more than 0.0001,
    the command fails and does not keep the file.

    \b
    Exit status: 0 exported, 2 wrong usage, 3 weights unavailable or invalid,
    4 file not writable or different from the model, 130 interrupted.

    \b
    Examples:
      densenet export -o densenet121.onnx
      densenet export --variant tiny --with-preprocessing -o tiny.tflite
      densenet export --weights model.safetensors --format saved-model -o served
      densenet export --variant 169 -o densenet169.safetensors
    """
    from densenet_cli.export import check_export, export

    # Before weights are downloaded.
    name = check_export(output, format_, with_preprocessing=with_preprocessing, overwrite=overwrite)
    classifier = make_classifier(**model)
    if show_progress() and EXPORT_FORMATS[name].uses_tensorflow:
        say("Loading TensorFlow and exporting. This takes a while.")
    result = export(classifier, output, format_, with_preprocessing=with_preprocessing, overwrite=overwrite)
    if not result.has_labels:
        say(f"The file has no class names because {classifier.model} has no labels. Use --labels FILE to add them.")
    difference = f"{result.max_difference:.1e}" if result.max_difference else "0"
    click.echo(
        f"Exported {printable(str(result.path))} ({result.format}, {result.size / 1e6:.1f} MB). "
        f"Largest difference from the model's probabilities on {result.images} photographs: {difference}"
    )
