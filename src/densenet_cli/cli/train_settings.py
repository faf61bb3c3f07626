"""The options of ``densenet train`` that set fields of ``Settings``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any, TypeVar

import click

from densenet_cli import variants
from densenet_cli.cli.command import FloatList, Option, option
from densenet_cli.training.settings import ARCHITECTURE, DEFAULT_EPOCHS, PREPROCESSING, Settings

F = TypeVar("F", bound=Callable[..., Any])

OPTION_NAMES = {"start": "--from"}
"""Options that are not called as their setting."""
GROUPS = (
    *("Initial weights", "New head only (--freeze all)", "Schedule", "Labels and loss", "Augmentation", "Validation"),
    *("Optimizer", "Network", "Preprocessing", "Performance"),
)
"""The groups of settings in the order of help."""


class IntList(click.ParamType):  # type: ignore[type-arg]  # generic only since Click 8.3.2
    """Comma-separated integers, such as ``6,12,24,16``."""

    name = "integers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """Return the integers. Raises ``click.BadParameter``."""
        try:
            return [int(part) for part in value.split(",")]
        except ValueError:
            self.fail(f"{value!r} is not a list of integers such as 6,12,24,16.", param, ctx)


class SettingOption(Option):
    """An option of which help shows only the form that differs from the default, such as ``--no-flip``."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Leave out the other form of a flag."""
        record = super().get_help_record(ctx)
        if record is None or not self.secondary_opts:
            return record
        return record[0].split(" / ")[self.show_negative], record[1]

    def __init__(self, *args: Any, show_negative: bool = False, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.show_negative = show_negative


def _setting_option(setting: Field[Any]) -> Callable[[F], F]:
    """Return the decorator that adds the option for a field of ``Settings``. Without the option, its value is None."""
    metadata = setting.metadata
    name = OPTION_NAMES.get(setting.name, f"--{setting.name.replace('_', '-')}")
    default = metadata.get("shown_default", setting.default)
    kind: Any = type(setting.default)
    show_negative = False
    if kind is bool:
        name = f"{name}/--no-{name.removeprefix('--')}"
        show_negative, default = default, ""
    elif setting.name in ("blocks", "randaugment"):
        kind = IntList()
    elif setting.name in ("mean", "std"):
        kind = FloatList()
    elif kind is tuple:
        kind = str
    has_default = setting.name not in (*ARCHITECTURE, *PREPROCESSING, "input_size", "start") and default not in ("", ())
    return option(
        name,
        setting.name,
        type=click.Choice(metadata["choices"]) if "choices" in metadata else kind,
        default=None,
        metavar=metadata.get("metavar"),
        group=metadata["group"],
        cls=SettingOption,
        show_negative=show_negative,
        help=metadata["help"] + f"  [default: {default}]" * has_default,
    )


def settings_options(function: F) -> F:
    """Add an option for each field of ``Settings``, as well as ``--variant`` and ``--epochs``, to a command."""
    settings = sorted(fields(Settings), key=lambda setting: GROUPS.index(setting.metadata["group"]))
    variant = option(
        "--variant",
        type=click.Choice(list(variants.VARIANTS)),
        metavar="NAME",
        group="Network",
        help=f"Defaults for the options of this group and --input-size: {', '.join(variants.VARIANTS)}.  "
        f"[default: {variants.DEFAULT}]",
    )
    epochs = option(
        "--epochs",
        type=click.IntRange(min=1),
        metavar="N",
        group="Schedule",
        help=f"Number of epochs, all at the input size.  [default: {DEFAULT_EPOCHS}]",
    )
    decorators = []
    for setting in settings:
        decorators += {"sizes": [epochs], "blocks": [variant]}.get(setting.name, [])
        decorators.append(_setting_option(setting))
    for decorator in reversed(decorators):
        function = decorator(function)
    return function
