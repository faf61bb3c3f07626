"""``densenet calibrate``: calibrate a model's probabilities on labeled images."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from densenet_cli.cli.command import command, output_option
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
from densenet_cli.text import to_unicode


@command()
@click.argument("folder", required=False, metavar="[FOLDER]", type=click.Path())
@table_options
@suffix_option
@output_option(
    "-o",
    "--output",
    required=True,
    type=OutputPath(can_replace="weights", dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the calibrated model to FILE (.safetensors).",
)
@output_option(
    "--format",
    "format_",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="Format of standard output.",
)
@output_option("--overwrite", is_flag=True, help="Replace an existing file.")
@model_options(without=["uncalibrated", "ten_crop"])
def calibrate(
    folder: str | None,
    csv: str | None,
    path_column: str | None,
    label_column: str | None,
    suffix: tuple[str, ...],
    output: Path,
    format_: str,
    overwrite: bool,
    **model: Any,
) -> int:
    """Calibrate a model's probabilities on labeled images.

    FOLDER contains one folder per class, as for densenet evaluate. Use images that are like those to be classified and
    were not used for training: at least 100, better 1,000 or more. The output is the same model with a temperature,
    which all commands apply, and with the data that predict --coverage and --max-error need.

    \b
    Examples:
      densenet calibrate val/ --weights model.keras -o calibrated.safetensors
      densenet calibrate --csv val.csv --variant 121 -o calibrated.safetensors
      densenet predict photos/ --weights calibrated.safetensors --coverage 0.95
      densenet predict photos/ --weights calibrated.safetensors --max-error 0.05
    """
    if folder is None and csv is None:
        raise click.UsageError("No images given. Pass a folder that contains class folders, or use --csv.")
    from densenet_cli.cli.progress import ProgressBar
    from densenet_cli.datasets import open_dataset
    from densenet_cli.output.checks import check_output_file, format_from_suffix

    # Check the output and the images before weights are downloaded. Only a checkpoint can be a multi-label model.
    format_from_suffix(output, {"safetensors": ".safetensors"})
    check_output_file(output, overwrite)
    check_access([folder, csv], model["offline"])
    options = dataset_options(suffix, path_column, label_column, csv is not None, csv is None, model["offline"])
    images = open_dataset(folder, csv, options) if model["weights"] is None else None
    classifier = create_classifier(**model, uncalibrated=True)
    from densenet_cli.cli.labeled_images import open_labeled_images
    from densenet_cli.evaluation.calibrate import LogitCollector, serialize_calibrated
    from densenet_cli.output.atomic import write_file

    dataset, sources, _ = open_labeled_images(classifier, images, folder, csv, options)
    collector = LogitCollector(classifier)
    with NoteCounter() as notes, ProgressBar("count") as progress:
        for result in classifier.stream(select_pages(sources, model["pages"], model["offline"]), collector.outputs):
            collector.add(result)
            notes.add(result.notes)
            if result.error:
                echo_image_error(*collector.failures[-1])
            progress.advance("images")
    for warning in dataset.warnings():
        echo_info(warning)
    report = collector.report()
    write_file(output, serialize_calibrated(classifier, report.calibration))
    if format_ == "json":
        values = {"output": to_unicode(str(output)), **report.to_dict()}
        sys.stdout.write(json.dumps(values, indent=2, allow_nan=False) + "\n")
    else:
        from densenet_cli.cli.calibration_tables import print_calibration

        print_calibration(report, classifier.labels, output)
    return 1 if report.failures else 0
