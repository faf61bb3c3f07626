"""``--output`` in object storage: commands write a file on this machine, which is uploaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from densenet_cli.cli.command import replace_parameters
from densenet_cli.cli.console import echo_error
from densenet_cli.paths import is_remote

if TYPE_CHECKING:
    from densenet_cli.output.remote import RemoteOutput

F = TypeVar("F", bound=Callable[..., Any])

_META_KEY = "densenet_cli.remote_output"


def uploads_output(kind: str, convert: Callable[[Any], Any] = str, *, can_resume: bool = True) -> Callable[[F], F]:
    """Let a command write the file of ``--output`` on this machine, and upload it, if it is a URL of object storage.

    Args:
        kind: What the command writes: a key of ``output.remote.FILES``.
        convert: Called with the path on this machine; returns the value of ``output`` for the command.
        can_resume: Whether the command has ``--resume``.
    """

    def decorate(function: F) -> F:
        @wraps(function)
        def wrapper(*, output: Any, **options: Any) -> Any:
            resume, overwrite, ray = options.get("resume", False), options["overwrite"], options.get("ray")
            # The command itself reports that both are given, and with --ray writes to storage.
            if not isinstance(output, str) or not is_remote(output) or (resume and overwrite) or ray is not None:
                return function(output=output, **options)
            from densenet_cli.output.remote import FILES, RemoteOutput

            context = click.get_current_context()

            def warn(message: str) -> None:
                echo_error(replace_parameters(message, context.command))

            settings = {"can_resume": can_resume, "offline": options["offline"], "warn": warn}
            with RemoteOutput(output, FILES[kind], resume=resume, overwrite=overwrite, **settings) as remote:
                context.meta[_META_KEY] = remote
                return function(output=convert(remote.path), **options)

        return wrapper  # type: ignore[return-value]

    return decorate


def shown_path(path: str) -> str:
    """Return a path for a message: the URL of a file that is uploaded."""
    remote: RemoteOutput | None = click.get_current_context().meta.get(_META_KEY)
    return remote.replace_paths(path) if remote else path
