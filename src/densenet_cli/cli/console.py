"""Standard streams: results go to standard output, everything else to standard error."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from densenet_cli.results import Failure


class StdoutError(Exception):
    """Standard output, the only output of a command, has failed. ``StandardStream.error`` is the reason."""


class StandardStream(io.RawIOBase):
    """Standard output or standard error, which discards everything that is written after a failure.

    So a command whose reader goes away (``| head``) still does its work, such as writing files.

    Attributes:
        error: Why writing failed, or None. A ``BrokenPipeError`` means that the reader has closed the stream.
        is_only_output: Whether the command produces nothing else. The first failure then raises ``StdoutError``.
    """

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self._original = stream  # would close the raw stream when it is deleted
        self._raw: Any = getattr(stream.buffer, "raw", stream.buffer)
        self.error: OSError | None = None
        self.is_only_output = False

    def write(self, data: Any, /) -> int | None:
        """Write or discard bytes. Return how many, None if a non-blocking stream accepts none."""
        if self.error is None:
            try:
                count: int | None = self._raw.write(data)
                return count
            except OSError as error:
                self.error = error
                if self.is_only_output:
                    raise StdoutError from error
        return len(data)

    def detach(self, descriptor: int) -> Any:
        """Write to another file descriptor from now on, which ``attach`` closes. Return what was written to before."""
        original = self._raw
        self._raw = io.FileIO(descriptor, "w")
        return original

    def attach(self, original: Any) -> None:
        """Undo ``detach``."""
        self._raw.close()
        self._raw = original

    def writable(self) -> bool:
        """Return True."""
        return True

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        return bool(self._raw.isatty())

    def fileno(self) -> int:
        """Return the file descriptor."""
        return int(self._raw.fileno())


def configure_streams() -> None:
    """Make standard output and error a ``StandardStream``, which escapes characters that its encoding lacks.

    Streams that are closed when the process starts are opened on the null device.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (open until the process ends)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.flush()
            wrapper = io.TextIOWrapper(
                io.BufferedWriter(StandardStream(stream)),
                stream.encoding,
                errors="backslashreplace",
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, wrapper)


@contextmanager
def discard_native_stderr() -> Iterator[None]:
    """Discard what libraries in C++ print to standard error. This program still prints to it."""
    raw = getattr(getattr(sys.stderr, "buffer", None), "raw", None)
    if not isinstance(raw, StandardStream):
        yield
        return
    sys.stderr.flush()
    original, raw_stream = sys.stderr, raw.detach(os.dup(2))
    with open(os.devnull, "wb") as null:
        saved = os.dup(2)
        os.dup2(null.fileno(), 2)
    try:
        yield
    finally:
        original.flush()
        os.dup2(saved, 2)
        os.close(saved)
        raw.attach(raw_stream)


def standard_output() -> StandardStream | None:
    """Return the stream to which ``sys.stdout`` writes. None outside of ``cli.main``."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw if isinstance(raw, StandardStream) else None


def end_if_stdout_fails() -> None:
    """Let the command end when standard output fails, because it has no other output."""
    if stream := standard_output():
        stream.is_only_output = True


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
            echo_lines(self.format(record))

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
    """Print a message to standard error, without control characters. A line break can only be part of a name."""
    click.echo(printable(message), err=True)


def echo_lines(message: str) -> None:
    """Print a message of several lines to standard error, without other control characters."""
    click.echo("\n".join(map(printable, message.split("\n"))), err=True)


def echo_image_error(source: str, error: Failure) -> None:
    """Print why an image failed to standard error."""
    echo_error(f"{printable(source)}: {error.type}: {printable(error.message)}")


def stdout_console(**settings: Any) -> Console:
    """Return a Rich console for standard output. Rich honors ``NO_COLOR``, pipes, and ``COLUMNS``."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, **settings)


def stderr_console() -> Console:
    """Return a Rich console for standard error, for progress bars."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False)
