"""Recipes: settings in a TOML file, and combining them with other sources of settings."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from densenet_cli import variants
from densenet_cli.errors import UsageError
from densenet_cli.images.normalization import format_values
from densenet_cli.images.preprocessing import DEFAULT_CROP_RATIO
from densenet_cli.model_preprocessing import check_range, is_same
from densenet_cli.output.atomic import write_file
from densenet_cli.paths import is_hub_url
from densenet_cli.text import to_unicode
from densenet_cli.textfiles import read_text
from densenet_cli.topology import DenseNetConfig
from densenet_cli.training.phases import Phase, format_sizes, parse_sizes
from densenet_cli.training.settings import (
    ARCHITECTURE,
    BACKBONE_RATE,
    FREEZE_ALL,
    FROM_SCRATCH,
    HEAD_ONLY_RATE,
    PREPROCESSING,
    Settings,
)


def read(path: Path) -> dict[str, Any]:
    """Return the values in a TOML file without checking them. Raises ``UsageError``."""
    try:
        return tomllib.loads(read_text(path))
    except ValueError as error:
        raise UsageError(f"The recipe {path} is not valid TOML: {error}.") from None


def write(path: Path, settings: Settings) -> None:
    """Write settings to a file that ``read`` reads. Raises ``OutputError``."""
    # JSON strings, numbers, booleans, and lists are also valid TOML.
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in settings.to_dict().items()]
    write_file(path, "".join(lines).encode())


def resolve(recipe: dict[str, Any], options: dict[str, Any], offline: bool = False) -> Settings:
    """Return the settings for a new run.

    Either argument may also contain ``variant``, which sets the network, and ``epochs``, which replaces ``sizes`` by
    one phase at the input size. If the run starts from a checkpoint, the checkpoint sets the network, and, as far as it
    states them, the settings in ``PREPROCESSING``. It sets the defaults of ``input_size`` and ``preprocess``.

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
    if values.get("freeze") == FREEZE_ALL:
        values.setdefault("start", variant or variants.DEFAULT)
        values.setdefault("learning_rate", HEAD_ONLY_RATE)
    if values.get("multi_label"):
        values.setdefault("label_smoothing", 0.0)  # it would shift the probabilities of rare classes
    start = values.get("start", FROM_SCRATCH)
    stated: dict[str, Any] = {}
    if start != FROM_SCRATCH:
        values.setdefault("backbone_rate", BACKBONE_RATE)
        config, stated = _read_start(start, offline, values.get("input_size"))
        defaults = _network_settings(config)
        for name in ARCHITECTURE:
            if values.get(name, defaults[name]) != defaults[name]:
                hint = "" if variant is None else " Omit `variant` to use the network of the weights."
                raise UsageError(f"`{name}` cannot be {values[name]}: {start} has {defaults[name]}.{hint}")
        if values.get("preprocess", stated.get("preprocess", "crop")) != "crop":
            stated.pop("crop_ratio", None)
        values = {**defaults, **stated, **values}
    settings = _with_sizes(values)
    for name in PREPROCESSING:
        value = getattr(settings, name)
        if name in stated:
            pair = [item or DEFAULT_CROP_RATIO for item in (value, stated[name])]  # a crop ratio of 0 is the default
            if not is_same(*pair):
                shown = [format_values(item) if isinstance(item, tuple) else item for item in pair]
                raise UsageError(f"`{name}` is {shown[0]}, but {start} states {shown[1]}. Omit `{name}`.")
        elif name in values and name in ("mean", "std"):
            check_range(name, value)
    return settings


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


def _read_start(start: str, offline: bool, input_size: int | None) -> tuple[DenseNetConfig, dict[str, Any]]:
    """Return the configuration of a variant or another checkpoint, and the settings of the preprocessing it states.

    A checkpoint can state another crop ratio for a certain ``input_size``.
    Keras' variants are not read here. They have the default preprocessing.
    """
    if to_unicode(start) != start:
        raise UsageError(f"The name of {to_unicode(start)} is not UTF-8, so the model cannot record it. Rename it.")
    variant = variants.VARIANTS.get(start)
    if variant and not variant.repository and not variant.packaged:
        return variant.config, {}
    if not variant and not is_hub_url(start) and not Path(start).exists():
        raise UsageError(
            f"`start` must be a variant, a checkpoint, or an hf:// URL, not {start}. The variants are "
            f"{', '.join(variants.VARIANTS)}."
        )
    from densenet_cli.training import initial_weights

    checkpoint = initial_weights.read_backbone(start, variant.config if variant else None, offline)
    metadata = checkpoint.metadata
    names = PREPROCESSING if metadata.preprocess != "keras" else ("mean", "std")  # its resizing is that of the mode
    statements = {name: getattr(metadata, name) for name in ("preprocess", "input_size", *names)}
    if metadata.preprocess == "crop" and metadata.crop_ratio is None:
        statements["crop_ratio"] = Settings.crop_ratio
    if metadata.test_crop_ratio is not None and input_size == metadata.test_input_size:
        statements["crop_ratio"] = metadata.test_crop_ratio
    return checkpoint.config, {name: value for name, value in statements.items() if value is not None}


def _network_settings(config: DenseNetConfig) -> dict[str, Any]:
    values = config.to_dict()
    return {name: values[name] for name in (*ARCHITECTURE, "input_size")}
