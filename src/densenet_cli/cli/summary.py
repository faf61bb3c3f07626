"""``densenet summary``: the architecture in a table, by arithmetic alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from densenet_cli import variants
from densenet_cli.cli.console import common_options, stdout_console
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
"""Keras' names where they are too long for a table of 80 columns."""


LEAST_WIDTH = {"Layers": 78, "Kind": 76, "Mult-adds": 58, "Parameters": 45}
"""Columns of terminal from which on these are shown."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--variant",
    type=click.Choice(list(variants.VARIANTS)),
    default=variants.DEFAULT,
    show_default=True,
    help="The network.",
)
@click.option("--layers", "every_layer", is_flag=True, help="Show every layer instead of the stages.")
@click.option(
    "--input-size",
    type=click.IntRange(1, 16384),
    metavar="PIXELS",
    help="Side of the image to count for.  [default: the variant's own]",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How to print it.",
)
@common_options
def command(variant: str, every_layer: bool, input_size: int | None, format_: str) -> None:
    """Show a network: stages, output shapes, parameters and multiply-adds.

    Needs no weights, and counts as the paper does: multiply-adds are those of the convolutions and the dense
    layer for one image; parameters include the batch norms' moving statistics, as in Keras.

    \b
    Examples:
      densenet summary
      densenet summary --variant 201 --layers
      densenet summary --variant 161 --format json
    """
    chosen = variants.get(variant)
    size = input_size or chosen.config.input_size
    try:
        found = list_layers(chosen.config, size)
    except ValueError as error:
        raise click.BadParameter(f"{error}.", param_hint="'--input-size'") from None
    if format_ == "json":
        click.echo(json.dumps(_as_json(chosen, size, found), indent=2))
    else:
        _print_table(chosen, size, found, every_layer)


def stage(layer: Layer) -> str:
    """The paper's name of the part that a layer belongs to, told from the layer's name."""
    head, _, rest = layer.name.partition("_")
    if head in ("conv1", "pool1"):
        return "Stem"
    if rest.startswith("block"):
        return f"Dense block {int(head.removeprefix('conv')) - 1}"
    if head.startswith("pool"):
        return f"Transition {int(head.removeprefix('pool')) - 1}"
    return "Head"


def _stages(found: Sequence[Layer]) -> list[tuple[str, list[Layer]]]:
    stages: dict[str, list[Layer]] = {}
    for layer in found:
        stages.setdefault(stage(layer), []).append(layer)
    return list(stages.items())


def _total(found: Sequence[Layer]) -> dict[str, int]:
    return {
        "parameters": sum(layer.parameters for layer in found),
        "trainable": sum(layer.trainable_parameters for layer in found),
        "multiply_adds": sum(layer.multiply_adds for layer in found),
    }


def _as_json(variant: variants.Variant, size: int, found: Sequence[Layer]) -> dict[str, Any]:
    return {
        "model": variant.model,
        "config": variant.config.to_dict(),
        "input_shape": [size, size, 3],
        **_total(found),
        "stages": [
            {
                "name": name,
                "output_shape": list(members[-1].output_shape),
                **_total(members),
                "layers": [
                    {
                        "name": layer.name,
                        "kind": layer.class_name,
                        "output_shape": list(layer.output_shape),
                        **_total([layer]),
                        "arrays": {part: list(shape) for part, shape in layer.arrays.items()},
                    }
                    for layer in members
                ],
            }
            for name, members in _stages(found)
        ],
    }


def _print_table(variant: variants.Variant, size: int, found: Sequence[Layer], every_layer: bool) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    console = stdout_console()
    # What a narrow terminal has no room for goes column by column, the names last.
    headings = ["Layer", "Kind"] if every_layer else ["Stage", "Layers"]
    headings += ["Output", "Parameters", "Mult-adds"]
    kept = [heading for heading in headings if console.width >= LEAST_WIDTH.get(heading, 0)]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in kept:
        table.add_column(heading, justify="left" if heading in headings[:2] else "right", no_wrap=True)
    rows = [(layer.name, SHORT_KINDS.get(layer.class_name, layer.class_name), [layer]) for layer in found]
    if not every_layer:
        rows = [(name, _describe(members), members) for name, members in _stages(found)]
    for name, kind, members in rows:
        cells = dict(zip(headings, (name, kind, *_numbers(members[-1].output_shape, members)), strict=True))
        table.add_row(*(cells[heading] for heading in kept))
    totals = _total(found)
    console.print(f"DenseNet-{variant.name}, input {size} x {size} x 3, growth rate {variant.config.growth_rate}")
    console.print(table)
    console.print(
        f"{totals['parameters']:,} parameters, {totals['trainable']:,} of them trainable; "
        f"{totals['multiply_adds'] / 1e9:.3f} G multiply-adds an image",
        soft_wrap=True,
    )


def _numbers(output: tuple[int, ...], members: Sequence[Layer]) -> tuple[str, str, str]:
    totals = _total(members)
    multiply_adds = totals["multiply_adds"] / 1e6
    return (
        "x".join(str(length) for length in output),
        f"{totals['parameters']:,}" if totals["parameters"] else "",
        f"{multiply_adds:,.1f} M" if multiply_adds else "",
    )


def _describe(members: Sequence[Layer]) -> str:
    """What a stage consists of, as the paper's table says it."""
    blocks = sum(layer.class_name == "Concatenate" for layer in members)
    if blocks:
        return f"{blocks} x (1x1, 3x3 conv)"
    words = []
    for layer in members:
        if layer.class_name == "Conv2D":
            kernel = layer.arrays["kernel"][0]
            words.append(f"{kernel}x{kernel} conv")
        elif layer.class_name in POOLS:
            words.append(POOLS[layer.class_name])
        elif layer.class_name == "Dense":
            words.append("dense")
    return ", ".join(words)
