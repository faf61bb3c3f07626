"""The journal of a sorted folder: every file that was or is being placed, written before it is touched.

It is a file of JSON lines in the folder. A line of an operation means that it may have begun; a line with its number
means that it is complete. An incomplete last line is ignored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from densenet_cli.errors import OutputError, UsageError
from densenet_cli.output.atomic import open_locked, output_errors, sync, sync_path, write_all
from densenet_cli.sorting.transfer import ACTIONS, Operation
from densenet_cli.text import to_unicode

JOURNAL_NAME = ".densenet-sort.jsonl"
HEADER = {"densenet_sort": 1}


class Journal:
    """Context manager of the journal, which is locked during the block.

    Args:
        folder: The folder that images are sorted into. It exists.
        create: Whether to create a journal that is missing.

    Raises:
        UsageError: There is no journal, and ``create`` is false.
        OutputError: The journal cannot be opened, another run uses it, or it is damaged.

    Attributes:
        operations: All operations, in order.
        pending: Numbers of those that may be incomplete.
        void: Numbers of those that were given up.
        folders: Folders that were created, in order.
    """

    def __init__(self, folder: Path, create: bool = True) -> None:
        self._path = folder / JOURNAL_NAME
        self.operations: list[Operation] = []
        self.pending: dict[int, None] = {}
        self.void: set[int] = set()
        self.folders: list[str] = []
        if not create and not self._path.exists():
            raise UsageError(f"{to_unicode(str(folder))} contains no journal of a sort, so nothing can be undone.")
        with output_errors(self._path):
            self._file: BinaryIO = open_locked(self._path)[0]
        try:
            self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def begin(self, operations: Sequence[Operation]) -> None:
        """Record operations durably before they are performed."""
        start = len(self.operations)
        self.operations.extend(operations)
        self.pending.update(dict.fromkeys(range(start, len(self.operations))))
        self._append([operation._asdict() for operation in operations], durable=True)

    def finish(self, numbers: Iterable[int]) -> None:
        """Record that operations are complete."""
        numbers = list(numbers)
        for number in numbers:
            self.pending.pop(number, None)
        self._append([{"done": numbers}], durable=False)

    def give_up(self, number: int) -> None:
        """Record that an operation was not and will not be performed."""
        self.pending.pop(number, None)
        self.void.add(number)
        self._append([{"void": number}], durable=False)

    def create_folder(self, path: str) -> None:
        """Create a folder and those above it, and record which of them are new."""
        new = []
        while not os.path.isdir(path):
            new.append(path)
            path = os.path.dirname(path)
        if new:
            new.reverse()
            self.folders.extend(new)
            self._append([{"folder": folder} for folder in new], durable=True)
            os.makedirs(new[-1], exist_ok=True)
            sync_path(Path(path))

    def remove(self) -> None:
        """Delete the journal."""
        self._path.unlink(missing_ok=True)

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
                self._add(json.loads(line), is_header=number == 0)
        except (ValueError, TypeError, LookupError) as error:
            raise OutputError(
                f"{to_unicode(str(self._path))} is damaged ({error}). Move it to another place."
            ) from error
        self._file.truncate(len(complete))
        self._file.seek(len(complete))
        if not complete:
            self._append([HEADER], durable=True)

    def _add(self, values: Any, is_header: bool) -> None:
        if is_header:
            if values != HEADER:
                raise ValueError("unknown version")
        elif "done" in values:
            for number in values["done"]:
                self.pending.pop(number, None)
        elif "void" in values:
            self.pending.pop(values["void"], None)
            self.void.add(values["void"])
        elif "folder" in values:
            self.folders.append(str(values["folder"]))
        else:
            operation = Operation(values["action"], values["source"], values["target"], values["size"])
            if operation.action not in ACTIONS or not all(map(os.path.isabs, operation[1:3])):
                raise ValueError(f"{operation!r:.100}")
            self.pending[len(self.operations)] = None
            self.operations.append(operation)
