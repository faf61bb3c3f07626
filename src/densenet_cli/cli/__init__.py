"""The ``densenet`` command, one module per subcommand. Only this package uses Click and Rich.

A subcommand's module is imported when the subcommand runs, so ``densenet --help`` starts about as fast as Click.
Each module defines a function of its own name. Heavy packages (numpy, engines) are imported inside functions.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import NoReturn

import click

from densenet_cli.cli.console import StdoutError, Verbosity, configure_streams, echo_error, standard_output

COMMANDS = {
    "predict": "Classify images in files, folders, globs, and URLs.",
    "sort": "Place images in folders named after their labels.",
    "explain": "Show which image regions drove a prediction.",
    "embed": "Turn images into feature vectors for search.",
    "summary": "Show a model's layers, shapes, and parameters.",
    "evaluate": "Measure a model's accuracy on labeled images.",
    "calibrate": "Calibrate a model's probabilities on labeled images.",
    "train": "Train or fine-tune a model on folders of labeled images.",
    "export": "Convert a model to ONNX, TensorFlow, LiteRT, or PyTorch.",
    "benchmark": "Measure a model's speed and memory use.",
    "download-weights": "Download and verify the published weights.",
    "cache": "Show, verify, or prune the stored files.",
}
"""Name -> short help. The module of a command is its name with underscores."""


class LazyGroup(click.Group):
    """A group that imports a command only to run it or to show its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of ``COMMANDS``."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(importlib.import_module(f"{__name__}.{name}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _print_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"densenet {version('densenet-cli')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version and exit.",
)
def densenet() -> None:
    """Classify images with DenseNet.

    \b
    Examples:
      densenet predict cat.jpg
      densenet predict photos/ --variant 169 -o labels.csv
      densenet summary --variant 201
    """


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit with status 0, 1, 2, 3, 4, or 130 (``docs/reference/exit-statuses.md``)."""
    # The interpreter's garbage collection at exit takes a tenth of the time of classifying one image.
    atexit.register(gc.freeze)
    # NumPy's BLAS would start one spinning thread per core, and no command multiplies matrices with it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # SIGTERM is handled like Ctrl-C: finished results are written and a JSON array is closed.
    signal.signal(signal.SIGTERM, _raise_keyboard_interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as it is in a background job
        signal.signal(signal.SIGINT, _raise_keyboard_interrupt)
    configure_streams()
    verbosity = Verbosity()
    try:
        status = densenet.main(args, prog_name="densenet", standalone_mode=False, obj=verbosity)
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _exit_interrupted()
    except StdoutError:
        status = 0
    except Exception as error:
        status = _report_unexpected(error, verbosity.verbose)
    sys.exit(_finish_stdout(status if isinstance(status, int) else 0))


def _raise_keyboard_interrupt(_number: int, frame: FrameType | None) -> None:
    """Handle a signal by raising ``KeyboardInterrupt``, or by exiting at once during an import.

    C code in imported modules prints the exception, or turns it into an ``ImportError``. Exiting is safe because
    records are written whole.
    """
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            _exit_interrupted()
        frame = frame.f_back
    raise KeyboardInterrupt


def _finish_stdout(status: int) -> int:
    """Write what is left of standard output. Return the exit status: 4 if that failed but everything else worked."""
    with suppress(StdoutError):
        sys.stdout.flush()
    stream = standard_output()
    if stream is None or stream.error is None or isinstance(stream.error, BrokenPipeError):
        return status
    echo_error(f"Error: Cannot write to standard output: {stream.error.strerror or stream.error}.")
    return 4 if status in (0, 1) else status


def _exit_interrupted() -> NoReturn:
    """Exit with status 130, without finalizing the interpreter.

    Finalization aborts while another thread is inside a decoder or an engine. All files are closed by now; only
    standard output may have buffered data.
    """
    echo_error("Interrupted.")
    with suppress(StdoutError, ValueError):
        sys.stdout.flush()
    os._exit(130)


def _report_unexpected(error: Exception, verbose: bool) -> int:
    """Report a bug in this program: one line, and a traceback with ``--verbose``."""
    if verbose:
        import traceback

        traceback.print_exception(error)
    hint = "" if verbose else " Use --verbose for a traceback, and please report this."
    echo_error(f"Internal error: {type(error).__name__}: {error}.{hint}")
    return 1
