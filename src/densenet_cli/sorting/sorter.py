"""Places images and their sidecar files in folders by label, with a journal, and undoes it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from densenet_cli.errors import UsageError
from densenet_cli.output.atomic import output_errors
from densenet_cli.sorting.journal import Journal
from densenet_cli.sorting.transfer import ChangedFileError, Operation, UnreadableFileError, content_hash, same_content
from densenet_cli.text import to_unicode

if TYPE_CHECKING:
    from densenet_cli.labels import ClassLabel, Labels
    from densenet_cli.results import Prediction

UNSURE, FAILED, OTHER = "unsure", "failed", "other"
"""Folders of images without a label, of images that cannot be read, and of labels that are in no group."""
FOLDER_NAMES = ("label", "id", "group")

SIDECAR_SUFFIXES = frozenset((".xmp", ".aae"))
RAW_SUFFIXES = frozenset(
    (
        *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw"),
        *(".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
    )
)
BATCH_SIZE = 50
"""Images whose operations are recorded together, with one write to the disk."""
MAX_NAME_BYTES = 150
"""Length of a folder's name."""
MAX_FILE_NAME = 255
"""Bytes that file systems accept in a file name."""
_RESERVED = re.compile(r'[\x00-\x1f\x7f<>:"/|?*\\]')
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


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
        skipped: Path and reason of each image that was left where it is.
    """

    placed: Counter[str] = field(default_factory=Counter)
    sidecars: int = 0
    identical: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def class_folders(labels: Labels, by: str, groups: Mapping[str, str] | None = None) -> dict[int, str]:
    """Return the folder of each class, by the index of its label. No two classes share one, except by group.

    Args:
        labels: The labels of the model.
        by: One of ``FOLDER_NAMES``.
        groups: Label -> folder, for ``group``. Other labels go to ``OTHER``.

    Raises:
        UsageError: A class has no id, or a group names a label that the model does not have.
    """
    if by == "group":
        groups = groups or {}
        if unknown := groups.keys() - {label.name for label in labels}:
            raise UsageError(f"{to_unicode(min(unknown))!r} is not a label of the model.")
        return {label.index: _safe_path(groups.get(label.name, OTHER)) for label in labels}
    if by == "id" and any(label.id is None for label in labels):
        raise UsageError("The labels of the model have no ids. Use `by` label.")
    names = {label.index: safe_name(_name(label, by)) for label in labels}
    taken = Counter(name.casefold() for name in (*names.values(), UNSURE, FAILED))
    return {index: f"{name} ({index})" if taken[name.casefold()] > 1 else name for index, name in names.items()}


def _name(label: ClassLabel, by: str) -> str:
    return label.id or "" if by == "id" else label.name


def safe_name(name: str) -> str:
    """Return a folder name for a label that every operating system accepts."""
    name = _RESERVED.sub("_", to_unicode(name)).strip().rstrip(".")
    while len(name.encode()) > MAX_NAME_BYTES:
        name = name[:-1]
    return f"{name}_" if not name or name.startswith(".") or _DEVICES.fullmatch(name) else name


def _safe_path(path: str) -> str:
    return "/".join(safe_name(part) for part in re.split(r"[/\\]", path) if part not in ("", ".", "..")) or OTHER


def choose_folder(prediction: Prediction, folders: Mapping[int, str]) -> str:
    """Return the folder of an image: that of its label, or ``UNSURE`` or ``FAILED``.

    The label is the most probable one, if it reaches the minimum probability and the error limit. If there is a set, it
    must contain only this label.
    """
    if prediction.error:
        return FAILED
    if prediction.unsure or not prediction.scores:
        return UNSURE
    best = prediction.scores[0].index
    if prediction.set is not None and [score.index for score in prediction.set] != [best]:
        return UNSURE
    return folders[best]


class Sorter:
    """Places images below a folder.

    Args:
        folder: The folder, created if it is missing.
        action: One of ``transfer.ACTIONS``.
        journal: The journal of the folder, or None to change nothing (a dry run).
    """

    def __init__(self, folder: Path, action: str, journal: Journal | None) -> None:
        self._folder = os.path.abspath(folder)
        self._action = action
        self._journal = journal
        self._reserved: dict[str, str] = {}
        """Target in lower case, because some file systems ignore case -> source."""
        self._planned: set[str] = set()
        earlier = [item for n, item in enumerate(journal.operations) if n not in journal.void] if journal else []
        self._targets = {operation.target for operation in earlier}
        self._sources = {operation.source: operation for operation in earlier}
        self.report = SortReport()

    def finish_pending(self) -> int:
        """Finish the operations that an earlier run began. Return their number."""
        numbers = list(self._journal.pending) if self._journal else []
        self._perform(numbers)
        return len(numbers)

    def is_done(self, path: str) -> bool:
        """Return whether an earlier run placed this file, or it is a placed one."""
        path = os.path.abspath(path)
        operation = self._sources.get(path)
        if operation is None:
            return path in self._targets
        if not os.path.lexists(operation.target):
            return False
        if operation.action == "move":
            return not os.path.lexists(path)
        if operation.action == "link":
            return True
        with suppress(OSError):  # classifying it reports the reason
            return same_content(path, operation.target)
        return False

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
                self._skip(placement.source, error)
            if len(batch) >= BATCH_SIZE:
                self._execute(operations)
                yield from batch
                batch, operations = [], []
        self._execute(operations)
        yield from batch

    def _plan(self, placement: Placement) -> list[Operation]:
        """Return the operations for an image and its sidecar files."""
        source = os.path.abspath(placement.source)
        if self._action == "move" and os.path.islink(source):
            self.report.skipped.append((placement.source, "It is a symbolic link."))
            return []
        if not os.path.isfile(source):
            self.report.skipped.append((placement.source, "It is not a file."))
            return []
        if source in self._planned or self.is_done(source):
            return []
        folder = os.path.join(self._folder, *placement.folder.split("/"))
        sidecars = [path for path in find_sidecars(source) if self._action != "move" or path not in self._planned]
        names = [os.path.basename(path) for path in (source, *sidecars)]
        stem = os.path.splitext(names[0])[0]
        for suffix in self._suffixes(source):
            targets = [os.path.join(folder, name) for name in _add_suffix(names, stem, suffix)]
            others = [self._occupant(target) for target in targets]
            if others[0] and os.path.isfile(others[0]) and _is_same(source, others[0]):
                self.report.identical.append(placement.source)
                return []
            if not any(others):
                break
        else:
            self.report.skipped.append((placement.source, "Other files have all names for it."))
            return []
        self._planned.update((source, *sidecars))
        self._reserved.update(
            (target.casefold(), path) for target, path in zip(targets, (source, *sidecars), strict=True)
        )
        self.report.placed[placement.folder] += 1
        self.report.sidecars += len(sidecars)
        sizes = [os.path.getsize(path) for path in (source, *sidecars)]
        members = zip((source, *sidecars), targets, sizes, strict=True)
        return [Operation(self._action, path, target, size) for path, target, size in members]

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
        if not self._journal or not operations:
            return
        with output_errors(self._folder):
            for folder in dict.fromkeys(os.path.dirname(operation.target) for operation in operations):
                self._journal.create_folder(folder)
        start = len(self._journal.operations)
        self._journal.begin(operations)
        self._perform(range(start, start + len(operations)))

    def _perform(self, numbers: Iterable[int]) -> None:
        assert self._journal or not numbers
        done: list[int] = []
        try:
            for number in numbers:
                operation = self._journal.operations[number]  # type: ignore[union-attr]
                with output_errors(operation.target, "Run the command again to continue."):
                    try:
                        operation.perform()
                        done.append(number)
                    except (FileExistsError, FileNotFoundError, UnreadableFileError) as error:
                        # Another program was faster, or the file cannot be read.
                        self._journal.give_up(number)  # type: ignore[union-attr]
                        self._skip(operation.source, error)
        finally:
            if done:
                self._journal.finish(done)  # type: ignore[union-attr]

    def _skip(self, path: str, error: OSError) -> None:
        self.report.skipped.append((path, f"{error.strerror or error}."))


def _is_same(source: str, other: str) -> bool:
    """Return whether two files have the same content. One that cannot be read differs from the source."""
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


def undo(journal: Journal, progress: Callable[[], object] = lambda: None) -> tuple[int, list[tuple[str, str]]]:
    """Restore every file that was placed, the last one first. The journal is deleted if all were restored.

    Returns:
        Number of restored files, and the path and reason of each file that was left where it is.
    """
    restored, left = 0, []
    for number in reversed(range(len(journal.operations))):
        operation = journal.operations[number]
        if number in journal.void:
            continue
        try:
            operation.undo()
            restored += 1
        except ChangedFileError as error:
            left.append((operation.target, f"{error.strerror}."))
        except OSError as error:
            left.append((operation.target, f"{error.strerror or error}."))
        progress()
    for folder in reversed(journal.folders):
        with suppress(OSError):  # it contains other files
            os.rmdir(folder)
    if not left:
        journal.remove()
    return restored, left


def find_sidecars(path: str) -> list[str]:
    """Return the files that belong to an image: ``.xmp`` and ``.aae`` files, and the raw file of a JPEG.

    Their names are that of the image with another or a further extension, in upper or lower case.
    """
    folder, name = os.path.split(path)
    stem, suffix = os.path.splitext(name)
    suffixes = SIDECAR_SUFFIXES | (RAW_SUFFIXES if suffix.lower() in (".jpg", ".jpeg", ".jpe") else frozenset())
    found = [
        other
        for base, accepted in ((stem, suffixes), (name, SIDECAR_SUFFIXES))
        for other in _names_by_stem(folder).get(base, ())
        if os.path.splitext(other)[1].lower() in accepted
    ]
    return [os.path.join(folder, other) for other in found if os.path.isfile(os.path.join(folder, other))]


@lru_cache(maxsize=64)
def _names_by_stem(folder: str) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder)):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in SIDECAR_SUFFIXES or suffix.lower() in RAW_SUFFIXES:
            names.setdefault(stem, []).append(name)
    return names
