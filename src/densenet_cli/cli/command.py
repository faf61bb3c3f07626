"""The Click classes of all commands: options in groups, exit statuses in help, library errors in terms of options."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import click

from densenet_cli.cli.console import Verbosity, echo_lines, is_verbose, log_to_stderr, printable
from densenet_cli.cli.path_types import check_outputs
from densenet_cli.errors import DensenetError, ProcessError, WeightsUnavailableError
from densenet_cli.paths import is_hub_url

GLOBAL_GROUP = "Global options"
MAX_OPTION_WIDTH = 28
"""Columns of the longest option that still has its help text on the same line."""

EXIT_STATUSES = {
    0: "success",
    1: "unexpected error",
    2: "invalid usage",
    3: "weights are unavailable or invalid",
    4: "output cannot be written",
    130: "interrupted",
}
"""Every exit status of a command, and what it means unless the command states it more precisely."""

CLASSIFY_STATUSES = {0: "all images were processed", 1: "some images failed, or an unexpected error"}
"""What exit statuses mean for the commands that process images."""


class Option(click.Option):
    """An option that help lists under the heading ``group``."""

    def __init__(self, *args: Any, group: str = "Options", **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.group = group

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Leave out the range of numbers, which few need: an error message states it."""
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)
        return extra


option = partial(click.option, cls=Option)
input_option = partial(option, group="Input")
output_option = partial(option, group="Output")
format_option = option(
    "--format",
    "format_",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="Output format.",
)


class FloatRange(click.FloatRange):
    """A number in a range. NaN is in no range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number. Raises ``click.BadParameter``."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


class FloatList(click.ParamType):  # type: ignore[type-arg]  # generic only since Click 8.3.2
    """Comma-separated numbers."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Return the numbers. Raises ``click.BadParameter``."""
        if isinstance(value, tuple):
            return value
        parts: list[Any] = str(value).split(",")
        return tuple(float(click.FLOAT.convert(part, param, ctx)) for part in parts)


def _set_verbosity(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        setattr(ctx.ensure_object(Verbosity), str(param.name), True)


def _set_verbose(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    _set_verbosity(ctx, param, value)
    if value and not ctx.resilient_parsing:
        ctx.with_resource(log_to_stderr())


def _common_options() -> list[click.Parameter]:
    common: dict[str, Any] = {"group": GLOBAL_GROUP, "is_flag": True, "expose_value": False}
    return [
        Option(["-q", "--quiet"], callback=_set_verbosity, help="Print only results and errors.", **common),
        Option(
            ["--verbose"],
            callback=_set_verbose,
            help="Print log messages, assumptions about a model, and tracebacks of errors.",
            **common,
        ),
    ]


class CommandError(click.ClickException):
    """A library error whose message names options instead of parameters."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]

    def show(self, file: Any = None) -> None:
        """Print the message to standard error."""
        echo_lines(f"Error: {self.message}")


class Command(click.Command):
    """A command with grouped options, ``--quiet``, and ``--verbose``.

    Args:
        exit_statuses: What exit statuses mean, for help, where ``EXIT_STATUSES`` is not precise enough.
    """

    def __init__(
        self,
        name: str | None,
        params: Iterable[click.Parameter] | None = None,
        exit_statuses: Mapping[int, str] = CLASSIFY_STATUSES,
        **settings: Any,
    ) -> None:
        settings.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
        super().__init__(name, params=[*(params or ()), *_common_options()], **settings)
        self._exit_statuses = {**EXIT_STATUSES, **exit_statuses}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options group by group, in aligned columns."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)):
                groups.setdefault(getattr(param, "group", GLOBAL_GROUP), []).append(record)
        groups[GLOBAL_GROUP] = groups.pop(GLOBAL_GROUP)  # last
        names = [name for records in groups.values() for name, _ in records]
        width = max(len(name) for name in names if len(name) <= MAX_OPTION_WIDTH)
        for group, records in groups.items():
            with formatter.section(group):
                formatter.write_dl([(name.ljust(width), text) for name, text in records], col_max=width)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the exit statuses."""
        with formatter.section("Exit status"):
            formatter.write_dl([(str(status), meaning) for status, meaning in self._exit_statuses.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Raises ``CommandError`` for a ``DensenetError``."""
        try:
            check_outputs(ctx)
            return super().invoke(ctx)
        except DensenetError as error:
            if is_verbose():
                import traceback

                traceback.print_exception(error)
            if isinstance(error, WeightsUnavailableError):
                message = describe_weights_error(error)
            else:
                message = printable(str(error))  # a single line
            if isinstance(error, ProcessError) and "resume" in ctx.params and ctx.params.get("output"):
                message += " Finished results are kept. Continue with `resume`."
            raise CommandError(replace_parameters(message, self), error.exit_code) from error


def describe_weights_error(error: WeightsUnavailableError) -> str:
    """Return the message of an error and the commands that help."""
    if error.variant is None:
        return str(error)
    is_on_hub = is_hub_url(error.variant)
    if error.differs and is_on_hub:
        commands = {f"densenet download-weights {error.variant} --force": "download it again"}
    elif is_on_hub:
        commands = {
            f"densenet download-weights {error.variant}": "download it, with network access",
            "densenet predict ... --weights FILE": "use your own checkpoint",
            "densenet predict ... --variant tiny": "use the small model in this package",
        }
    elif error.differs:
        commands = {
            f"densenet download-weights {error.variant} --force": "download the published file and rename this one",
            "densenet predict ... --weights FILE": "use another checkpoint, or this one",
        }
    else:
        commands = {
            f"densenet download-weights {error.variant} --base-url URL": "download them from a mirror",
            "densenet predict ... --weights FILE": "use your own checkpoint",
            "densenet predict ... --variant tiny": "use the small model in this package",
        }
    width = max(map(len, commands))
    lines = (f"\n  {command:<{width}}  {effect}" for command, effect in commands.items())
    return f"{error}\nTry one of:{''.join(lines)}"


def replace_parameters(message: str, command: click.Command) -> str:
    """Replace parameter names in backticks by the command's options: ```overwrite``` becomes ``--overwrite``.

    Other names in backticks stay as they are.
    """
    names: dict[str, str] = {}
    for param in command.params:
        longest = max(param.opts, key=len)
        display = longest if isinstance(param, click.Option) else param.make_metavar(click.Context(command))
        for name in (str(param.name).rstrip("_"), longest.lstrip("-").replace("-", "_")):
            names.setdefault(name, display)
    return re.sub(r"`(\w+)`", lambda match: names.get(match[1], match[0]), message)


def command(**settings: Any) -> Callable[[Callable[..., Any]], Command]:
    """Make a function a ``Command``."""
    return click.command(cls=Command, **settings)
