"""``--ray`` and ``--part-size``, and the options that contradict them. ``ray_run.py`` runs a command on Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from densenet_cli.cli.command import option, output_option

F = TypeVar("F", bound=Callable[..., Any])

PART_SIZE = 1000
"""Sources per part by default."""

PART_FORMATS = ("parquet", "jsonl", "csv")
"""The keys of ``ray.records.PART_FORMATS``, the default first."""

FILE_SUFFIXES = (".parquet", ".jsonl", ".csv", ".json", ".npz", ".npy")
"""Extensions of outputs without ``--ray``."""


def ray_options(function: F) -> F:
    """Add ``--ray`` and ``--part-size`` to a command."""
    for decorator in (
        output_option(
            "--part-size",
            type=click.IntRange(1, 1_000_000),
            metavar="N",
            help=f"With --ray, the number of sources in a part. An archive is one part.  [default: {PART_SIZE:,}]",
        ),
        option(
            "--ray",
            metavar="ADDRESS",
            group="Performance",
            help="Run on a Ray cluster: auto (the one that this machine belongs to), HOST:PORT, or local to start Ray "
            "on this machine.",
        ),
    ):
        function = decorator(function)
    return function


class RayRequest(NamedTuple):
    """What a command runs on Ray.

    Attributes:
        command: ``predict`` or ``embed``.
        address: See ``ray.cluster.connect``.
        part_size: Sources per part, or None for the default.
        output: The folder or URL.
        format_name: The format, or None for the default.
        resume: Whether to continue the run in the folder.
        overwrite: Whether to replace it.
        source: Arguments of ``expand_sources``, like the next three.
        files_from: Likewise.
        null: Likewise.
        suffix: Likewise.
        decisions: Arguments of ``Classifier.predictor``.
        model: Values of ``MODEL_OPTIONS``.
    """

    command: str
    address: str
    part_size: int | None
    output: str | None
    format_name: str | None
    resume: bool
    overwrite: bool
    source: tuple[str, ...]
    files_from: str | None
    null: bool
    suffix: tuple[str, ...]
    decisions: dict[str, Any]
    model: dict[str, Any]


def check_ray_options(address: str | None, options: Mapping[str, Any]) -> None:
    """Check that options do not contradict ``--ray``, or its absence.

    Args:
        address: The value of ``--ray``.
        options: Values of the command's other options.

    Raises:
        click.UsageError: An option requires ``--ray`` or cannot be used with it.
    """
    if address is None:
        if options.get("part_size") is not None:
            raise click.UsageError("--part-size requires --ray.")
        if options.get("format_") == "parquet":
            raise click.UsageError("--format parquet requires --ray.")
        return
    for name, hint in {
        "html": "Run the command without --ray on some of the images to create a page",
        "retry_errors": "Use --overwrite to compute all parts again",
        "processes": "Use --threads to set the threads of each worker",
    }.items():
        if options.get(name):
            raise click.UsageError(f"--{name.replace('_', '-')} cannot be used with --ray. {hint}.")
    if options.get("output") in (None, "", "-"):
        raise click.UsageError("--ray requires --output, a folder or URL for part files.")
    if options.get("format_") not in (None, *PART_FORMATS):
        raise click.UsageError(f"--format must be parquet, jsonl, or csv with --ray, not {options['format_']}.")
    suffix, chosen = Path(options["output"]).suffix.lower(), options.get("format_") or PART_FORMATS[0]
    if suffix in FILE_SUFFIXES and suffix != f".{chosen}":
        hint = f" Add --format {suffix[1:]}, or choose another name." if suffix[1:] in PART_FORMATS else ""
        raise click.UsageError(
            f"With --ray, --output is a folder of {chosen} files, but its name ends in {suffix}.{hint}"
        )
    if "-" in options.get("source", ()):
        raise click.UsageError("Standard input cannot be an image with --ray. Save it to a file.")
