"""Undoes what was sorted into a folder, according to its journal."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress

from densenet_cli.errors import OutputError
from densenet_cli.sorting.journal import BATCH_SIZE, Journal


def undo(journal: Journal, progress: Callable[[], object] = lambda: None) -> tuple[int, list[tuple[str, str]]]:
    """Restore every file that was placed, the last one first, and remove the folders that were created.

    The journal is deleted if all files were restored.

    Returns:
        Number of restored files, and the path and reason of each file that was left where it is.
    """
    restored, left = undo_operations(journal, journal.select("pending", "done", "undoing"), progress)
    _remove_folders(journal)
    if not left:
        journal.remove()
        _remove_folders(journal)  # the folder of the journal
    return restored, left


def undo_operations(
    journal: Journal, numbers: Sequence[int], progress: Callable[[], object] = lambda: None
) -> tuple[int, list[tuple[str, str]]]:
    """Undo operations, the last one first. Return what ``undo`` returns."""
    restored = 0
    left: list[tuple[str, str]] = []
    batch: list[int] = []
    for group in journal.groups(reversed(numbers)):
        batch += group
        if len(batch) >= BATCH_SIZE or batch[-1] == numbers[0]:
            undone, errors = _undo_batch(journal, batch, progress)
            restored += undone
            left += errors
            batch = []
    return restored, left


def _undo_batch(
    journal: Journal, numbers: Sequence[int], progress: Callable[[], object]
) -> tuple[int, list[tuple[str, str]]]:
    """Undo operations. Their state is recorded first, because a target that an interrupted undo removed is no error."""
    left: list[tuple[str, str]] = []
    states = {}
    for number in numbers:
        operation, state = journal.operations[number], journal.states[number]
        try:
            if state == "done":
                operation.check_placed(journal.mtimes.get(number))
            states[number] = state
        except OSError as error:
            left.append((operation.target, f"{error.strerror or error}."))
            progress()
    with suppress(OutputError):  # undoing must work on a full disk, too
        journal.mark({"undoing": states}, durable=True)
    undone = []
    try:
        for number, state in states.items():
            operation = journal.operations[number]
            try:
                operation.undo()
                undone.append(number)
            except OSError as error:
                left.append((operation.target, f"{error.strerror or error}."))
                with suppress(OutputError):
                    journal.mark({state: [number]})
            progress()
    finally:
        with suppress(OutputError):
            journal.mark({"void": undone})
    return len(undone), left


def _remove_folders(journal: Journal) -> None:
    for folder in reversed(journal.folders):
        with suppress(OSError):  # it contains other files
            os.rmdir(folder)
