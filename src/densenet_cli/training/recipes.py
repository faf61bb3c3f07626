"""Recipes: settings in a TOML file, and combining them with other sources of settings."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from densenet_cli import variants
from densenet_cli.errors import UsageError
from densenet_cli.paths import is_hub_url
from densenet_cli.text import to_unicode
from densenet_cli.textfiles import read_text
from densenet_cli.topology import DenseNetConfig
from densenet_cli.training.settings import ARCHITECTURE, FROM_SCRATCH, Phase, Settings, format_sizes, parse_sizes


def read(path: Path) -> dict[str, Any]:
    """Return the values in a TOML file without checking them. Raises ``UsageError``."""
    try:
        return tomllib.loads(read_text(path))
    except ValueError as error:
        raise UsageError(f"The recipe {path} is not valid TOML: {error}.") from None


def write(path: Path, settings: Settings) -> None:
    """Write settings to a file that ``read`` reads. Raises ``OSError``."""
    # JSON strings, numbers, booleans, and lists are also valid TOML.
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in settings.to_dict().items()]
    path.write_text("".join(lines), "utf-8")


def resolve(recipe: dict[str, Any], options: dict[str, Any], offline: bool = False) -> Settings:
    """Return the settings for a new run.

    Either argument may also contain ``variant``, which sets the network, and ``epochs``, which replaces ``sizes`` by
    one phase at the input size. If the run starts from a checkpoint, the checkpoint sets the network.

    Args:
        recipe: Values of a recipe.
        options: Values that take precedence over the recipe.
        offline: Do not download the checkpoint.

    Raises:
        UsageError: A value is not allowed or contradicts the checkpoint.
        WeightsError: The checkpoint cannot be used.
    """
    values = _merge(recipe, options)
    variant = values.pop("variant", None)
    if variant is not None:
        values = {**_network_settings(variants.get(variant).config), **values}
    start = values.get("start", FROM_SCRATCH)
    if start != FROM_SCRATCH:
        defaults = _network_settings(_start_config(start, offline))
        for name in ARCHITECTURE:
            if values.get(name, defaults[name]) != defaults[name]:
                hint = "" if variant is None else " Omit `variant` to use the network of the weights."
                raise UsageError(f"`{name}` cannot be {values[name]}: {start} has {defaults[name]}.{hint}")
        values = {**defaults, **values}
    return _with_sizes(values)


def resolve_resumed(saved: dict[str, Any], recipe: dict[str, Any], options: dict[str, Any]) -> Settings:
    """Return the settings for a resumed run: ``saved``, overridden by ``recipe`` and ``options`` as in ``resolve``.

    Unlike there, ``epochs`` is the new number of epochs in total: the last phases are cut, or the last one is extended.

    Raises:
        UsageError: A value is not allowed, or ``variant`` is not the network of the run.
    """
    given = _merge(recipe, options)
    variant, epochs = given.pop("variant", None), given.pop("epochs", None)
    if variant is not None:
        network = {**_network_settings(variants.get(variant).config), **given}
        if any(network[name] != saved[name] for name in ARCHITECTURE):
            raise UsageError(f"`variant` cannot be {variant}: the run has another network.")
    values = {**saved, **given}
    if epochs is not None:
        values["sizes"] = format_sizes(_change_epochs(parse_sizes(values["sizes"]), epochs))
    return Settings.from_dict(values)


def _change_epochs(phases: tuple[Phase, ...], epochs: int) -> tuple[Phase, ...]:
    changed = []
    for phase in phases:
        count = epochs if phase is phases[-1] else min(phase.epochs, epochs)
        if count > 0:
            changed.append(Phase(phase.size, count))
        epochs -= count
    return tuple(changed)


def _merge(recipe: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    for values in (recipe, options):
        if "epochs" in values and "sizes" in values:
            raise UsageError("Use either `epochs` (at the input size) or `sizes`.")
    if "epochs" in options:
        recipe = {name: value for name, value in recipe.items() if name != "sizes"}
    elif "sizes" in options:
        recipe = {name: value for name, value in recipe.items() if name != "epochs"}
    return {**recipe, **options}


def _with_sizes(values: dict[str, Any]) -> Settings:
    epochs = values.pop("epochs", None)
    if epochs is not None:
        values["sizes"] = f"{values.get('input_size', Settings.input_size)}x{epochs}"
    return Settings.from_dict(values)


def _start_config(start: str, offline: bool) -> DenseNetConfig:
    """Return the configuration of a variant, or of another checkpoint."""
    if to_unicode(start) != start:
        raise UsageError(f"The name of {to_unicode(start)} is not UTF-8, so the model cannot record it. Rename it.")
    if start in variants.VARIANTS:
        return variants.VARIANTS[start].config
    if not is_hub_url(start) and not Path(start).exists():
        raise UsageError(
            f"`start` must be a variant, a checkpoint, or an hf:// URL, not {start}. The variants are "
            f"{', '.join(variants.VARIANTS)}."
        )
    from densenet_cli.weights import checkpoint, locations

    return checkpoint.read_backbone(locations.find_checkpoint(start, offline=offline)).config


def _network_settings(config: DenseNetConfig) -> dict[str, Any]:
    values = config.to_dict()
    return {name: values[name] for name in (*ARCHITECTURE, "input_size")}
