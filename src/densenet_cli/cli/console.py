"""Output on the terminal: results go to standard output, everything else to standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from densenet_cli.results import Failure


class Verbosity:
    """``--quiet`` and ``--verbose``. It lives in Click's context (``ctx.obj``)."""

    quiet = False
    verbose = False


def _verbosity() -> Verbosity:
    ctx = click.get_current_context(silent=True)
    return (ctx and ctx.find_object(Verbosity)) or Verbosity()


def is_quiet() -> bool:
    """Return whether the command was given ``--quiet``. Only the thread that runs the command knows."""
    return _verbosity().quiet


def is_verbose() -> bool:
    """Return whether the command was given ``--verbose``. Only the thread that runs the command knows."""
    return _verbosity().verbose


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Print the package's log messages of level INFO and above to standard error."""
    import logging

    class StderrHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            echo_error(self.format(record))

    logger, handler = logging.getLogger("densenet_cli"), StderrHandler(logging.INFO)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def printable(text: str) -> str:
    """Call ``text.to_printable``, which is imported only for a text that needs it."""
    if text.isprintable():
        return text
    from densenet_cli.text import to_printable

    return to_printable(text)


def echo_info(message: str) -> None:
    """Print a message to standard error, unless ``--quiet`` is given."""
    if not is_quiet():
        echo_error(message)


def echo_error(message: str) -> None:
    """Print a message to standard error, without control characters. A closed standard error is ignored."""
    with suppress(OSError):
        click.echo("\n".join(map(printable, message.split("\n"))), err=True)


def echo_image_error(source: str, error: Failure) -> None:
    """Print why an image failed to standard error."""
    echo_error(f"{printable(source)}: {error.type}: {printable(error.message)}")


def stdout_console(**settings: Any) -> Console:
    """Return a Rich console for standard output. Rich honors ``NO_COLOR``, pipes, and ``COLUMNS``."""
    from rich.console import Console

    class StdoutConsole(Console):
        def on_broken_pipe(self) -> None:
            """Re-raise the error that Rich is handling. Rich would exit with status 1; ``cli.main`` exits with 0."""
            raise

    return StdoutConsole(highlight=False, markup=False, emoji=False, **settings)


def stderr_console() -> Console:
    """Return a Rich console for standard error, for progress bars."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False)
