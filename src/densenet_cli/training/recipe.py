"""Recipes: settings in a TOML file, and the settings that several places say together."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from densenet_cli import variants
from densenet_cli.errors import UsageError
from densenet_cli.topology import DenseNetConfig
from densenet_cli.training.settings import NETWORK, SCRATCH, Settings


def read(path: Path) -> dict[str, Any]:
    """The settings in a TOML file, not yet checked. Raises ``UsageError``."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"The recipe {path} can't be read: {error.strerror}.") from None
    except ValueError as error:
        raise UsageError(f"The recipe {path} is no TOML: {error}.") from None


def write(path: Path, settings: Settings) -> None:
    """Leave ``settings`` as a file that ``read`` reads. Raises ``OSError``."""
    # JSON's strings, numbers, booleans and lists are TOML's as well.
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in settings.to_dict().items()]
    path.write_text("".join(lines), "utf-8")


def settings(recipe: dict[str, Any], options: dict[str, Any]) -> Settings:
    """What a recipe and a command's options say, the options first.

    Either may also hold ``variant`` (its network is the default) and ``epochs`` (at one size, in place of ``sizes``).
    The network of the checkpoint to start from, where there is one, is the default too, and what differs is refused.
    Raises ``UsageError``, or ``WeightsError`` for a checkpoint that can't be used.
    """
    said = _merged(recipe, options)
    start = said.get("start", SCRATCH)
    if start != SCRATCH:
        given = _network(start_config(start))
        for name in NETWORK[:-1]:
            if said.get(name, given[name]) != given[name]:
                raise UsageError(f"{start} has {name} = {given[name]}, which can't become {said[name]}.")
        said = {**given, **said}
    return _with_sizes(said)


def resumed(begun: dict[str, Any], recipe: dict[str, Any], options: dict[str, Any]) -> Settings:
    """What the settings of a run that has begun become by what is said when it is resumed. Raises ``UsageError``."""
    said = _merged(recipe, options)
    return _with_sizes({**begun, **said})


def _merged(recipe: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    for said in (recipe, options):
        if "epochs" in said and "sizes" in said:
            raise UsageError("Give either epochs, all at the input size, or sizes, not both.")
    if "epochs" in options:
        recipe = {name: value for name, value in recipe.items() if name != "sizes"}
    elif "sizes" in options:
        recipe = {name: value for name, value in recipe.items() if name != "epochs"}
    said = {**recipe, **options}
    variant = said.pop("variant", None)
    return {**_network(variants.get(variant).config), **said} if variant is not None else said


def _with_sizes(said: dict[str, Any]) -> Settings:
    epochs = said.pop("epochs", None)
    if epochs is not None:
        said["sizes"] = f"{said.get('input_size', Settings.input_size)}x{epochs}"
    return Settings.from_dict(said)


def start_config(start: str) -> DenseNetConfig:
    """The network of a variant, or of the checkpoint in a file. Raises ``UsageError`` or ``WeightsError``."""
    if start in variants.VARIANTS:
        return variants.VARIANTS[start].config
    if not Path(start).exists():
        raise UsageError(
            f"--from takes a variant ({', '.join(variants.VARIANTS)}) or a checkpoint, and {start} is neither."
        )
    from densenet_cli.weights import checkpoint

    return checkpoint.read(start).config


def _network(config: DenseNetConfig) -> dict[str, Any]:
    values = config.to_dict()
    return {name: values[name] for name in NETWORK}
