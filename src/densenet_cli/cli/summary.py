"""``densenet summary``: the layers of a model in a table, computed from its configuration."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import click

from densenet_cli import variants
from densenet_cli.cli.command import command, format_option, option
from densenet_cli.cli.console import stdout_console
from densenet_cli.layers import Layer, list_layers

POOLS = {
    "MaxPooling2D": "max pool",
    "AveragePooling2D": "average pool",
    "GlobalAveragePooling2D": "global pool",
}

SHORT_KINDS = {
    "ZeroPadding2D": "ZeroPad",
    "BatchNormalization": "BatchNorm",
    "MaxPooling2D": "MaxPool",
    "AveragePooling2D": "AvgPool",
    "GlobalAveragePooling2D": "GlobalAvgPool",
}
"""Short forms of the layer classes whose names are too long for a table of 80 columns."""

MIN_WIDTHS = {"Layers": 78, "Kind": 76, "Mult-adds": 58, "Parameters": 45}
"""Columns of a terminal below which a column of the table is left out."""


@command(exit_statuses={0: "success", 2: "invalid usage"})
@option(
    "--variant",
    type=click.Choice(list(variants.VARIANTS)),
    metavar="NAME",
    default=variants.DEFAULT,
    show_default=True,
    help=f"DenseNet variant: {', '.join(variants.VARIANTS)}.",
)
@option("--layers", "every_layer", is_flag=True, help="Show every layer instead of the stages.")
@option(
    "--input-size",
    type=click.IntRange(1, 16384),
    metavar="PIXELS",
    help="Height and width of the input image.  [default: the variant's input size]",
)
@format_option
def summary(variant: str, every_layer: bool, input_size: int | None, format_: str) -> None:
    """Show a model's stages, output shapes, parameters, and multiply-adds.

    No weights are needed. As in the paper, multiply-adds are those of the convolutions and the dense layer for one
    image. As in Keras, parameters include the moving statistics of batch normalization.

    \b
    Examples:
      densenet summary
      densenet summary --variant 201 --layers
      densenet summary --variant 161 --format json
    """
    chosen = variants.get(variant)
    size = input_size or chosen.config.input_size
    all_layers = list_layers(chosen.config, size)
    if format_ == "json":
        click.echo(json.dumps(_to_json(chosen, size, all_layers), indent=2))
    else:
        _print_table(chosen, size, all_layers, every_layer)


def stage(layer: Layer) -> str:
    """Return the paper's name of the stage that a layer belongs to, derived from the layer's name."""
    prefix, _, rest = layer.name.partition("_")
    if prefix in ("conv1", "pool1"):
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


def _to_json(variant: variants.Variant, size: int, all_layers: Sequence[Layer]) -> dict[str, Any]:
    return {
        "model": variant.model,
        "config": variant.config.to_dict(),
        "input_shape": [size, size, 3],
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


def _print_table(variant: variants.Variant, size: int, all_layers: Sequence[Layer], every_layer: bool) -> None:
    from densenet_cli.cli.render import create_table, fixed_column, number_column

    console = stdout_console()
    text_columns = ["Layer", "Kind"] if every_layer else ["Stage", "Layers"]
    names = [*text_columns, "Output", "Parameters", "Mult-adds"]
    shown = [name for name in names if console.width >= MIN_WIDTHS.get(name, 0)]
    table = create_table(*(fixed_column(name) if name in text_columns else number_column(name) for name in shown))
    rows = [(layer.name, SHORT_KINDS.get(layer.class_name, layer.class_name), [layer]) for layer in all_layers]
    if not every_layer:
        rows = [(name, _describe(members), members) for name, members in _stages(all_layers)]
    for name, kind, members in rows:
        cells = dict(zip(names, (name, kind, *_numbers(members)), strict=True))
        table.add_row(*(cells[name] for name in shown))
    totals = _totals(all_layers)
    console.print(f"DenseNet-{variant.name}, input {size} x {size} x 3, growth rate {variant.config.growth_rate}")
    console.print()
    console.print(table)
    console.print()
    console.print(
        f"{totals['parameters']:,} parameters ({totals['trainable']:,} trainable), "
        f"{totals['multiply_adds'] / 1e9:.3f} G multiply-adds per image",
        soft_wrap=True,
    )


def _numbers(members: Sequence[Layer]) -> tuple[str, str, str]:
    totals = _totals(members)
    multiply_adds = totals["multiply_adds"] / 1e6
    return (
        "x".join(str(length) for length in members[-1].output_shape),
        f"{totals['parameters']:,}" if totals["parameters"] else "",
        f"{multiply_adds:,.1f} M" if multiply_adds else "",
    )


def _describe(members: Sequence[Layer]) -> str:
    """Describe the layers of a stage as the paper's table does."""
    blocks = sum(layer.class_name == "Concatenate" for layer in members)
    if blocks:
        return f"{blocks} x (1x1, 3x3 conv)"
    parts = []
    for layer in members:
        if layer.class_name == "Conv2D":
            kernel = layer.arrays["kernel"][0]
            parts.append(f"{kernel}x{kernel} conv")
        elif layer.class_name in POOLS:
            parts.append(POOLS[layer.class_name])
        elif layer.class_name == "Dense":
            parts.append("dense")
    counts = [(part, len(list(group))) for part, group in itertools.groupby(parts)]
    return ", ".join(part if count == 1 else f"{count} x {part}" for part, count in counts)
