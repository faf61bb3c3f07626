"""``densenet export``: write a model for other tools."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from densenet_cli.cli.command import command, output_option
from densenet_cli.cli.console import echo_info, printable
from densenet_cli.cli.model_options import PREPROCESSING_OPTIONS, create_classifier, model_options
from densenet_cli.cli.path_types import OutputPath
from densenet_cli.export.exporter import EXPORT_FORMATS


@command(
    exit_statuses={
        0: "exported",
        4: "the file cannot be written, or differs from the model",
    }
)
@output_option(
    "-o",
    "--output",
    required=True,
    type=OutputPath(path_type=Path),
    metavar="PATH",
    help="File to write, or folder for saved-model.",
)
@output_option(
    "--format",
    "format_",
    type=click.Choice(list(EXPORT_FORMATS)),
    help="Output format.  [default: by the extension of PATH; saved-model without one]",
)
@output_option(
    "--with-preprocessing",
    is_flag=True,
    help="Include the normalization in the file, so that its input is uint8 RGB, channels last.",
)
@output_option("--overwrite", is_flag=True, help="Replace an existing file or SavedModel.")
@model_options(only=["variant", "weights", "labels", "uncalibrated", *PREPROCESSING_OPTIONS, "offline"])
def export(format_: str | None, output: Path, with_preprocessing: bool, overwrite: bool, **model: Any) -> None:
    """Export a model with its labels and preprocessing for other tools.

    The exported file is compared with the model on photographs. If any probability differs by more than 0.0001,
    the command fails and does not keep the file.

    \b
    Examples:
      densenet export -o densenet121.onnx
      densenet export --variant tiny --with-preprocessing -o tiny.tflite
      densenet export --weights model.safetensors --format saved-model -o served
      densenet export --variant 169 -o densenet169.safetensors
    """
    from densenet_cli.export import check_export
    from densenet_cli.export import export as export_model

    # Before weights are downloaded.
    name = check_export(output, format_, with_preprocessing=with_preprocessing, overwrite=overwrite)
    classifier = create_classifier(**model)
    if EXPORT_FORMATS[name].uses_tensorflow and sys.stderr.isatty():
        echo_info("Loading TensorFlow and exporting. This takes a while.")
    result = export_model(classifier, output, format_, with_preprocessing=with_preprocessing, overwrite=overwrite)
    if not result.has_labels:
        echo_info(f"{classifier.model} has no labels, so the file contains no class names. Add them with --labels.")
    difference = f"{result.max_difference:.1e}" if result.max_difference else "0"
    echo_info(
        f"Exported {printable(str(result.path))} ({result.format}, {result.size / 1e6:.1f} MB). "
        f"Largest difference from the model's probabilities on {result.images} photographs: {difference}"
    )
