"""Labeled images: class folders, and tables of paths and labels. Evaluation and training share this reader.

Paths are strings, as in ``images.sources``, because results contain them exactly as they were given.
"""

# ruff: noqa: PTH118, PTH120 -- a Path would normalize what was given

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from densenet_cli import labels
from densenet_cli.errors import EmptySourceError, UsageError
from densenet_cli.images.sources import Source, from_entry, from_object
from densenet_cli.images.walking import (
    Entry,
    SkippedFiles,
    describe_os_error,
    has_image_suffix,
    image_suffixes,
    is_folder,
    walk,
)
from densenet_cli.paths import is_url
from densenet_cli.text import plural, to_unicode

logger = logging.getLogger(__name__)

COLUMNS = ("path", "label")
"""Columns that a table must have."""

MAX_LISTED = 5
"""Names that one message lists."""


@dataclass(frozen=True, slots=True)
class LabeledSource(Source):
    """An image whose class is known.

    Attributes:
        target: Position of its class in the model's output.
    """

    target: int = -1


def _label(source: Source, target: int) -> LabeledSource:
    return LabeledSource(source.name, source.origin, source.kind, source.error, target)


class Dataset(Protocol):
    """Images with class names.

    Attributes:
        description: What the class names are, for messages: "class folders in val".
        classes: The class names, sorted.
    """

    description: str
    classes: tuple[str, ...]

    def sources(self, targets: Mapping[str, int]) -> Iterator[LabeledSource]:
        """Yield the images lazily, always in the same order.

        Args:
            targets: The target of each class name.
        """

    def warnings(self) -> list[str]:
        """Return messages about ignored images and empty classes. They are complete after ``sources``."""


class ClassFolders:
    """One folder per class, named after the class, with images at any depth: ``folder/<class>/.../<image>``.

    Args:
        folder: The folder that contains the class folders.
        suffixes: File name extensions of images, in addition to the known ones.

    Raises:
        UsageError: The folder cannot be listed or contains no class folder.
    """

    def __init__(self, folder: str, suffixes: Collection[str] = ()) -> None:
        self._folder = folder
        self._suffixes = image_suffixes(suffixes)
        self._unsorted = 0
        self._empty: list[str] = []
        name = to_unicode(folder)
        self.description = f"class folders in {name}"
        try:
            self.classes = self._list_classes()
        except NotADirectoryError:
            raise UsageError(f"{name} is not a folder. Use `csv` to read a table of paths and labels.") from None
        except OSError as error:
            raise UsageError(f"Cannot list the folder {name}: {describe_os_error(error)}") from None
        if not self.classes:
            images = f", only {plural(self._unsorted, 'image')}" if self._unsorted else ""
            raise UsageError(
                f"There are no class folders in {name}{images}. Create one folder per class, named after the class, "
                "and put its images there."
            )

    def _list_classes(self) -> tuple[str, ...]:
        classes = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if is_folder(entry):
                    classes.append(entry.name)
                elif has_image_suffix(entry.name, self._suffixes):
                    self._unsorted += 1
        return tuple(sorted(classes))

    def walk(self) -> Iterator[tuple[str, Entry]]:
        """Yield each image with the name of its class, and each empty or unlistable folder with its error."""
        skipped = 0
        for name in self.classes:
            for entry in walk(os.path.join(self._folder, name), self._suffixes):
                if isinstance(entry, SkippedFiles):
                    skipped += entry.files
                else:
                    yield name, entry
        if skipped:
            logger.info("Skipped %s without an image extension.", plural(skipped, "file"))

    def sources(self, targets: Mapping[str, int]) -> Iterator[LabeledSource]:
        """See ``Dataset``. A folder that cannot be listed is a source with an error."""
        for name, entry in self.walk():
            if isinstance(entry.error, EmptySourceError):
                self._empty.append(name)
            else:
                yield _label(from_entry(entry), targets[name])

    def warnings(self) -> list[str]:
        """See ``Dataset``."""
        warnings = []
        if self._unsorted:
            warnings.append(f"Ignored {plural(self._unsorted, 'image')} outside of class folders.")
        if self._empty:
            listed = ", ".join(map(to_unicode, self._empty[:MAX_LISTED])) + ", ..." * (len(self._empty) > MAX_LISTED)
            warnings.append(f"Ignored {plural(len(self._empty), 'class folder')} without images: {listed}.")
        return warnings


class LabelTable:
    """A CSV file with the columns ``path`` and ``label``; other columns are ignored.

    Args:
        file: The CSV file, in UTF-8. Its paths can also be http(s) URLs.
        folder: The folder that relative paths start from; None for the file's own folder.

    Raises:
        UsageError: The file cannot be read, has no rows, or lacks a column or a value.
    """

    def __init__(self, file: str, folder: str | None = None) -> None:
        name = to_unicode(file)
        self.description = f"labels in {name}"
        base = os.path.dirname(file) if folder is None else folder
        try:
            # Keep the rows, because a pipe can be read only once. Surrogates preserve paths that are not UTF-8.
            with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
                self._rows = list(_read_rows(csv.reader(stream), name, base))
        except OSError as error:
            raise UsageError(f"Cannot read {name}: {describe_os_error(error)}") from None
        except csv.Error as error:
            raise UsageError(f"{name} is not a valid CSV file: {error}.") from None
        if not self._rows:
            raise UsageError(f"{name} has no rows below its header.")
        self.classes = tuple(sorted({label for _, label in self._rows}))

    def sources(self, targets: Mapping[str, int]) -> Iterator[LabeledSource]:
        """See ``Dataset``."""
        for path, label in self._rows:
            yield _label(from_object(path), targets[label])

    def warnings(self) -> list[str]:
        """See ``Dataset``. Nothing in a table is ignored."""
        return []


def _read_rows(reader: Iterator[list[str]], name: str, base: str) -> Iterator[tuple[str, str]]:
    header = [column.strip().lower() for column in next(reader, [])]
    if missing := [column for column in COLUMNS if column not in header]:
        columns = ", ".join(repr(to_unicode(column)) for column in header[:MAX_LISTED]) or "nothing"
        raise UsageError(
            f"{name} has no column {' and no column '.join(map(repr, missing))}. The first line must be a header with "
            f"path and label. It contains {columns}."
        )
    positions = [header.index(column) for column in COLUMNS]
    interned: dict[str, str] = {}
    for number, row in enumerate(reader, start=2):
        if not row:
            continue
        path, label = (row[position].strip() if position < len(row) else "" for position in positions)
        if not path or not label:
            raise UsageError(f"Row {number:,} of {name} has no {'label' if path else 'path'}.")
        # Keep one string per class instead of one per row.
        yield path if is_url(path) else os.path.join(base, path), interned.setdefault(label, label)


@dataclass(frozen=True)
class ImageList:
    """The images in class folders, completely listed.

    Attributes:
        folder: The folder that contains the class folders.
        classes: The class names. The position of a name is its target.
        paths: Paths of the images, sorted within each class.
        targets: The target of each image.
    """

    folder: str
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    targets: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def fingerprint(self) -> str:
        """Return a hash of the classes and the paths relative to ``folder``."""
        names = [os.fsencode(os.path.relpath(path, self.folder)).hex() for path in self.paths]
        return hashlib.sha256(json.dumps([self.classes, names]).encode()).hexdigest()


def list_images(folder: str, classes: tuple[str, ...] | None = None) -> ImageList:
    """List the images in class folders for training or validation.

    Args:
        folder: The folder that contains the class folders.
        classes: The classes of the training images, if the images are for validation. Some may be missing.

    Raises:
        UsageError: There are fewer than two classes, a class has no images or is not in ``classes``, a folder
            cannot be listed, or a class name is not a valid label.
    """
    class_folders = ClassFolders(folder)
    name = to_unicode(folder)
    if classes is None:
        classes = class_folders.classes
        if len(classes) < 2:
            raise UsageError(f"There is only one class folder in {name}. Training needs at least two classes.")
    elif unknown := sorted(set(class_folders.classes) - set(classes)):
        raise UsageError(f"The class {unknown[0]!r} in {name} has no training images.")
    for class_name in class_folders.classes:
        if not labels.is_valid(class_name) or to_unicode(class_name) != class_name:
            raise UsageError(f"The class folder {class_name!r} in {name} is not a valid label. Rename it.")
    positions = {class_name: position for position, class_name in enumerate(classes)}
    paths: list[str] = []
    targets: list[int] = []
    for class_name, entry in class_folders.walk():
        if entry.error:
            raise UsageError(f"Cannot use the class folder {to_unicode(entry.path)}: {entry.error}")
        paths.append(entry.path)
        targets.append(positions[class_name])
    return ImageList(folder, classes, tuple(paths), tuple(targets))
