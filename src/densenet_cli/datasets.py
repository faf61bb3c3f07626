"""What to measure on: class folders, or a table of paths and labels.

Paths are strings here, as in ``images.sources``: what stands in them goes into results as it was given.
"""

# ruff: noqa: PTH118, PTH120, PTH122 -- a Path would not keep what it was given

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from typing import Protocol

from densenet_cli.errors import EmptySourceError, UsageError
from densenet_cli.images.sources import LabeledSource, from_object, is_url
from densenet_cli.images.walking import SUFFIXES, Found, Skipped, explain, walk
from densenet_cli.text import to_unicode

COLUMNS = ("path", "label")


class Collection(Protocol):
    """Images whose classes are known by name.

    Attributes:
        what: what the class names are, for a sentence: "class folders of val".
        classes: the names of the classes.
    """

    what: str
    classes: tuple[str, ...]

    def examples(self, positions: Mapping[str, int]) -> Iterator[LabeledSource]:
        """The images, lazily and always in the same order; ``positions`` says where each class is in the head."""

    def remarks(self) -> Iterator[str]:
        """Sentences on what was left out; whole once the examples were walked."""


class ClassFolders:
    """``folder/<class>/``, images at any depth below each.

    Raises ``UsageError`` if there is no such folder or no class folder in it.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._outside = 0
        self._skipped = 0
        self._empty: list[str] = []
        name = to_unicode(folder)
        self.what = f"class folders of {name}"
        try:
            self.classes = self._list()
        except NotADirectoryError:
            raise UsageError(f"{name} is no folder; a table of paths and labels is given by --csv.") from None
        except OSError as error:
            raise UsageError(f"The folder {name} can't be listed: {explain(error)}") from None
        if not self.classes:
            images = f", only {_count(self._outside, 'image')}" if self._outside else ""
            raise UsageError(
                f"{name} has no class folder in it{images}. It should hold a folder for each class, "
                "called by the class's name, with its images in it."
            )

    def _list(self) -> tuple[str, ...]:
        names = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry):
                    names.append(entry.name)
                elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                    self._outside += 1
        return tuple(sorted(names))

    def examples(self, positions: Mapping[str, int]) -> Iterator[LabeledSource]:
        """See ``Collection``. A folder that can't be listed is an example that fails."""
        for name in self.classes:
            for found in walk(os.path.join(self._folder, name)):
                if isinstance(found, Skipped):
                    self._skipped += found.files
                elif isinstance(found.error, EmptySourceError):
                    self._empty.append(name)
                else:
                    yield _source(found, positions[name])

    def remarks(self) -> Iterator[str]:
        """See ``Collection``."""
        if self._outside:
            yield f"{_count(self._outside, 'image')} outside the class folders left out."
        if self._skipped:
            yield f"{_count(self._skipped, 'file')} in folders passed over: no image suffix."
        if self._empty:
            some = ", ".join(map(to_unicode, self._empty[:5])) + (", ..." if len(self._empty) > 5 else "")
            yield f"{_count(len(self._empty), 'class folder')} without an image: {some}."


class Table:
    """A CSV file with the columns ``path`` and ``label`` among others.

    Args:
        file: the CSV file, UTF-8.
        folder: what relative paths start from; the file's own folder when None. A path may also be an http(s) URL.

    Raises ``UsageError`` for a file that can't be read, lacks a column, a value, or any row.
    """

    def __init__(self, file: str, folder: str | None = None) -> None:
        name = to_unicode(file)
        self.what = f"labels in {name}"
        base = os.path.dirname(file) if folder is None else folder
        try:
            # A pipe can be read once only, so the rows are kept; surrogates keep a path's bytes whatever they are.
            with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
                self._rows = list(_rows(csv.reader(stream), name, base))
        except OSError as error:
            raise UsageError(f"{name} can't be read: {explain(error)}") from None
        except csv.Error as error:
            raise UsageError(f"{name} is no CSV file: {error}.") from None
        if not self._rows:
            raise UsageError(f"{name} has no row below its header.")
        self.classes = tuple(sorted({label for _, label in self._rows}))

    def examples(self, positions: Mapping[str, int]) -> Iterator[LabeledSource]:
        """See ``Collection``."""
        for path, label in self._rows:
            source = from_object(path)
            yield LabeledSource(source.name, source.origin, source.kind, target=positions[label])

    def remarks(self) -> Iterator[str]:
        """See ``Collection``: nothing is left out of a table."""
        yield from ()


def _rows(reader: Iterator[list[str]], name: str, base: str) -> Iterator[tuple[str, str]]:
    header = [column.strip().lower() for column in next(reader, [])]
    if missing := [column for column in COLUMNS if column not in header]:
        first = ", ".join(repr(to_unicode(column)) for column in header[:5]) or "nothing"
        raise UsageError(
            f"{name} has no column {' and none '.join(map(repr, missing))}: its first line must be a header "
            f"with path and label in it; it has {first}."
        )
    places = [header.index(column) for column in COLUMNS]
    known: dict[str, str] = {}
    for number, row in enumerate(reader, start=2):
        if not row:
            continue
        path, label = (row[place].strip() if place < len(row) else "" for place in places)
        if not path or not label:
            raise UsageError(f"Row {number:,} of {name} has no {'label' if path else 'path'}.")
        # One string a class and not one a row.
        yield path if is_url(path) else os.path.join(base, path), known.setdefault(label, label)


def _source(found: Found, target: int) -> LabeledSource:
    return LabeledSource(found.path, found.path, "nothing" if found.error else "path", found.error, target)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
