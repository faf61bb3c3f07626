"""Tables of images with any number of labels each, for multi-label models."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from densenet_cli.datasets.base import Dataset
from densenet_cli.datasets.tables import (
    LABEL_COLUMNS,
    PATH_COLUMNS,
    check_unicode,
    open_table,
    resolve_path,
    table_folder,
)
from densenet_cli.errors import UsageError
from densenet_cli.images.sources import Source, from_object
from densenet_cli.labels import ClassResolver, Labels, normalize
from densenet_cli.paths import PathNormalizer
from densenet_cli.storage import redact
from densenet_cli.text import join_names, plural, quote, to_unicode
from densenet_cli.textfiles import Table

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNKNOWN = -1
"""Target of a class that an image may or may not have."""

SEPARATOR = "|"
"""Between the labels in a cell."""

NO_LABEL = "no finding"
"""A normalized label that stands for no label, unless a class has this name (ChestX-ray14)."""

UNCERTAIN = -1
"""The value of a class that an annotator was not certain of (CheXpert)."""

VALUES = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "false": 0, "": 0, "-1": UNCERTAIN, "-1.0": UNCERTAIN}
"""Usual values of a class. Other ways to write these numbers are accepted, too."""


@dataclass(frozen=True, slots=True)
class MultiLabelSource(Source):
    """An image whose classes are known.

    Attributes:
        positives: Positions of its classes in the model's output.
        unknown: Positions of classes that it may or may not have. It has none of the others.
    """

    positives: frozenset[int] = frozenset()
    unknown: frozenset[int] = frozenset()

    def targets(self, classes: int) -> NDArray[np.int8]:
        """Return the targets of the image. See ``target_row``."""
        return target_row(classes, self.positives, self.unknown)


def target_row(classes: int, positives: Collection[int], unknown: Collection[int]) -> NDArray[np.int8]:
    """Return 1 for each class that an image has, ``UNKNOWN`` if that is unknown, and else 0: shape (classes,)."""
    targets = np.zeros(classes, np.int8)
    targets[list(positives)] = 1
    targets[list(unknown)] = UNKNOWN
    return targets


class MultiLabelTable:
    """A table of image paths and any number of labels each, separated by commas, semicolons, or tabs.

    It has one of two forms:

    - A column of labels. A cell contains labels separated by ``|``, or none: it is empty, or "No Finding" if no class
      has this name. An image can have several rows. It has the labels of all of them.
    - A column per class, named like the class, of 1, 0 (or nothing), and -1 for uncertain values, which are unknown.
      True and False are accepted as well. The values of classes without a column are unknown. Other columns are
      ignored.

    Args:
        file: The table. Its paths can also be http(s) URLs, and can be separated by backslashes.
        labels: The labels of the model.
        folder: The folder that relative paths start from; None for the file's own folder.
        path_column: Name of the column of paths; None to recognize it (``PATH_COLUMNS``).
        label_column: Name of the column of labels; None to recognize it (``LABEL_COLUMNS``).
        offline: See ``DatasetOptions``.

    Raises:
        UsageError: The file cannot be read or has no rows, a column is missing or ambiguous, a label or a value is
            invalid, or two rows contradict each other.
    """

    def __init__(
        self,
        file: str,
        labels: Labels,
        folder: str | None = None,
        path_column: str | None = None,
        label_column: str | None = None,
        offline: bool = False,
    ) -> None:
        self._name = to_unicode(redact(file))
        self._folder = table_folder(file, folder)
        self._labels = labels
        self._offline = offline
        self._resolver = ClassResolver(labels)
        self._normalize = PathNormalizer()
        self._rows: list[tuple[str, frozenset[int], frozenset[int]]] = []
        self._repeated = self._uncertain = 0
        self._missing: list[str] = []
        with open_table(file) as table:
            path_position = table.find_column("path", PATH_COLUMNS, path_column)
            columns = self._find_class_columns(table, path_position) if label_column is None else {}
            if columns:
                self._read_class_columns(table, path_position, columns)
            else:
                self._read_label_column(table, path_position, label_column)
        if not self._rows:
            raise UsageError(f"{self._name} has no rows below its header.")

    def _find_class_columns(self, table: Table, path_position: int) -> dict[int, int]:
        """Return the position of each column that is named like a class, and the position of the class.

        The result is empty if there is a column of labels instead.
        """
        columns: dict[int, int] = {}
        names: dict[int, str] = {}
        for position, name in enumerate(table.columns):
            if position != path_position and self._resolver.candidates(name):
                target = self._resolver.resolve(name)
                if target in names:
                    raise UsageError(
                        f"Two columns of {self._name} match one class: {quote(names[target])} and {quote(name)}."
                    )
                columns[position], names[target] = target, name
        label_columns = [name for name in table.columns if name.lower() in LABEL_COLUMNS]
        if columns and label_columns:
            first = next(iter(names.values()))
            raise UsageError(
                f"{self._name} has the column of labels {quote(label_columns[0])} and the column {quote(first)}, which "
                "is named like a class. Choose a column of labels with `label_column`, or rename it."
            )
        if not columns and not label_columns:
            listed = join_names([quote(name) for name in table.columns])
            raise UsageError(
                f"{self._name} has no label column ({', '.join(LABEL_COLUMNS)}), and no column is named like a class "
                f"of the model. Its first line contains {listed}. Set `label_column`."
            )
        return columns

    def _read_label_column(self, table: Table, path_position: int, label_column: str | None) -> None:
        label_position = table.find_column("label", LABEL_COLUMNS, label_column)
        names_of: dict[str, tuple[str, set[str]]] = {}
        split = cache(self._split)
        for number, row in table.rows():
            path, cell = self._path(row[path_position], number), row[label_position]
            check_unicode(cell, number, self._name)
            _, names = names_of.setdefault(self._normalize(path), (path, set()))
            names.update(split(unicodedata.normalize("NFC", cell)))
        all_names = sorted({name for _, names in names_of.values() for name in names})
        positions = self._resolver.resolve_all(all_names, f"labels in {self._name}")
        interned: dict[frozenset[int], frozenset[int]] = {}
        for path, names in names_of.values():
            positives = frozenset(positions[name] for name in names)
            self._rows.append((path, interned.setdefault(positives, positives), frozenset()))

    def _split(self, cell: str) -> Iterable[str]:
        """Return the labels in a cell. The name of a class can contain a separator."""
        names = [cell] if self._resolver.candidates(cell) else map(str.strip, cell.split(SEPARATOR))
        return [name for name in names if name and not self._is_no_label(name)]

    def _is_no_label(self, name: str) -> bool:
        return normalize(name) == NO_LABEL and not self._resolver.candidates(name)

    def _read_class_columns(self, table: Table, path_position: int, columns: dict[int, int]) -> None:
        absent = frozenset(range(len(self._labels))).difference(columns.values())
        self._missing = [self._labels[position].name for position in sorted(absent)]
        interned: dict[frozenset[int], frozenset[int]] = {}
        rows: dict[str, tuple[frozenset[int], frozenset[int]]] = {}
        for number, row in table.rows():
            path = self._path(row[path_position], number)
            values = {
                target: self._value(row[column], table.columns[column], number) for column, target in columns.items()
            }
            positives = frozenset(target for target, value in values.items() if value == 1)
            uncertain = frozenset(target for target, value in values.items() if value == UNCERTAIN)
            unknown = uncertain | absent
            targets = (interned.setdefault(positives, positives), interned.setdefault(unknown, unknown))
            key = self._normalize(path)
            if key not in rows:
                rows[key] = targets
                self._rows.append((path, *targets))
                self._uncertain += len(uncertain)
            elif rows[key] == targets:
                self._repeated += 1
            else:
                raise UsageError(
                    f"Line {number:,} of {self._name} contradicts an earlier line about {to_unicode(path)}. Remove one "
                    "of them."
                )

    def _value(self, text: str, column: str, line: int) -> int:
        """Return 1, 0, or ``UNCERTAIN``."""
        if text in VALUES:
            return VALUES[text]
        try:
            number = VALUES[text.lower()] if text.lower() in VALUES else float(text)
        except ValueError:
            number = math.nan
        if number not in (UNCERTAIN, 0, 1):
            raise UsageError(
                f"Line {line:,} of {self._name} has {quote(text)} in the column {quote(column)}. Use 1 for images of "
                "the class, 0 for others, or -1 if it is not certain."
            )
        return int(number)

    def _path(self, path: str, line: int) -> str:
        if not path:
            raise UsageError(f"Line {line:,} of {self._name} has no path.")
        return resolve_path(path, self._folder)

    def sources(self) -> Iterator[MultiLabelSource]:
        """Yield the images with their classes, lazily."""
        for path, positives, unknown in self._rows:
            source = from_object(path, offline=self._offline)
            yield MultiLabelSource(
                source.name, source.origin, source.kind, source.error, source.page, positives=positives, unknown=unknown
            )

    def warnings(self) -> list[str]:
        """Return sentences about what was ignored."""
        warnings = []
        if self._repeated:
            warnings.append(f"Ignored {plural(self._repeated, 'duplicate row')} (same image, same labels).")
        if self._uncertain:
            warnings.append(f"Ignored {plural(self._uncertain, 'uncertain value')} ({UNCERTAIN}).")
        if self._missing:
            classes = plural(len(self._missing), "class", "classes")
            warnings.append(f"{self._name} has no column for {classes} of the model: {join_names(self._missing)}.")
        return warnings


SIGMOID_HINT = (
    " This is an assumption, because the model's file does not state its activation. If it is a multi-label model, use "
    "`activation` sigmoid."
)


def check_single_labels(dataset: Dataset, labels: Labels, assumes_softmax: bool = False) -> None:
    """Check that the class names of a dataset for a single-label model do not stand for several classes.

    Args:
        dataset: The dataset.
        labels: The labels of the model.
        assumes_softmax: Whether the model's file does not state its activation, so that it may be a multi-label model.

    Raises:
        UsageError: A name contains several, separated by ``|``.
    """
    resolver = ClassResolver(labels)
    for name in dataset.classes:
        if SEPARATOR in name and not resolver.candidates(name):
            raise UsageError(
                f"The {dataset.description} give an image several labels ({quote(name)}), but the classes of the model "
                f"are mutually exclusive.{SIGMOID_HINT if assumes_softmax else ' Use a multi-label model.'}"
            )
