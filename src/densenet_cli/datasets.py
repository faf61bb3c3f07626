"""Labeled images: class folders, and tables of paths and labels. Evaluation and training share these readers.

Paths are strings, as in ``images.sources``, because results contain them exactly as they were given.
"""

# ruff: noqa: PTH118, PTH120 -- a Path would normalize what was given

from __future__ import annotations

import os
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from densenet_cli.errors import EmptySourceError, UsageError
from densenet_cli.images.sources import Source, from_entry, from_object, local_path
from densenet_cli.images.walking import (
    SkippedFiles,
    describe_os_error,
    has_image_suffix,
    image_suffixes,
    is_folder,
    is_ignored,
    walk,
)
from densenet_cli.paths import PathNormalizer, is_url
from densenet_cli.text import join_names, plural, to_unicode
from densenet_cli.textfiles import Table, read_lines

PATH_COLUMNS = ("path", "filename", "file_name", "filepath", "file_path", "file", "image", "image_path")
LABEL_COLUMNS = ("label", "class", "class_name", "category")
"""Recognized column names of a table. The first one is preferred."""

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Recognized folder names of a dataset that is already split, in lower case."""


@dataclass(frozen=True, slots=True)
class LabeledSource(Source):
    """An image whose class is known.

    Attributes:
        target: Position of its class in the model's output.
    """

    target: int = -1


class DatasetOptions(NamedTuple):
    """How to read a dataset.

    Attributes:
        suffixes: File name extensions of images in class folders, in addition to the known ones.
        path_column: Name of a table's column of paths; None to recognize it.
        label_column: Name of a table's column of labels; None to recognize it.
    """

    suffixes: tuple[str, ...] = ()
    path_column: str | None = None
    label_column: str | None = None


class Dataset(ABC):
    """Images with class names.

    Attributes:
        folder: The folder that paths start from.
        description: What the class names are, for messages, such as "class folders in val".
        classes: The class names, sorted.
    """

    folder: str
    description: str
    classes: tuple[str, ...]

    @abstractmethod
    def images(self) -> Iterator[tuple[str, Source]]:
        """Yield the class name of each image and the image lazily, always in the same order."""

    @abstractmethod
    def warnings(self) -> list[str]:
        """Return sentences about what was ignored. They are complete after ``images``."""

    def sources(self, targets: Mapping[str, int]) -> Iterator[LabeledSource]:
        """Yield the images with their targets.

        Args:
            targets: The target of each class name.
        """
        for name, source in self.images():
            yield LabeledSource(
                source.name, source.origin, source.kind, source.error, source.page, target=targets[name]
            )


def open_dataset(folder: str | None, csv: str | None, options: DatasetOptions | None = None) -> Dataset:
    """Open class folders, or a table if ``csv`` is given, whose relative paths then start from ``folder``.

    Raises:
        UsageError: Neither is given, the folder is already split (see ``find_splits``), or it cannot be used (see
            ``ClassFolders`` and ``LabelTable``).
    """
    options = options or DatasetOptions()
    if csv is not None:
        return LabelTable(csv, folder, options.path_column, options.label_column)
    if folder is None:
        raise UsageError("No images given. Pass a `folder` that contains class folders, or use `csv`.")
    if splits := find_splits(folder, options.suffixes):
        paths = [to_unicode(path) for path in splits.values()]
        raise UsageError(f"{to_unicode(folder)} is already split into {join_names(paths)}. Use one of them.")
    return ClassFolders(folder, options.suffixes)


class ClassFolders(Dataset):
    """One folder per class, named after the class, with images at any depth: ``folder/<class>/.../<image>``.

    A folder without images is not a class, and neither are hidden folders and system folders.

    Args:
        folder: The folder that contains the class folders.
        suffixes: File name extensions of images, in addition to the known ones.

    Raises:
        UsageError: The folder cannot be listed or contains no class folder.
    """

    def __init__(self, folder: str, suffixes: Collection[str] = ()) -> None:
        self.folder = folder
        self._suffixes = image_suffixes(suffixes)
        self._unsorted = 0
        self._system_folders = 0
        self._skipped = SkippedFiles(0)
        self._empty: list[str] = []
        name = to_unicode(folder)
        self.description = f"class folders in {name}"
        try:
            self.classes = tuple(filter(self._has_images, self._list_folders()))
        except NotADirectoryError:
            raise UsageError(f"{name} is not a folder. Use `csv` to read a table of paths and labels.") from None
        except OSError as error:
            raise UsageError(f"Cannot list the folder {name}: {describe_os_error(error)}") from None
        if not self.classes:
            images = f", only {plural(self._unsorted, 'image')}" if self._unsorted else ""
            raise UsageError(
                f"There are no class folders with images in {name}{images}. Create one folder per class, named after "
                "the class, and put its images there."
            )

    def _list_folders(self) -> list[str]:
        folders = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                is_subfolder = is_folder(entry)
                if is_ignored(entry.name):
                    self._system_folders += is_subfolder and not entry.name.startswith(".")
                elif is_subfolder:
                    folders.append(entry.name)
                elif has_image_suffix(entry.name, self._suffixes):
                    self._unsorted += 1
        return sorted(folders)

    def _has_images(self, name: str) -> bool:
        first = next(walk(os.path.join(self.folder, name), self._suffixes))
        if not isinstance(first, SkippedFiles) and isinstance(first.error, EmptySourceError):
            self._empty.append(name)
            return False
        return True

    def images(self) -> Iterator[tuple[str, Source]]:
        """See ``Dataset``. A folder that cannot be listed is a source with an error."""
        self._skipped = SkippedFiles(0, self._system_folders)
        for name in self.classes:
            for entry in walk(os.path.join(self.folder, name), self._suffixes):
                if isinstance(entry, SkippedFiles):
                    self._skipped = self._skipped.plus(entry)
                else:
                    yield name, from_entry(entry)

    def warnings(self) -> list[str]:
        """See ``Dataset``."""
        warnings = []
        if self._unsorted:
            warnings.append(f"Ignored {plural(self._unsorted, 'image')} outside of class folders.")
        if self._empty:
            folders = plural(len(self._empty), "class folder")
            warnings.append(f"Ignored {folders} without images: {join_names(self._empty)}.")
        if any(self._skipped):
            warnings.append(str(self._skipped))
        common = self._common_folders()
        if len(self.classes) > 1 and len(common) > 1:
            warnings.append(
                f"Warning: All class folders ({join_names(self.classes)}) contain the folders "
                f"{join_names(common)}. If those are the classes, use one of the class folders instead of "
                f"{to_unicode(self.folder)}."
            )
        return warnings

    def _common_folders(self) -> list[str]:
        """Return the names of the folders that all class folders contain."""
        common: set[str] | None = None
        for name in self.classes:
            folders = _list_folders(os.path.join(self.folder, name))
            common = common.intersection(folders) if common is not None else set(folders)
            if not common:
                break
        return sorted(common or ())


class LabelTable(Dataset):
    """A table of paths and labels, separated by commas, semicolons, or tabs. Other columns are ignored.

    An image that is listed more than once counts once.

    Args:
        file: The table. Its paths can also be http(s) URLs, and can be separated by backslashes.
        folder: The folder that relative paths start from; None for the file's own folder.
        path_column: Name of the column of paths; None to recognize it (``PATH_COLUMNS``).
        label_column: Name of the column of labels; None to recognize it (``LABEL_COLUMNS``).

    Raises:
        UsageError: The file cannot be read or has no rows, a column is missing or ambiguous, a row lacks a value, or
            an image has two labels.
    """

    def __init__(
        self, file: str, folder: str | None = None, path_column: str | None = None, label_column: str | None = None
    ) -> None:
        name = to_unicode(file)
        self.description = f"labels in {name}"
        self.folder = os.path.dirname(file) if folder is None else folder
        self._repeated = 0
        # Path and label. The rows are kept because a pipe can be read only once.
        self._rows: list[tuple[str, str]] = []
        try:
            with Path(file).open("rb") as stream:
                self._read(Table(read_lines(stream), name), name, path_column, label_column)
        except OSError as error:
            raise UsageError(f"Cannot read {name}: {describe_os_error(error)}") from None
        if not self._rows:
            raise UsageError(f"{name} has no rows below its header.")
        self.classes = tuple(sorted({label for _, label in self._rows}))

    def _read(self, table: Table, name: str, path_column: str | None, label_column: str | None) -> None:
        path_position = table.find_column("path", PATH_COLUMNS, path_column)
        label_position = table.find_column("label", LABEL_COLUMNS, label_column)
        normalize = PathNormalizer()
        labels: dict[str, str] = {}
        interned: dict[str, str] = {}
        for number, row in table.rows():
            path, label = row[path_position], row[label_position]
            if not path or not label:
                raise UsageError(f"Line {number:,} of {name} has no {'label' if path else 'path'}.")
            if label != to_unicode(label):
                raise UsageError(f"Line {number:,} of {name} is not UTF-8 text. Save the file as UTF-8.")
            path = _resolve_path(path, self.folder)
            # Keep one string per class instead of one per row.
            label = interned.setdefault(label, unicodedata.normalize("NFC", label))
            key = normalize(path)
            if key not in labels:
                labels[key] = label
                self._rows.append((path, label))
            elif labels[key] == label:
                self._repeated += 1
            else:
                raise UsageError(
                    f"Line {number:,} of {name} labels {to_unicode(path)} as {label!r}, but an earlier line labels it "
                    f"as {labels[key]!r}."
                )

    def images(self) -> Iterator[tuple[str, Source]]:
        """See ``Dataset``."""
        for path, label in self._rows:
            yield label, from_object(path)

    def warnings(self) -> list[str]:
        """See ``Dataset``."""
        if not self._repeated:
            return []
        return [f"Ignored {plural(self._repeated, 'duplicate row')} (same image, same label)."]


def _resolve_path(path: str, folder: str) -> str:
    if is_url(path):
        return path
    path = local_path(path)
    joined = os.path.join(folder, path)
    if "\\" in path and not os.path.lexists(joined):  # The table may have been written on Windows.
        other = os.path.join(folder, path.replace("\\", "/"))
        return other if os.path.lexists(other) else joined
    return joined


def find_splits(folder: str, suffixes: Collection[str] = ()) -> dict[str, str]:
    """Return the folders of a dataset that is already split, as a mapping of "train", "val", or "test" to a path.

    A folder is split if all folders with images in it have names in ``SPLITS``, and one of them contains folders.
    Otherwise, the result is empty.

    Raises:
        UsageError: There are split folders and other class folders, two folders for one split, or several split
            folders without class folders.
    """
    split_of = {name: split for split, names in SPLITS.items() for name in names}
    names = [name for name in _list_folders(folder) if name.lower() in split_of]
    if not names:
        return {}
    classes = ClassFolders(folder, suffixes).classes
    others = [name for name in classes if name not in names]
    names = [name for name in classes if name in names]
    has_classes = any(_list_folders(os.path.join(folder, name)) for name in names)
    if len(names) < 2 and (others or not has_classes):
        return {}
    listed = f"{to_unicode(folder)} contains the folders {join_names(names)}"
    if others:
        if not has_classes:
            return {}
        raise UsageError(f"{listed}, but also {join_names(others)}. Use the folder that contains the class folders.")
    if not has_classes:
        raise UsageError(f"{listed}, which contain no class folders. Create one per class, named after the class.")
    splits: dict[str, str] = {}
    for name in names:
        if splits.setdefault(split_of[name.lower()], path := os.path.join(folder, name)) != path:
            raise UsageError(f"{listed}. Use one of them.")
    return {split: splits[split] for split in SPLITS if split in splits}


def _list_folders(folder: str) -> list[str]:
    """Return the subfolders that can be classes, or none if the folder cannot be listed, which is reported later."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if is_folder(entry) and not is_ignored(entry.name)]
    except OSError:
        return []
