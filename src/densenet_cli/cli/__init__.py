"""The command ``densenet``. One file a command below; no file outside this folder knows Click or Rich.

A command's module is imported when it runs, so ``densenet --help`` starts in about the time of Click.
Each defines ``command``. What is heavier still (numpy, an engine) is imported inside its function.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

import click

from densenet_cli.cli.console import is_verbose, warn
from densenet_cli.errors import DensenetError, OutputError

COMMANDS = {
    "predict": "Classify images: files, folders, globs, URLs or standard input.",
    "explain": "Show where in an image the network saw what it says.",
    "embed": "Turn images into vectors, for search and near-duplicates.",
    "summary": "Show a network: stages, shapes, parameters, multiply-adds.",
    "evaluate": "Measure a model on images whose classes are known.",
    "train": "Train a network of your own on class folders.",
    "export": "Write a model for other tools: ONNX, TensorFlow, LiteRT, PyTorch.",
    "benchmark": "Measure what this machine does with a model.",
    "download-weights": "Fetch the published weights and check them.",
    "cache": "Show what is stored on this machine; prune or verify it.",
}
"""Name -> what the list of commands says of it. The module is the name with underscores."""


class ReaderGone(Exception):
    """Nobody reads standard output any more (``| head``)."""


class LazyGroup(click.Group):
    """A group that imports a command when it is asked for, and not to list it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the table's order, which is that of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, its module imported now."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Left to itself Click ends with status 1, and no word, where a reader has gone."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise ReaderGone from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _print_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"densenet {version('densenet-cli')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show the version."
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
    """Run the command and leave with its exit status: 0, 1, 2, 3, 4 or 130 (``docs/reference/output.md``)."""
    # The interpreter's last search for garbage, among everything imported, is a tenth of the time of one image.
    atexit.register(gc.freeze)
    # numpy's BLAS would start a thread a core that spins beside the engine's; no command multiplies matrices with it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Asked to end is interrupted: what is finished is written, a JSON array is closed.
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored, as in a background job
        signal.signal(signal.SIGINT, _interrupt)
    _mend_streams()
    try:
        status = densenet.main(args, prog_name="densenet", standalone_mode=False)
    except click.ClickException as error:
        with suppress(OSError):
            error.show()
        status = error.exit_code
    except DensenetError as error:
        status = _report(error)
    except (click.Abort, KeyboardInterrupt):
        warn("Interrupted.")
        _leave_at_once(130)
    except ReaderGone:
        _silence_stdout()
        status = 0
    except OSError as error:
        # Output to a file names it; that without a name went to standard output.
        if error.errno and error.filename is None:
            _silence_stdout()
            status = _report(OutputError(f"Standard output can't be written: {error.strerror}."))
        else:
            status = _report_unexpected(error)
    except Exception as error:
        status = _report_unexpected(error)
    sys.exit(status if isinstance(status, int) else 0)


def _interrupt(_number: int, frame: FrameType | None) -> None:
    """Raise ``KeyboardInterrupt``, but not inside an import: C code there prints it, and makes an ImportError of it.

    The command ends at once then. Records are written whole, so they are as safe as from SIGKILL.
    """
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            warn("Interrupted.")
            _leave_at_once(130)
        frame = frame.f_back
    raise KeyboardInterrupt


def _leave_at_once(status: int) -> NoReturn:
    """Without the interpreter's own ending, which aborts where a thread is still inside a decoder or the engine.

    Whatever was open is closed by now; only standard output may hold something back.
    """
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(status)


def _mend_streams() -> None:
    """Standard streams that are closed become empty ones; what an output's encoding lacks is written with escapes."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (as long-lived as the process)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _silence_stdout() -> None:
    """Keep the interpreter's own flush at exit from failing once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(error: DensenetError) -> int:
    if is_verbose():
        import traceback

        traceback.print_exception(error)
    warn(f"Error: {error}")
    return error.exit_code


def _report_unexpected(error: Exception) -> int:
    """A mistake of ours: still no traceback for somebody who only wanted a label."""
    if is_verbose():
        import traceback

        traceback.print_exception(error)
    hint = "" if is_verbose() else " --verbose shows where; please report it."
    warn(f"Internal error: {type(error).__name__}: {error}.{hint}")
    return 1
