"""``densenet summary``: the layers of a model in a table, and what its checkpoint states."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import click

from densenet_cli import variants
from densenet_cli.cli.command import EXIT_STATUSES, command, format_option, option
from densenet_cli.cli.console import printable, stdout_console
from densenet_cli.cli.model_options import model_options
from densenet_cli.errors import CheckpointError, UsageError
from densenet_cli.images.normalization import format_values
from densenet_cli.layers import Layer, list_layers

if TYPE_CHECKING:
    from rich.console import Console

    from densenet_cli.topology import DenseNetConfig
    from densenet_cli.weights.contents import ModelMetadata

NAMES = {
    "Resizing": "resize",
    "MaxPooling2D": "max pool",
    "AveragePooling2D": "average pool",
    "GlobalAveragePooling2D": "global pool",
    "GlobalMaxPooling2D": "global max pool",
    "Flatten": "flatten",
    "Dense": "dense",
}
"""Layer class -> the name in the description of a stage."""

SHORT_KINDS = {
    "ZeroPadding2D": "ZeroPad",
    "BatchNormalization": "BatchNorm",
    "MaxPooling2D": "MaxPool",
    "AveragePooling2D": "AvgPool",
    "GlobalAveragePooling2D": "GlobalAvgPool",
    "GlobalMaxPooling2D": "GlobalMaxPool",
}
"""Short forms of the layer classes whose names are too long for a table of 80 columns."""

MIN_WIDTHS = {"Layers": 78, "Kind": 76, "Mult-adds": 58, "Parameters": 45}
"""Columns of a terminal below which a column of the table is left out."""


@command(exit_statuses=EXIT_STATUSES)
@option(
    "--variant",
    type=click.Choice(list(variants.VARIANTS)),
    metavar="NAME",
    help=f"DenseNet variant: {', '.join(variants.VARIANTS)}.  [default: {variants.DEFAULT}, or that in --weights]",
)
@option(
    "--weights",
    metavar="PATH",
    help="Show the network in this checkpoint (a file, folder, or hf:// URL), and what the checkpoint states.",
)
@option("--layers", "every_layer", is_flag=True, help="Show every layer instead of the stages.")
@option(
    "--input-size",
    type=click.IntRange(1, 16384),
    metavar="PIXELS",
    help="Height and width of the input image.  [default: the model's input size]",
)
@format_option
@model_options(only=["activation", "offline"])
def summary(
    variant: str | None,
    weights: str | None,
    every_layer: bool,
    input_size: int | None,
    format_: str,
    activation: str | None,
    offline: bool,
) -> None:
    """Show a model's stages, output shapes, parameters, and multiply-adds.

    Without --weights, no weights are needed. As in the paper, multiply-adds are those of the convolutions and the dense
    layers for one image. As in Keras, parameters include the moving statistics of batch normalization.

    \b
    Examples:
      densenet summary
      densenet summary --variant 201 --layers
      densenet summary --variant 161 --format json
      densenet summary --weights finetuned.keras
    """
    if weights:
        model = _read_checkpoint(weights, variant, activation, offline)
    else:
        model = _Model.of(variants.check_activation(variants.get(variant or variants.DEFAULT), activation))
    size = input_size or model.input_size
    all_layers = list_layers(model.config, size)
    if format_ == "json":
        click.echo(json.dumps(_to_json(model, size, all_layers), indent=2))
    else:
        _print_table(model, size, all_layers, every_layer)


class _Model(NamedTuple):
    """A model without its weights.

    Attributes:
        name: The name in results.
        title: What to call the network in the heading.
        config: The configuration of the network.
        input_size: Side length of the input image in pixels.
        metadata: What the checkpoint states, or None for a variant.
    """

    name: str
    title: str
    config: DenseNetConfig
    input_size: int
    metadata: ModelMetadata | None = None

    @classmethod
    def of(cls, variant: variants.Variant) -> Self:
        return cls(variant.model, f"DenseNet-{variant.name}", variant.config, variant.config.input_size)


def _read_checkpoint(weights: str, variant: str | None, activation: str | None, offline: bool) -> _Model:
    from densenet_cli.cli.progress import ProgressBar
    from densenet_cli.weights import checkpoint, locations

    with ProgressBar("download") as progress:
        path = locations.find_checkpoint(weights, offline=offline, progress=progress.update_download)
    config = variants.get(variant).config if variant else None
    try:
        contents = checkpoint.read(path, config, activation)
    except UsageError:
        if activation:
            raise
        # The activation of a single output is not stated, and does not matter here.
        contents = checkpoint.read(path, config, "sigmoid")
    except CheckpointError:
        contents = checkpoint.read(path, config, activation, allow_unsupported_head=True)
    title = f"DenseNet-{contents.variant}" if contents.variant else "DenseNet"
    size = contents.metadata.input_size or contents.config.input_size
    name = locations.model_name(weights)
    return _Model(name, f"{printable(name)}: {title}", contents.config, size, contents.metadata)


def stage(layer: Layer) -> str:
    """Return the paper's name of the stage that a layer belongs to, derived from the layer's name."""
    prefix, _, rest = layer.name.partition("_")
    if prefix in ("resize", "conv1", "pool1"):
        return "Stem"
    if rest.startswith("block"):
        return f"Dense block {int(prefix.removeprefix('conv')) - 1}"
    if prefix.startswith("pool"):
        return f"Transition {int(prefix.removeprefix('pool')) - 1}"
    return "Head"


def _stages(all_layers: Sequence[Layer]) -> list[tuple[str, list[Layer]]]:
    stages: dict[str, list[Layer]] = {}
    for layer in all_layers:
        stages.setdefault(stage(layer), []).append(layer)
    return list(stages.items())


def _totals(members: Sequence[Layer]) -> dict[str, int]:
    return {
        "parameters": sum(layer.parameters for layer in members),
        "trainable": sum(layer.trainable_parameters for layer in members),
        "multiply_adds": sum(layer.multiply_adds for layer in members),
    }


def _to_json(model: _Model, size: int, all_layers: Sequence[Layer]) -> dict[str, Any]:
    return {
        "model": model.name,
        "config": model.config.to_dict(),
        "input_shape": [size, size, model.config.channels],
        **({} if model.metadata is None else {"stated": _stated(model.metadata), "notes": list(model.metadata.notes)}),
        **_totals(all_layers),
        "stages": [
            {
                "name": name,
                "output_shape": list(members[-1].output_shape),
                **_totals(members),
                "layers": [
                    {
                        "name": layer.name,
                        "kind": layer.class_name,
                        "output_shape": list(layer.output_shape),
                        **_totals([layer]),
                        "arrays": {part: list(shape) for part, shape in layer.arrays.items()},
                    }
                    for layer in members
                ],
            }
            for name, members in _stages(all_layers)
        ],
    }


def _stated(metadata: ModelMetadata) -> dict[str, Any]:
    """Return what a checkpoint states about the use of its network, as values for JSON."""
    names = ("activation", "input_size", "mean", "std", "interpolation", "crop_ratio", "preprocess")
    values = {name: getattr(metadata, name) for name in names}
    stated = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    fields = ("images", "date", "accuracy", "temperature")
    calibration = metadata.calibration and {name: metadata.calibration[name] for name in fields}
    labels = metadata.labels and [label.name for label in metadata.labels]
    return {**stated, "labels": labels, "calibration": calibration}


def _print_stated(console: Console, metadata: ModelMetadata) -> None:
    stated = _stated(metadata)
    labels, calibration = stated.pop("labels"), stated.pop("calibration")
    names = {"preprocess": "preprocessing mode"}
    parts = [
        f"{names.get(name, name.replace('_', ' '))} {_format(value)}"
        for name, value in stated.items()
        if value is not None
    ]
    if labels:
        parts.append(f"{len(labels):,} labels")
    console.print()
    console.print(f"The checkpoint states: {', '.join(parts) or 'only the weights'}.", soft_wrap=True)
    if calibration:
        temperature = calibration["temperature"]
        detail = f"temperature {temperature:.4g}" if isinstance(temperature, float) else "a temperature per class"
        images = f"{calibration['images']:,} images on {printable(calibration['date'])}"
        console.print(f"It is calibrated with {images}: {detail}.", soft_wrap=True, markup=False)
    for note in metadata.notes:
        console.print(printable(note), soft_wrap=True, markup=False)


def _format(value: Any) -> str:
    return format_values(value) if isinstance(value, list) else str(value)


def _print_table(model: _Model, size: int, all_layers: Sequence[Layer], every_layer: bool) -> None:
    from densenet_cli.cli.render import create_table, fixed_column, number_column, text_column

    console = stdout_console()
    text_columns = ["Layer", "Kind"] if every_layer else ["Stage", "Layers"]
    names = [*text_columns, "Output", "Parameters", "Mult-adds"]
    shown = [name for name in names if console.width >= MIN_WIDTHS.get(name, 0)]
    kinds = {"Layer": fixed_column, "Kind": fixed_column, "Stage": fixed_column, "Layers": text_column}
    table = create_table(*(kinds.get(name, number_column)(name) for name in shown))
    rows = [(layer.name, SHORT_KINDS.get(layer.class_name, layer.class_name), [layer]) for layer in all_layers]
    if not every_layer:
        rows = [(name, _describe(members, model.config), members) for name, members in _stages(all_layers)]
    for name, kind, members in rows:
        cells = dict(zip(names, (name, kind, *_numbers(members)), strict=True))
        table.add_row(*(cells[name] for name in shown))
    totals = _totals(all_layers)
    config = model.config
    console.print(
        f"{model.title}, input {size} x {size} x {config.channels}, growth rate {config.growth_rate}", markup=False
    )
    console.print()
    console.print(table)
    console.print()
    console.print(
        f"{totals['parameters']:,} parameters ({totals['trainable']:,} trainable), "
        f"{totals['multiply_adds'] / 1e9:.3f} G multiply-adds per image",
        soft_wrap=True,
    )
    if model.metadata is not None:
        _print_stated(console, model.metadata)


def _numbers(members: Sequence[Layer]) -> tuple[str, str, str]:
    totals = _totals(members)
    multiply_adds = totals["multiply_adds"] / 1e6
    return (
        "x".join(str(length) for length in members[-1].output_shape),
        f"{totals['parameters']:,}" if totals["parameters"] else "",
        f"{multiply_adds:,.1f} M" if multiply_adds else "",
    )


def _describe(members: Sequence[Layer], config: DenseNetConfig) -> str:
    """Describe the layers of a stage as the paper's table does."""
    blocks = sum(layer.class_name == "Concatenate" for layer in members)
    if blocks:
        return f"{blocks} x (1x1, 3x3 conv)"
    parts = []
    for layer in members:
        if layer.class_name == "Conv2D":
            kernel = layer.arrays["kernel"][0]
            parts.append(f"{kernel}x{kernel} conv")
        elif layer.name.startswith("pool1_blur"):
            parts.extend(["blur pool"] if layer.name == "pool1_blur_2" else [])
        elif layer.name.startswith("head_"):
            parts.append(config.head_layers[layer.name].kind.replace("_", " "))
        elif layer.class_name in NAMES:
            parts.append(NAMES[layer.class_name])
        elif layer.name == "sigmoid":
            parts.append(layer.name)
    counts = [(part, len(list(group))) for part, group in itertools.groupby(parts)]
    return ", ".join(part if count == 1 else f"{count} x {part}" for part, count in counts) or "batch norm (no head)"
