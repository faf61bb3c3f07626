"""What a setting is described with: its range, and the metadata of its field; and checks of values."""

from __future__ import annotations

from dataclasses import field, fields
from typing import Any, NamedTuple

from densenet_cli.errors import UsageError

MAX_MAGNITUDE = 30
"""The largest magnitude of RandAugment."""


class Range(NamedTuple):
    """The allowed values of a number, by default including the minimum and excluding the maximum."""

    min: float
    max: float
    min_open: bool = False
    max_open: bool = True

    def contains(self, value: float) -> bool:
        """Return whether ``value`` is in the range. NaN never is."""
        above = value > self.min if self.min_open else value >= self.min
        return above and (value < self.max if self.max_open else value <= self.max)

    def __str__(self) -> str:
        low = f"{'greater than' if self.min_open else 'at least'} {self.min:,.10g}"
        return f"{low} and {'less than' if self.max_open else 'at most'} {self.max:,.10g}"


def setting(default: Any, help: str, group: str, **metadata: Any) -> Any:
    """Return a field of ``Settings``. See there for the metadata."""
    return field(default=default, metadata={"help": help, "group": group, **metadata})


_TYPE_NAMES = {list: "a list of integers", str: "a string", bool: "true or false", int: "an integer", float: "a number"}


def check_type(name: str, value: Any, expected: type) -> None:
    """Check the type of a value from JSON, TOML, or the command line. Raises ``UsageError``.

    ``list`` stands for a list of integers, and ``tuple`` for a list of numbers.
    """
    if expected is list:
        is_valid = isinstance(value, list) and all(type(item) is int for item in value)
    elif expected is tuple:
        is_valid = isinstance(value, list | tuple) and all(type(item) in (int, float) for item in value)
    else:
        is_valid = type(value) is expected or (expected is float and type(value) is int)
    if not is_valid:
        raise UsageError(f"The setting {name} must be {_TYPE_NAMES.get(expected, 'a list of numbers')}, not {value!r}.")


def check_values(settings: Any) -> None:
    """Check the fields of a dataclass that have choices or a range. Raises ``UsageError``."""
    for described in fields(settings):
        value = getattr(settings, described.name)
        choices, allowed = described.metadata.get("choices"), described.metadata.get("range")
        if choices and value not in choices:
            raise UsageError(f"`{described.name}` must be one of {', '.join(choices)}, not {value!r}.")
        if allowed and not allowed.contains(value):
            raise UsageError(f"`{described.name}` must be {allowed}, not {value}.")


def check_randaugment(values: tuple[int, ...]) -> None:
    """Check that there are no values, or a number of operations and a magnitude. Raises ``UsageError``."""
    if values and not (len(values) == 2 and values[0] >= 1 and 0 <= values[1] <= MAX_MAGNITUDE):
        raise UsageError(
            f"`randaugment` must be a number of operations and a magnitude from 0 to {MAX_MAGNITUDE}, such as 2,9."
        )
