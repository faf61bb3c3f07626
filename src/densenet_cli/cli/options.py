"""Options that several commands share, and what the commands make of them: a classifier and image sources."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import click

from densenet_cli.cli.command import input_option
from densenet_cli.cli.console import echo_info
from densenet_cli.cli.path_types import FilePath
from densenet_cli.errors import UsageError
from densenet_cli.paths import is_remote
from densenet_cli.text import plural

if TYPE_CHECKING:
    from densenet_cli.datasets import DatasetOptions
    from densenet_cli.images.sources import Source

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", bound="Source")

suffix_option = input_option(
    "--suffix",
    multiple=True,
    metavar="SUFFIX",
    help="Also use files with this extension in folders, such as .img ('' for none). Can be repeated.",
)


def table_options(function: F) -> F:
    """Add ``--csv`` and the names of its columns to a command."""
    for decorator in (
        input_option(
            "--label-column",
            metavar="NAME",
            help="Name of the label column in --csv.  [default: label, class, ...]",
        ),
        input_option(
            "--path-column",
            metavar="NAME",
            help="Name of the image column in --csv.  [default: path, filename, image, ...]",
        ),
        input_option(
            "--csv",
            type=FilePath(can_be_remote=True, exists=True, dir_okay=False),
            metavar="FILE",
            help="Read images and their classes from a table, separated by commas, semicolons, or tabs. Paths are "
            "relative to FOLDER if given, or else to the table's folder.",
        ),
    ):
        function = decorator(function)
    return function


def dataset_options(
    suffix: tuple[str, ...],
    path_column: str | None,
    label_column: str | None,
    has_table: bool,
    has_folders: bool,
    offline: bool,
) -> DatasetOptions:
    """Return how to read a dataset. Raises ``click.UsageError`` for an option that does not apply to the input."""
    from densenet_cli.datasets import DatasetOptions

    if (path_column or label_column) and not has_table:
        raise click.UsageError(f"--{'path' if path_column else 'label'}-column requires --csv.")
    if suffix and not has_folders:
        raise click.UsageError("--suffix applies only to class folders. A table can list files with any extension.")
    return DatasetOptions(suffix, path_column, label_column, offline)


def source_options(function: F) -> F:
    """Add the argument SOURCE and its options to a command, which passes their values to ``expand_sources``."""
    for decorator in (
        suffix_option,
        input_option(
            "--null",
            is_flag=True,
            help="Expect NUL bytes instead of newlines between the sources in --files-from.",
        ),
        input_option(
            "--files-from",
            type=FilePath(exists=True, dir_okay=False, allow_dash=True),
            metavar="FILE",
            help="Read sources from FILE, one per line (- for standard input).",
        ),
        click.argument("source", nargs=-1),
    ):
        function = decorator(function)
    return function


def expand_sources(
    source: tuple[str, ...],
    files_from: str | None,
    null: bool,
    suffix: tuple[str, ...] = (),
    *,
    pages: str = "first",
    offline: bool = False,
) -> Iterator[Source]:
    """Return the images that ``source_options`` name. Folders are read while the iterator runs.

    ``pages`` and ``offline`` are those of ``MODEL_OPTIONS``.

    Raises:
        click.UsageError: No source, or contradictory options. It is raised at once.
    """
    if not source and not files_from:
        raise click.UsageError(
            "No source given. Pass an image, a folder, an archive, a glob, a URL, or -, or use --files-from."
        )
    if null and not files_from:
        raise click.UsageError("--null requires --files-from.")
    if files_from == "-" and "-" in source:
        raise click.UsageError("Standard input can be an image (-) or a list (--files-from -), but not both.")
    from densenet_cli.images.sources import expand

    names = _names(source, files_from, null)
    if offline:
        from densenet_cli.images.offline import expand_offline

        return select_pages(expand_offline(names, suffix), pages, offline)
    check_access(source)
    return select_pages(expand(names, suffixes=suffix), pages, offline)


def check_access(names: Iterable[str | None], offline: bool = False) -> None:
    """Check the access to each bucket that URLs of object storage name, before any work. Raises UsageError."""
    buckets: dict[str, str] = {}
    for name in names:
        if name and is_remote(name):
            buckets.setdefault("/".join(name.split("/", 3)[:3]), name)
    if buckets:
        from densenet_cli.storage import check_readable, redact

        if offline:
            raise UsageError(f"Cannot read {redact(min(buckets.values()))}: network access is disabled (`offline`).")
        for url in buckets.values():
            check_readable(url)


def check_not_folder(output: str | None) -> None:
    """Raise ``click.BadParameter`` if an output file is a folder."""
    if output and Path(output).is_dir():
        raise click.BadParameter(f"File {output!r} is a directory.", param_hint="'-o' / '--output'")


def select_pages(sources: Iterator[S], pages: str, offline: bool) -> Iterator[S]:
    """Return the sources, or with ``--pages all`` their pages."""
    if pages == "first":
        return sources
    from densenet_cli.images.pages import expand_pages

    return expand_pages(sources, offline)


def _names(source: tuple[str, ...], files_from: str | None, null: bool) -> Iterator[str]:
    """Yield the sources of the command line, then those of ``--files-from``."""
    from densenet_cli.images.sources import read_list
    from densenet_cli.paths import local_path

    yield from source
    if files_from == "-":
        yield from map(local_path, read_list(sys.stdin.buffer, null))
    elif files_from:
        with Path(files_from).open("rb") as file:
            yield from map(local_path, read_list(file, null))


class NoteCounter:
    """Counts what results say about their images, to print it at the end of a run.

    Args:
        has_pages: Whether the command has the option ``--pages``.
    """

    def __init__(self, has_pages: bool = True) -> None:
        self._counts: Counter[str] = Counter()
        self._has_pages = has_pages

    def add(self, notes: Iterable[str] | Mapping[str, int]) -> None:
        """Count the notes of one result, or a mapping of notes to their numbers."""
        self._counts.update(notes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if count := self._counts["truncated"]:
            files = plural(count, "image file ends", "image files end")
            echo_info(f"{files} early. The missing pixels are gray or black.")
        if count := self._counts["narrow_range"]:
            echo_info(
                f"{plural(count, 'image uses', 'images use')} less than a sixteenth of the range from black to white. "
                "Set the range with --bit-depth."
            )
        if count := self._counts["more_pages"]:
            files = plural(count, "file has", "files have")
            hint = "To use all of them, add --pages all." if self._has_pages else "Only the first one was classified."
            echo_info(f"{files} more than one page or frame. {hint}")


def echo_resumed(count: int) -> None:
    """Print how many sources ``--resume`` found in the output."""
    if count:
        echo_info(f"Resuming: {plural(count, 'source')} already done.")
