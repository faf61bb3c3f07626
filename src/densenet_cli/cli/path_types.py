"""Paths of files and folders: which names a command accepts, and that it does not write to a file that it reads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from densenet_cli.errors import DensenetError, UsageError
from densenet_cli.paths import is_hub_url, is_remote, is_url, split_member

CHECKPOINTS = ("weights", "start")
"""Parameters that name a checkpoint."""

INPUTS = ("source", *CHECKPOINTS)
"""Parameters that name files to read, apart from those whose type is ``click.Path``."""


LOCAL_ONLY = "URLs are not supported. Choose a path on this machine."


class FilePath(click.Path):
    """A file or folder.

    Args:
        can_be_remote: Whether it can also be a URL of object storage, which stays as it is.
        settings: See ``click.Path``.
    """

    def __init__(self, *, can_be_remote: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        self._can_be_remote = can_be_remote

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """Return the path or the URL. Raises ``click.BadParameter``."""
        if isinstance(value, str) and is_remote(value):
            if self._can_be_remote:
                return value
            self.fail(LOCAL_ONLY, param, ctx)
        return super().convert(value, param, ctx)


class OutputPath(FilePath):
    """A file or folder to write.

    Args:
        can_replace: The parameter of an input that it may replace, because it is a new version of it, or None.
        settings: See ``FilePath``.
    """

    def __init__(self, *, can_replace: str | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.can_replace = can_replace

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """Return the path or the URL. Raises ``click.BadParameter``."""
        name = os.fspath(value)
        if not name:
            self.fail("The name is empty.", param, ctx)
        if name == "-" and not self.allow_dash:
            self.fail("Standard output is not supported. Choose a path, such as ./- for this name.", param, ctx)
        if not is_remote(name) and (is_url(name) or is_hub_url(name) or name[:5].lower() == "file:"):
            remote = "This URL cannot be written. Choose a path or a URL of object storage."
            self.fail(remote if self._can_be_remote else LOCAL_ONLY, param, ctx)
        return super().convert(value, param, ctx)


def check_outputs(context: click.Context) -> None:
    """Raise ``UsageError`` if an existing output file of a command is also one of its inputs."""
    outputs: dict[str, tuple[str, str | None]] = {}
    inputs: dict[str, Any] = {}
    for param in context.command.params:
        name = str(param.name)
        if not (value := context.params.get(name)):
            continue
        if isinstance(param.type, OutputPath):
            outputs[name] = str(value), param.type.can_replace
        elif isinstance(param.type, click.Path) or name in INPUTS:
            inputs[name] = value
    for name, (output, replaced) in outputs.items():
        check_not_input(name, output, {key: value for key, value in inputs.items() if key != replaced})


def check_not_input(parameter: str, output: str, inputs: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` if an existing output file is also an input, or an archive that contains one.

    Args:
        parameter: The parameter that names the output.
        output: The path or URL of the file to write.
        inputs: Parameter -> name or names of what it reads; None for nothing.
    """
    is_url = is_remote(output)
    if not is_url and not Path(output).is_file():
        return
    for name in _input_files(inputs):
        path = (split_member(name) or (name,))[0]
        is_same = path == output
        if not is_url:
            with suppress(OSError, ValueError):
                is_same = Path(path).samefile(output)
        if is_same:
            raise UsageError(f"`{parameter}` would replace a file that the command reads. Choose another name.")


def _input_files(inputs: Mapping[str, Any]) -> Iterator[str]:
    for parameter, value in inputs.items():
        for name in value if isinstance(value, tuple) else (value,):
            if name and parameter in CHECKPOINTS:
                yield from _checkpoint_files(str(name))
            elif name:
                yield str(name)


def _checkpoint_files(name: str) -> list[str]:
    """Return the files that a checkpoint on this machine consists of."""
    if is_hub_url(name):
        return []
    from densenet_cli.weights.folders import companions
    from densenet_cli.weights.locations import find_checkpoint
    from densenet_cli.weights.shards import checkpoint_files

    with suppress(DensenetError, OSError):
        path = find_checkpoint(name, offline=True)
        return [*map(str, checkpoint_files(path)), *companions(str(path))]
    return [name]
