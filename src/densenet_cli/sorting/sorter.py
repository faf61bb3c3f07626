"""Places images and their sidecar files in folders, with a journal."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from densenet_cli.output.atomic import output_errors
from densenet_cli.paths import working_directory
from densenet_cli.sorting.journal import BATCH_SIZE, Journal
from densenet_cli.sorting.sidecars import SidecarFinder
from densenet_cli.sorting.transfer import (
    Operation,
    UnreadableFileError,
    check_readable,
    content_hash,
    same_content,
)
from densenet_cli.sorting.undoing import undo_operations

MAX_FILE_NAME = 255
"""Bytes that file systems accept in a file name."""


class Placement(NamedTuple):
    """An image and the folder it belongs in.

    Attributes:
        source: Path of the image.
        folder: Name of the folder, below the one that images are sorted into.
    """

    source: str
    folder: str


@dataclass
class SortReport:
    """What a sort did, or would do.

    Attributes:
        placed: Folder -> number of images placed in it.
        sidecars: Number of sidecar files placed.
        identical: Images that are already there under the same name.
        skipped: Path and reason of each file that was left where it is.
    """

    placed: Counter[str] = field(default_factory=Counter)
    sidecars: int = 0
    identical: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


class Sorter:
    """Places images below a folder.

    An image and its sidecar files are placed together or not at all.

    Args:
        folder: The folder, created if it is missing.
        action: One of ``transfer.ACTIONS``.
        journal: The journal of the folder. None if there is none yet, for a dry run.
        dry_run: Whether to change nothing.
    """

    def __init__(self, folder: Path, action: str, journal: Journal | None, dry_run: bool = False) -> None:
        self._folder = _absolute(folder)
        self._action = action
        self._journal = journal
        self._dry_run = dry_run
        self._sidecars = SidecarFinder()
        self._reserved: dict[str, str] = {}
        """Target in lower case, because some file systems ignore case -> source."""
        self._planned: set[str] = set()
        self.report = SortReport()

    @cached_property
    def _earlier(self) -> dict[str, Operation]:
        """What earlier runs placed: source -> operation. First used after ``finish_pending``."""
        journal = self._journal
        earlier = [journal.operations[number] for number in journal.select("done")] if journal else []
        return {operation.source: operation for operation in earlier}

    @cached_property
    def _occupied(self) -> set[str]:
        """Targets of earlier runs, and the folders that they created below that of the journal."""
        folders = self._journal.folders if self._journal else []
        below = {path for path in folders if path.startswith(os.path.join(self._folder, ""))}
        return below | {operation.target for operation in self._earlier.values()}

    def finish_pending(self) -> int:
        """Finish what an earlier run began, or an ``undo``. Return the number of files that were placed or restored."""
        if not self._journal:
            return 0
        restored, left = undo_operations(self._journal, self._journal.select("undoing"))
        self.report.skipped += left
        return restored + len(self._perform(self._journal.select("pending")))

    def remaining(self, paths: Sequence[str]) -> set[str]:
        """Return the images to classify and place: not those that are done, nor sidecar files of other images."""
        sidecars: set[str] = set()
        for path in paths:
            with suppress(OSError):  # a folder that cannot be listed
                sidecars.update(self._sidecars.find(_absolute(path)))
        return {path for path in paths if _absolute(path) not in sidecars and not self.is_done(path)}

    def is_done(self, path: str) -> bool:
        """Return whether an earlier run placed this file, wherever its copy is now, or it is where placed ones are."""
        path = _absolute(path)
        operation = self._earlier.get(path)
        if operation is None:
            return path in self._occupied or os.path.dirname(path) in self._occupied
        if operation.action == "move":
            return not os.path.lexists(path)
        return operation.is_source_unchanged()

    def place(self, placements: Iterable[Placement]) -> Iterator[Placement]:
        """Place images, and yield each one once it is placed or skipped.

        Raises:
            OutputError: A file cannot be placed. Those that were placed are in the journal.
        """
        batch: list[Placement] = []
        operations: list[Operation] = []
        for placement in placements:
            batch.append(placement)
            try:
                operations += self._plan(placement)
            except OSError as error:  # it cannot be compared with a file of the same name
                self._skip(placement.source, error, placement.source)
            if len(batch) >= BATCH_SIZE:
                self._execute(operations)
                yield from batch
                batch, operations = [], []
        self._execute(operations)
        yield from batch

    def _plan(self, placement: Placement) -> list[Operation]:
        """Return the operations for an image and its sidecar files."""
        source = _absolute(placement.source)
        if self._action == "move" and os.path.islink(source):
            self.report.skipped.append((placement.source, "It is a symbolic link."))
            return []
        if not os.path.isfile(source):
            self.report.skipped.append((placement.source, "It is not a file."))
            return []
        if source in self._planned or self.is_done(source):
            return []
        members = [source, *self._find_sidecars(source)]
        for path in members:
            try:
                check_readable(path)
            except OSError as error:
                self._skip(placement.source, error, path)
                return []
        folder = os.path.join(self._folder, *placement.folder.split("/"))
        targets = self._choose_targets(members, folder)
        if targets is None:
            return []
        self._planned.update(members)
        operations = []
        for path, target in targets.items():
            self._reserved[target.casefold()] = path
            status = os.stat(path)
            image = "" if path == source else source
            operations.append(Operation(self._action, path, target, status.st_size, status.st_mtime_ns, image))
        return operations

    def _find_sidecars(self, source: str) -> list[str]:
        """Return the sidecar files to place with an image. Only the first of several images can move one."""
        sidecars = self._sidecars.find(source)
        if self._action != "move":
            return sidecars
        sidecars = [path for path in sidecars if path not in self._planned]
        links = [path for path in sidecars if os.path.islink(path)]
        self._planned.update(links)
        self.report.skipped.extend((path, "It is a symbolic link.") for path in links)
        return [path for path in sidecars if path not in links]

    def _choose_targets(self, members: Sequence[str], folder: str) -> dict[str, str] | None:
        """Return the target of an image and of each sidecar file, or None if the image is not to be placed.

        A sidecar file that several images share is copied or linked once.
        """
        names = [os.path.basename(path) for path in members]
        stem = os.path.splitext(names[0])[0]
        for suffix in self._suffixes(members[0]):
            targets = [os.path.join(folder, name) for name in _add_suffix(names, stem, suffix)]
            others = [self._occupant(target) for target in targets]
            if others[0] and os.path.isfile(others[0]) and _is_same(members[0], others[0]):
                self.report.identical.append(members[0])
                return None
            free = {path: target for path, target, other in zip(members, targets, others, strict=True) if not other}
            taken = [(path, other) for path, other in zip(members, others, strict=True) if other]
            if members[0] in free and (self._action != "move" or not taken) and all(_is_same(*pair) for pair in taken):
                return free
        self.report.skipped.append((members[0], "All candidate names are taken by other files."))
        return None

    def _occupant(self, target: str) -> str | None:
        """Return the file that has the name ``target`` or will get it, or None."""
        return target if os.path.lexists(target) else self._reserved.get(target.casefold())

    @staticmethod
    def _suffixes(source: str) -> Iterator[str]:
        yield ""
        digest = content_hash(source)
        for length in (8, 16, 64):
            yield f"-{digest[:length]}"

    def _execute(self, operations: Sequence[Operation]) -> None:
        if self._journal and operations and not self._dry_run:
            with output_errors(self._folder):
                for folder in dict.fromkeys(os.path.dirname(operation.target) for operation in operations):
                    self._journal.create_folder(folder)
            start = len(self._journal.operations)
            self._journal.begin(operations)
            operations = [
                self._journal.operations[number] for number in self._perform(range(start, start + len(operations)))
            ]
        for operation in operations:
            if operation.image:
                self.report.sidecars += 1
            else:
                folder = os.path.relpath(os.path.dirname(operation.target), self._folder)
                self.report.placed[folder.replace(os.sep, "/")] += 1

    def _perform(self, numbers: Iterable[int]) -> list[int]:
        """Perform operations of the journal. Return the numbers of those that placed a file."""
        assert self._journal
        done: list[int] = []
        try:
            for group in self._journal.groups(numbers):
                done += self._perform_group(self._journal, group)
        finally:
            if done:
                self._journal.finish(done)
        return done

    def _perform_group(self, journal: Journal, numbers: list[int]) -> list[int]:
        """Place an image and its sidecar files. If one of them cannot be placed, the others are restored."""
        image = journal.operations[numbers[0]].source
        for position, number in enumerate(numbers):
            operation = journal.operations[number]
            with output_errors(operation.target, "Run the command again to continue."):
                try:
                    operation.perform()
                except (FileExistsError, FileNotFoundError, UnreadableFileError) as error:
                    # Another program was faster, or the file cannot be read.
                    self._skip(image, error, operation.source)
                    journal.mark({"undoing": numbers[:position], "void": numbers[position:]}, durable=True)
                    self.report.skipped += undo_operations(journal, numbers[:position])[1]
                    return []
        return numbers

    def _skip(self, image: str, error: OSError, path: str) -> None:
        """Report an image that is not placed because of an error of its file or of a sidecar file, ``path``."""
        reason = f"{error.strerror or error}."
        if os.path.basename(path) != os.path.basename(image):
            reason = f"Its sidecar file {os.path.basename(path)} cannot be placed: {reason}"
        self.report.skipped.append((image, reason))


def _is_same(source: str, other: str) -> bool:
    """Return whether two files have the same content. One that cannot be read differs from the source."""
    if source == other:
        return True
    try:
        return same_content(source, other)
    except OSError:
        content_hash(source)  # raises an OSError if the source cannot be read
        return False


def _add_suffix(names: Sequence[str], stem: str, suffix: str) -> list[str]:
    """Return the names of files with the same stem, with a suffix after it. The stem is shortened if necessary."""
    rests = [suffix + name[len(stem) :] for name in names]
    while suffix and stem and len(os.fsencode(stem)) + max(len(os.fsencode(rest)) for rest in rests) > MAX_FILE_NAME:
        stem = stem[:-1]
    return [stem + rest for rest in rests]


def _absolute(path: str | os.PathLike[str]) -> str:
    """Return ``os.path.abspath`` of a path, also if the working directory was deleted."""
    return os.path.normpath(os.path.join(working_directory(), path))
