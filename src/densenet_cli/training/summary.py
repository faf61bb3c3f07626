"""What a run trains: the network in a sentence, and which layers are frozen."""

from __future__ import annotations

from math import prod

from densenet_cli import variants
from densenet_cli.layers import array_shapes
from densenet_cli.text import plural
from densenet_cli.topology import DenseNetConfig
from densenet_cli.training.settings import ARCHITECTURE, Settings

LAST_STAGE = 1_000
"""Stage number of the layers after the last block, which are never frozen."""

HEAD = "predictions"


def stage_number(layer: str) -> int:
    """Return the number of a layer's stage. A transition belongs to the block before it."""
    number = layer.partition("_")[0].removeprefix("conv").removeprefix("pool")
    return int(number) if number.isdigit() else LAST_STAGE


def is_frozen(layer: str, stage: str) -> bool:
    """Return whether a layer is frozen if all up to and including ``stage`` are (``conv1`` to ``convN``, or ``""``)."""
    return bool(stage) and stage_number(layer) <= int(stage.removeprefix("conv"))


def describe_network(settings: Settings, classes: int) -> str:
    """Return the name of the network, its number of parameters, and which of them are trained."""
    config = settings.config(classes)
    shapes = array_shapes(config)
    total = sum(prod(shape) for arrays in shapes.values() for shape in arrays.values())
    if settings.is_head_only:
        layers, trained = "the head", {HEAD}
        after = ", then all layers except batch normalization" * settings.then_unfreeze
    else:
        trained = {layer for layer in shapes if not is_frozen(layer, settings.freeze)}
        layers = f"the layers after {settings.freeze}" if settings.freeze else "all layers"
        epochs = settings.unfreeze_after
        after = f", and after {plural(epochs, 'epoch')} all layers" * bool(settings.freeze and epochs)
    count = sum(
        prod(shape) for layer in trained for name, shape in shapes[layer].items() if not name.startswith("moving_")
    )
    return (
        f"Network: {_name(config)}, {settings.input_size} px, {total:,} parameters. "
        f"Training {layers} ({count:,} parameters){after}."
    )


def _name(config: DenseNetConfig) -> str:
    for variant in variants.VARIANTS.values():
        if all(getattr(config, name) == getattr(variant.config, name) for name in ARCHITECTURE):
            return f"DenseNet-{variant.name}"
    return f"DenseNet with blocks of {', '.join(map(str, config.blocks))} layers and growth rate {config.growth_rate}"
