"""Where a command's words go: results to standard output, everything else to standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

F = TypeVar("F", bound=Callable[..., Any])

_state = {"quiet": False, "verbose": False}


def _remember(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if not ctx.resilient_parsing:
        _state[str(parameter.name)] = value


def common_options(function: F) -> F:
    """``--quiet`` and ``--verbose``, which every command takes."""
    for option in (
        click.option(
            "--verbose", is_flag=True, expose_value=False, callback=_remember, help="Show a traceback with an error."
        ),
        click.option(
            "-q",
            "--quiet",
            is_flag=True,
            expose_value=False,
            callback=_remember,
            help="Say nothing but results and errors.",
        ),
    ):
        function = option(function)
    return function


def is_quiet() -> bool:
    """Whether ``--quiet`` was given."""
    return _state["quiet"]


def is_verbose() -> bool:
    """Whether ``--verbose`` was given."""
    return _state["verbose"]


def printable(text: str) -> str:
    """``text.to_printable``, which is imported only for a text that needs it."""
    if text.isprintable():
        return text
    from densenet_cli.text import to_printable

    return to_printable(text)


def say(message: str) -> None:
    """A line on standard error, unless ``--quiet``."""
    if not is_quiet():
        warn(message)


def warn(message: str) -> None:
    """A line on standard error, always; nothing in it acts on a terminal. Nobody reading it is no reason to stop."""
    with suppress(OSError):
        click.echo("\n".join(map(printable, message.split("\n"))), err=True)


def warn_failed(source: str, kind: str, message: str) -> None:
    """A line on standard error about an image that failed."""
    warn(f"{printable(source)}: {kind}: {printable(message)}")


def show_progress() -> bool:
    """Whether a progress bar has somebody to look at it: only on a terminal, and not with ``--quiet``."""
    return not is_quiet() and sys.stderr.isatty()


def stdout_console(**settings: Any) -> Console:
    """A Rich console on standard output. It honors ``NO_COLOR``, pipes and ``COLUMNS`` by itself."""
    from rich.console import Console

    class StandardOutput(Console):
        def on_broken_pipe(self) -> None:
            """Rich itself would leave with status 1 where a reader has gone; ``cli.main`` knows better."""
            raise  # the error that Rich is handling as it calls this

    return StandardOutput(highlight=False, markup=False, emoji=False, **settings)


def has_unicode(console: Console) -> bool:
    """Whether lines and blocks can be drawn on it."""
    return (console.encoding or "").lower().startswith("utf")


def stderr_console() -> Console:
    """A Rich console on standard error, for progress bars."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False)
