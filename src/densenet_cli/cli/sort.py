"""``densenet sort``: place images in folders named after their labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from densenet_cli.cli.command import FloatRange, command, option, output_option
from densenet_cli.cli.console import echo_image_error, echo_info, printable, stdout_console
from densenet_cli.cli.decision_options import decision_options
from densenet_cli.cli.model_options import create_classifier, model_options
from densenet_cli.cli.options import NoteCounter, expand_sources, source_options
from densenet_cli.cli.path_types import FilePath, OutputPath
from densenet_cli.errors import UsageError
from densenet_cli.text import plural, to_unicode

if TYPE_CHECKING:
    from densenet_cli.images.sources import Source
    from densenet_cli.sorting.sorter import Placement, Sorter, SortReport

MAX_LISTED = 20
"""Files that were left where they are and are listed one by one."""


@command()
@source_options
@output_option(
    "--into",
    "into_folder",
    type=OutputPath(file_okay=False),
    metavar="DIR",
    help="Create the folders in DIR.",
)
@output_option("--copy", "action", flag_value="copy", default=True, help="Copy the images.  [default]")
@output_option("--move", "action", flag_value="move", help="Move the images, with their sidecar files.")
@output_option("--link", "action", flag_value="link", help="Create symbolic links to the images.")
@output_option(
    "--by",
    type=click.Choice(["label", "id", "group"]),
    default="label",
    show_default=True,
    help="Name of a folder: the label, its WordNet ID, or its group in --groups.",
)
@output_option(
    "--groups",
    type=FilePath(exists=True, dir_okay=False),
    metavar="FILE",
    help="Table with the columns label and folder, for --by group. Other labels go to the folder other.",
)
@output_option("--dry-run", is_flag=True, help="Only print how many images would go where.")
@output_option(
    "--undo",
    type=FilePath(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Restore everything that was sorted into DIR.",
)
@option(
    "--min-prob",
    type=FloatRange(0, 1),
    metavar="P",
    help="Put images whose label has a probability below P into the folder unsure.",
)
@decision_options
@model_options(without=["pages"])
def sort(
    source: tuple[str, ...],
    files_from: str | None,
    null: bool,
    suffix: tuple[str, ...],
    into_folder: str | None,
    action: str,
    by: str,
    groups: str | None,
    dry_run: bool,
    undo: Path | None,
    min_prob: float | None,
    coverage: float | None,
    set_method: str | None,
    max_error: float | None,
    by_class: bool,
    **model: Any,
) -> int:
    """Place images in folders named after their labels.

    SOURCE is an image, a folder (searched recursively), or a glob. Images whose label is not confident enough go to
    the folder unsure; --max-error, --min-prob, or --coverage (a set of one label) decides. Images that cannot be read
    go to the folder failed. No file is overwritten or lost. After an interruption, the same command continues.

    \b
    Examples:
      densenet sort photos/ --into sorted/
      densenet sort photos/ --into sorted/ --move --min-prob 0.8
      densenet sort photos/ --into out/ --max-error 0.05 --weights m.safetensors
      densenet sort photos/ --into sorted/ --dry-run
      densenet sort --undo sorted/
    """
    if undo is not None:
        _check_only_undo()
        return _undo(undo)
    if into_folder is None:
        raise click.UsageError("No folder given. Use --into DIR.")
    into = Path(into_folder)
    if (by == "group") != (groups is not None):
        raise click.UsageError("--by group and --groups require each other.")
    sources = expand_sources(source, files_from, null, suffix, offline=model["offline"])
    from densenet_cli.output.checks import check_output_folder
    from densenet_cli.sorting.folders import class_folders
    from densenet_cli.sorting.journal import JOURNAL_NAME, Journal
    from densenet_cli.sorting.sorter import Sorter

    if not dry_run:
        check_output_folder(into)
    classifier = create_classifier(**model)
    if classifier.config.is_multi_label:
        raise UsageError("A multi-label model gives an image several labels, so its images cannot be sorted.")
    predictor = classifier.predictor(
        1, min_prob, coverage=coverage, set_method=set_method, max_error=max_error, by_class=by_class
    )
    for warning in predictor.warnings:
        echo_info(warning)
    folders = class_folders(classifier.labels, by, None if groups is None else _read_groups(groups))
    with ExitStack() as stack:
        if (into / JOURNAL_NAME).exists():
            sorter = Sorter(into, action, stack.enter_context(Journal(into)), dry_run)
            if not dry_run and (count := sorter.finish_pending()):
                echo_info(f"Finished {plural(count, 'file')} of an interrupted run.")
            files = _list_files(sources)
        else:
            files = _list_files(sources)  # If one cannot be sorted, the folder is not created.
            sorter = Sorter(into, action, None if dry_run else stack.enter_context(Journal(into)), dry_run)
        failed, placements = _plan(classifier, predictor, files, sorter, folders)
        from densenet_cli.cli.progress import ProgressBar

        with ProgressBar("count") as progress:
            for _ in sorter.place(placements):
                progress.advance("planned" if dry_run else "placed")
    _print_report(sorter.report, into, dry_run)
    return 1 if failed or sorter.report.skipped else 0


def _check_only_undo() -> None:
    """Raise ``click.UsageError`` if --undo was given together with what it would ignore, such as --dry-run."""
    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        is_given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if is_given and name not in ("undo", "quiet", "verbose"):
            options = {"source": "sources", "action": f"--{context.params['action']}"}
            raise click.UsageError(f"--undo cannot be used with {options.get(name, parameter.opts[0])}.")


def _list_files(sources: Iterable[Source]) -> list[Source]:
    """Return all sources. Raises ``UsageError`` for one that is not a file, before any image is classified."""
    files = []
    for source in sources:
        name = to_unicode(source.name)
        if source.kind == "member":
            raise UsageError(f"{name} is in an archive. Extract the archive to sort its images.")
        if source.kind in ("url", "remote"):
            raise UsageError(f"{name} is not on this machine. Download the images to sort them.")
        if source.page is not None:
            raise UsageError(f"{name} is a page of a file. Only whole files can be sorted.")
        if source.name == "-":
            raise UsageError("The image on standard input is not a file, so it cannot be sorted.")
        files.append(source)
    return files


def _plan(
    classifier: Any, predictor: Any, files: Sequence[Source], sorter: Sorter, folders: dict[int, str]
) -> tuple[int, list[Placement]]:
    """Classify the images that are not placed yet. Return how many failed, and where each one belongs."""
    import os

    from densenet_cli.cli.progress import ProgressBar
    from densenet_cli.sorting.folders import choose_folder
    from densenet_cli.sorting.sorter import Placement

    failed = 0
    placements = []
    names = sorter.remaining([file.name for file in files])
    remaining = (file for file in files if file.name in names)
    with NoteCounter(has_pages=False) as notes, ProgressBar("count") as progress:
        for result in classifier.stream(remaining):
            notes.add(result.notes)
            prediction = predictor(result)
            if prediction.error:
                failed += 1
                echo_image_error(prediction.source, prediction.error)
            if not prediction.error or os.path.isfile(prediction.source):  # noqa: PTH113
                placements.append(Placement(prediction.source, choose_folder(prediction, folders)))
            progress.advance("images")
    return failed, placements


def _read_groups(file: str) -> dict[str, str]:
    from densenet_cli.datasets.tables import LABEL_COLUMNS, open_table

    groups: dict[str, str] = {}
    with open_table(file) as table:
        label = table.find_column("label", LABEL_COLUMNS, has_parameter=False)
        folder = table.find_column("folder", ("folder", "group"), has_parameter=False)
        for line, row in table.rows():
            if not row[label] or not row[folder] or groups.get(row[label], row[folder]) != row[folder]:
                raise UsageError(f"Line {line:,} of {to_unicode(file)} lacks a value or contradicts another line.")
            groups[row[label]] = row[folder]
    return groups


def _undo(folder: Path) -> int:
    from densenet_cli.cli.progress import ProgressBar
    from densenet_cli.sorting.journal import Journal
    from densenet_cli.sorting.undoing import undo

    with Journal(folder, create=False) as journal, ProgressBar("count") as progress:
        restored, left = undo(journal, lambda: progress.advance("files"))
    click.echo(f"Restored {plural(restored, 'file')}.")
    _print_files("Not restored", left)
    return 1 if left else 0


def _print_report(report: SortReport, into: Path, dry_run: bool) -> None:
    from densenet_cli.cli.render import create_table, heading, number_column, text_column

    console = stdout_console()
    total = sum(report.placed.values())
    console.print(heading(str(into), f"{plural(total, 'image')} {'to place' if dry_run else 'placed'}"))
    if total:
        table = create_table(text_column("Folder"), number_column("Images"))
        for name, count in sorted(report.placed.items(), key=lambda item: (-item[1], item[0])):
            table.add_row(printable(name), f"{count:,}")
        console.print(table)
    if report.sidecars:
        console.print(f"  with {plural(report.sidecars, 'sidecar file')}", style="dim")
    if report.identical:
        console.print(f"  {plural(len(report.identical), 'image')} already there", style="dim")
    _print_files("Not placed", report.skipped)


def _print_files(title: str, files: list[tuple[str, str]]) -> None:
    for path, reason in files[:MAX_LISTED]:
        echo_info(f"{title}: {to_unicode(path)}: {reason}")
    if len(files) > MAX_LISTED:
        echo_info(f"{title}: {len(files) - MAX_LISTED:,} more files")
