"""The journal of a sorted folder: every file that was or is being placed, written before it is touched.

It is a file of JSON lines in the folder. A line is an operation, whose number is its position among the operations, or
a new state of operations, or a folder that was created. An incomplete last line is ignored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self, get_args

from densenet_cli.errors import OutputError, UsageError
from densenet_cli.output.atomic import open_locked, output_errors, sync, sync_path, write_all
from densenet_cli.sorting.transfer import ACTIONS, Operation
from densenet_cli.text import to_unicode

JOURNAL_NAME = ".densenet-sort.jsonl"
HEADER = {"densenet_sort": 1}
BATCH_SIZE = 50
"""Images whose operations are recorded together, with one write to the disk."""

State = Literal["pending", "done", "undoing", "void"]
"""States of an operation: it may be incomplete; it is complete; it may be partly undone; it was given up or undone."""
STATES: tuple[State, ...] = get_args(State)


class Journal:
    """Context manager of the journal, which is locked during the block.

    Args:
        folder: The folder that images are sorted into.
        create: Whether to create the folder and the journal if they are missing.

    Raises:
        UsageError: There is no journal, and ``create`` is false, or the journal belongs to a folder of another name.
        OutputError: The journal cannot be opened, another run uses it, or it is damaged.

    Attributes:
        operations: All operations, in order.
        states: The state of each operation.
        mtimes: Number of an operation -> modification time of its target in nanoseconds when it was complete.
        folders: Folders that were created, in order.
    """

    def __init__(self, folder: Path, create: bool = True) -> None:
        self._folder = folder
        self._path = folder / JOURNAL_NAME
        self.operations: list[Operation] = []
        self.states: list[State] = []
        self.mtimes: dict[int, int] = {}
        self.folders: list[str] = []
        if not create and not self._path.exists():
            raise UsageError(f"{to_unicode(str(folder))} contains no journal of a sort, so nothing can be undone.")
        new_folders = _missing_folders(os.path.abspath(folder))
        with output_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with output_errors(self._path):
            self._file: BinaryIO = open_locked(self._path)[0]
        try:
            self._read()
            self._check_location()
            self._record_folders(new_folders)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def select(self, *states: State) -> list[int]:
        """Return the numbers of the operations in one of these states, in order."""
        return [number for number, state in enumerate(self.states) if state in states]

    def groups(self, numbers: Iterable[int]) -> Iterator[list[int]]:
        """Yield the numbers of each image and its sidecar files, which follow each other."""

        def image(number: int) -> str:
            return self.operations[number].image or self.operations[number].source

        for _, group in groupby(numbers, image):
            yield list(group)

    def begin(self, operations: Sequence[Operation]) -> None:
        """Record operations durably before they are performed."""
        self.operations.extend(operations)
        self.states.extend(["pending"] * len(operations))
        self._append([operation._asdict() for operation in operations], durable=True)

    def finish(self, numbers: Iterable[int]) -> None:
        """Record that operations are complete, with the modification times of their targets."""
        numbers = list(numbers)
        mtimes = [_mtime(self.operations[number].target) for number in numbers]
        self._apply({"done": numbers, "mtimes": mtimes})
        self._append([{"done": numbers, "mtimes": mtimes}], durable=False)

    def mark(self, states: Mapping[State, Iterable[int]], durable: bool = False) -> None:
        """Record new states of operations, in one step. If ``durable``, they are on the disk when this returns."""
        values: dict[str, Any] = {state: list(numbers) for state, numbers in states.items() if numbers}
        if values:
            self._apply(values)
            self._append([values], durable)

    def create_folder(self, path: str) -> None:
        """Create a folder and those above it, and record which of them are new."""
        if new := _missing_folders(path):
            self._record_folders(new)
            os.makedirs(path, exist_ok=True)
            sync_path(Path(new[0]).parent)

    def remove(self) -> None:
        """Delete the journal."""
        self._path.unlink(missing_ok=True)

    def _record_folders(self, folders: Sequence[str]) -> None:
        if folders:
            self.folders.extend(folders)
            self._append([{"folder": folder} for folder in folders], durable=True)

    def _append(self, values: list[dict[str, Any]], durable: bool) -> None:
        with output_errors(self._path):
            end = self._file.tell()
            try:
                write_all(self._file, b"".join(json.dumps(value).encode() + b"\n" for value in values))
            except BaseException:  # an incomplete line must not be followed by others
                self._file.truncate(end)
                self._file.seek(end)
                raise
            if durable:
                sync(self._file)

    def _read(self) -> None:
        content = self._file.read()
        complete = content[: content.rfind(b"\n") + 1]
        try:
            for number, line in enumerate(complete.splitlines()):
                values = json.loads(line)
                if number:
                    self._apply(values)
                elif values != HEADER:
                    raise ValueError("unknown version")
        except (ValueError, TypeError, LookupError) as error:
            raise OutputError(
                f"{to_unicode(str(self._path))} is damaged ({error}). Move it to another place to sort again. "
                "What was sorted before cannot be undone without it."
            ) from error
        self._file.truncate(len(complete))
        self._file.seek(len(complete))
        if not complete:
            self._append([HEADER], durable=True)

    def _apply(self, values: Any) -> None:
        if states := [state for state in STATES if state in values]:
            for state in states:
                for number in values[state] if isinstance(values[state], list) else [values[state]]:
                    self.states[number] = state
            times = zip(values["done"], values["mtimes"], strict=True) if "mtimes" in values else ()
            self.mtimes.update((number, time) for number, time in times if time is not None)
        elif "folder" in values:
            self.folders.append(str(values["folder"]))
        else:
            operation = Operation(**values)
            if operation.action not in ACTIONS or not all(map(os.path.isabs, operation[1:3])):
                raise ValueError(f"{operation!r:.100}")
            self.operations.append(operation)
            self.states.append("pending")

    def _check_location(self) -> None:
        """Raise ``UsageError`` if the folder was renamed or copied. Its journal contains absolute paths."""
        targets = [self.operations[number].target for number in self.select("pending", "done", "undoing")]
        for folder in dict.fromkeys(map(os.path.dirname, targets)):
            if not _is_below(folder, self._folder):
                raise UsageError(
                    f"{to_unicode(str(self._folder))} was renamed or copied. Its journal describes files in "
                    f"{to_unicode(folder)}. Restore the original name, or use another folder."
                )


def _missing_folders(path: str) -> list[str]:
    """Return the folders to create for a path, the highest first."""
    missing: list[str] = []
    while not os.path.isdir(path) and path != os.path.dirname(path):
        missing.insert(0, path)
        path = os.path.dirname(path)
    return missing


def _is_below(path: str, folder: Path) -> bool:
    """Return whether a path is a folder or below it. Symbolic links may lead to the folder or away from it."""
    while True:
        with suppress(OSError):
            if os.path.samefile(path, folder):
                return True
        if path == os.path.dirname(path):
            return False
        path = os.path.dirname(path)


def _mtime(path: str) -> int | None:
    with suppress(OSError):
        return os.lstat(path).st_mtime_ns
    return None
