"""The phases of a run: image sizes that it trains on in turn."""

from __future__ import annotations

from typing import NamedTuple

from densenet_cli.errors import UsageError


class Phase(NamedTuple):
    """Consecutive epochs on images of ``size`` x ``size`` pixels."""

    size: int
    epochs: int


def parse_sizes(text: str) -> tuple[Phase, ...]:
    """Parse phases such as ``32x5,48x4``. Raises ``UsageError`` for anything else."""
    try:
        phases = tuple(Phase(*map(int, part.split("x"))) for part in text.split(","))
    except (TypeError, ValueError):
        phases = ()
    if not phases or min(min(phase) for phase in phases) < 1:
        raise UsageError(f"`sizes` must have the form SIZExEPOCHS,... such as 32x5,48x4, not {text!r}.")
    return phases


def format_sizes(phases: tuple[Phase, ...]) -> str:
    """Return phases as text. ``parse_sizes`` is the inverse."""
    return ",".join(f"{size}x{epochs}" for size, epochs in phases)
