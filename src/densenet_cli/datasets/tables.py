"""Tables of image paths and labels."""

# ruff: noqa: PTH118, PTH120 -- a Path would normalize what was given

from __future__ import annotations

import io
import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from densenet_cli.datasets.base import Dataset
from densenet_cli.errors import ImageError, UsageError
from densenet_cli.images.sources import Source, from_object
from densenet_cli.images.walking import describe_os_error
from densenet_cli.paths import PathNormalizer, is_remote, is_url, local_path
from densenet_cli.storage import join, read, redact
from densenet_cli.text import plural, quote, to_unicode
from densenet_cli.textfiles import Table, read_lines

PATH_COLUMNS = ("path", "filename", "file_name", "filepath", "file_path", "file", "image", "image_path", "image index")
LABEL_COLUMNS = ("label", "class", "class_name", "category", "labels", "finding labels")
"""Recognized column names of a table. The first one is preferred."""


MAX_TABLE_BYTES = 1 << 30
"""Largest table in object storage, which is held in memory."""


@contextmanager
def open_table(file: str) -> Iterator[Table]:
    """Open a table. Raises ``UsageError`` if the file cannot be read, in the block too."""
    if is_remote(file):
        yield Table(read_lines(io.BytesIO(_download(file))), to_unicode(redact(file)))
        return
    name = to_unicode(file)
    try:
        with Path(file).open("rb") as stream:
            yield Table(read_lines(stream), name)
    except OSError as error:
        raise UsageError(f"Cannot read {name}: {describe_os_error(error)}") from None


def _download(url: str) -> bytes:
    try:
        data = read(url, MAX_TABLE_BYTES)
    except ImageError as error:
        raise UsageError(f"Cannot read {redact(url)}: {error}") from None
    if len(data) > MAX_TABLE_BYTES:
        raise UsageError(f"{redact(url)} is longer than the limit of {MAX_TABLE_BYTES >> 20} MiB. Download it first.")
    return data


def table_folder(file: str, folder: str | None) -> str:
    """Return the folder that relative paths of a table start from."""
    return os.path.dirname(file) if folder is None else folder


def check_unicode(label: str, line: int, name: str) -> None:
    """Check that a cell of a table is UTF-8 text. Raises ``UsageError``."""
    if label != to_unicode(label):
        raise UsageError(f"Line {line:,} of {name} is not UTF-8 text. Save the file as UTF-8.")


class LabelTable(Dataset):
    """A table of paths and labels, separated by commas, semicolons, or tabs. Other columns are ignored.

    An image that is listed more than once counts once.

    Args:
        file: The table. Its paths can also be URLs, and can be separated by backslashes.
        folder: The folder that relative paths start from; None for the file's own folder.
        path_column: Name of the column of paths; None to recognize it (``PATH_COLUMNS``).
        label_column: Name of the column of labels; None to recognize it (``LABEL_COLUMNS``).
        offline: See ``DatasetOptions``.

    Raises:
        UsageError: The file cannot be read or has no rows, a column is missing or ambiguous, a row lacks a value, or
            an image has two labels.
    """

    def __init__(
        self,
        file: str,
        folder: str | None = None,
        path_column: str | None = None,
        label_column: str | None = None,
        offline: bool = False,
    ) -> None:
        name = to_unicode(redact(file))
        self.description = f"labels in {name}"
        self.folder = table_folder(file, folder)
        self._offline = offline
        self._repeated = 0
        # Path and label. The rows are kept because a pipe can be read only once.
        self._rows: list[tuple[str, str]] = []
        with open_table(file) as table:
            self._read(table, name, path_column, label_column)
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
            check_unicode(label, number, name)
            path = resolve_path(path, self.folder)
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
                    f"Line {number:,} of {name} labels {to_unicode(path)} as {quote(label)}, but an earlier line "
                    f"labels it as {quote(labels[key])}."
                )

    def images(self) -> Iterator[tuple[str, Source]]:
        """See ``Dataset``."""
        for path, label in self._rows:
            yield label, from_object(path, offline=self._offline)

    def warnings(self) -> list[str]:
        """See ``Dataset``."""
        if not self._repeated:
            return []
        return [f"Ignored {plural(self._repeated, 'duplicate row')} (same image, same label)."]


def resolve_path(path: str, folder: str) -> str:
    """Return a path of a table, whose separators may be backslashes, relative to ``folder``."""
    if is_url(path) or is_remote(path):
        return path
    if is_remote(folder):
        return join(folder, *path.replace("\\", "/").split("/")) if not path.startswith("/") else path
    path = local_path(path)
    joined = os.path.join(folder, path)
    if "\\" in path and not os.path.lexists(joined):  # The table may have been written on Windows.
        other = os.path.join(folder, path.replace("\\", "/"))
        return other if os.path.lexists(other) else joined
    return joined
