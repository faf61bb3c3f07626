"""What is said where published weights can't be had: what was tried, why it failed, and the ways on."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path

from densenet_cli.errors import WeightsUnavailableError
from densenet_cli.variants import Variant


def unpublished(variant: Variant) -> WeightsUnavailableError:
    """A variant that has no weights of its own."""
    return WeightsUnavailableError(
        f"No weights are published for {variant.model}: give a checkpoint with --weights FILE."
    )


def offline(variant: Variant, path: Path) -> WeightsUnavailableError:
    """Not here, and not to be fetched."""
    return WeightsUnavailableError(
        f"{_missing(variant, path)}\nWith --offline nothing is fetched.\n{_ways_on(variant)}"
    )


def not_fetched(variant: Variant, path: Path, tried: Mapping[str, str]) -> WeightsUnavailableError:
    """Not here, and no URL (a key, as it may be shown) gave them (a value: why)."""
    attempts = "".join(f"\n  {url}\n    {reason}" for url, reason in tried.items())
    return WeightsUnavailableError(f"{_missing(variant, path)}\nTried:{attempts}\n{_ways_on(variant)}")


def absent(variant: Variant, path: Path) -> WeightsUnavailableError:
    """Not here, and nobody tried to fetch them."""
    return WeightsUnavailableError(_missing(variant, path))


def another(variant: Variant, path: Path, found: str | None) -> WeightsUnavailableError:
    """A file of that name with other contents; ``found`` is its MD5."""
    expected = variant.weights.md5 if variant.weights else None
    return WeightsUnavailableError(
        f"{path} is not the published file: its MD5 is {found}, not {expected}. It was left as it is.\n"
        + _ways(
            {
                f"densenet download-weights {variant.name} --force": "fetch the published one, keep this beside it",
                "densenet predict ... --weights FILE": "use a checkpoint that you have, or this one",
            }
        )
    )


def unreadable(path: Path, error: OSError) -> WeightsUnavailableError:
    """A file in the place of the weights that can't be opened."""
    return WeightsUnavailableError(f"{path} can't be read: {error.strerror}.")


def unwritable(path: Path, kept: int, error: OSError) -> WeightsUnavailableError:
    """No room for the file, or no permission; ``kept`` bytes of it lie there."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return WeightsUnavailableError(
            f"The disk is full: {kept:,} bytes of {path} are kept, and the same command goes on from there once there"
            " is room. Setting KERAS_HOME puts the weights elsewhere."
        )
    return WeightsUnavailableError(
        f"{path.parent} can't be written: {error.strerror or error}. Set KERAS_HOME to a folder that can, or give a"
        " checkpoint with --weights FILE."
    )


def _missing(variant: Variant, path: Path) -> str:
    return f"The weights of {variant.model} are not on this machine: there is no {path}."


def _ways_on(variant: Variant) -> str:
    return _ways(
        {
            f"densenet download-weights {variant.name} --base-url URL": "fetch them from a mirror",
            "densenet predict ... --weights FILE": "use a checkpoint that you have",
            "densenet predict ... --variant tiny": "use the small network that came with this program",
        }
    )


def _ways(commands: Mapping[str, str]) -> str:
    width = max(map(len, commands))
    count = {2: "Two", 3: "Three"}[len(commands)]
    return f"{count} ways on:" + "".join(f"\n  {command:<{width}}  {effect}" for command, effect in commands.items())
