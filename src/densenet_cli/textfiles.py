"""Text files from users: lists and tables, in UTF-8 or UTF-16, with any line endings.

A byte order mark decides the encoding; without one, it is UTF-8. Lines end with LF, CR, or CRLF.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from densenet_cli._types import PathLike
from densenet_cli.errors import UsageError
from densenet_cli.text import quote, to_unicode

BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}

CHUNK_SIZE = 1 << 16

MAX_SIZE = 8 << 20
"""Maximum size in bytes of a file that is read as a whole."""

DELIMITERS = (",", ";", "\t")

DELIMITER_LINE = re.compile(r'(?P<quote>"?)sep=(?P<delimiter>[,;\t|])(?P=quote)[,;\t|]*', re.IGNORECASE)

MAX_LISTED = 8
"""Maximum number of columns that a message lists."""


def read_text(path: PathLike) -> str:
    r"""Return the text of a file, with ``\n`` as line ending.

    Raises:
        UsageError: The file cannot be read, has more than ``MAX_SIZE`` bytes, or is not text.
    """
    name = to_unicode(str(path))
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise UsageError(f"Cannot read {name}: {error.strerror}.") from None
    if len(data) > MAX_SIZE:
        raise UsageError(f"{name} is larger than {MAX_SIZE >> 20} MiB.")
    encoding, start = _find_encoding(data)
    try:
        text = data[start:].decode(encoding)
    except UnicodeError:
        raise UsageError(f"{name} is not {encoding.upper()} text. Save it as UTF-8.") from None
    if "\0" in text:
        raise UsageError(f"{name} contains null bytes, so it is not text. Save it as UTF-8.")
    return re.sub(r"\r\n?", "\n", text)


def read_lines(file: IO[bytes]) -> Iterator[str]:
    """Yield the lines of a binary stream without their ends, each as soon as it is complete.

    Bytes that are not UTF-8 become surrogate escapes, because paths can contain any bytes. Invalid UTF-16 becomes
    U+FFFD.
    """
    rest = ""
    ended_with_cr = False
    for text in _decode(file):
        if ended_with_cr and text[0] == "\n":
            text = text[1:]
        ended_with_cr = text.endswith("\r")
        *lines, rest = re.split(r"\r\n?|\n", rest + text)
        yield from lines
    if rest:
        yield rest


def read_chunks(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the contents of a binary stream in chunks, as soon as they arrive."""
    read = getattr(file, "read1", file.read)
    while chunk := read(CHUNK_SIZE):
        yield chunk


def read_null_terminated(file: IO[bytes]) -> Iterator[str]:
    """Yield the strings in a binary stream that NUL terminates. They are the bytes of paths."""
    rest = b""
    for chunk in read_chunks(file):
        *items, rest = (rest + chunk).split(b"\0")
        yield from map(os.fsdecode, items)
    yield os.fsdecode(rest)


def check_text(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a list. Raise ``UsageError`` if the first one contains NUL, so that the file is none."""
    for number, line in enumerate(lines):
        if "\0" in line and not number:
            raise UsageError("The list contains NUL characters. If they separate the names, use `null`.")
        yield line


def _decode(file: IO[bytes]) -> Iterator[str]:
    """Yield pieces of text, none of them empty, as soon as they arrive."""
    decoder: codecs.IncrementalDecoder | None = None
    start = b""
    for chunk in read_chunks(file):
        if decoder is None:
            start += chunk
            if any(mark.startswith(start) and mark != start for mark in BYTE_ORDER_MARKS):
                continue  # The stream may begin with a mark that has not arrived completely.
            decoder, chunk = _create_decoder(start)
        if text := decoder.decode(chunk):
            yield text
    if decoder is None:
        decoder, start = _create_decoder(start)
    else:
        start = b""
    if text := decoder.decode(start, final=True):
        yield text


def _create_decoder(start: bytes) -> tuple[codecs.IncrementalDecoder, bytes]:
    """Return a decoder for a stream that begins with ``start``, and ``start`` without its byte order mark."""
    encoding, length = _find_encoding(start)
    errors = "surrogateescape" if encoding == "utf-8" else "replace"
    return codecs.getincrementaldecoder(encoding)(errors), start[length:]


def _find_encoding(data: bytes) -> tuple[str, int]:
    """Return the encoding of data and the length of its byte order mark."""
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            return encoding, len(mark)
    return "utf-8", 0


class Table:
    """A table with a header. Its delimiter is the one of ``DELIMITERS`` that occurs most often in the header.

    Excel's first line ``sep=;`` names the delimiter.

    Args:
        lines: The lines of the file. Blank ones are ignored.
        name: The name of the file, for messages.

    Attributes:
        columns: The column names, as written.

    Raises:
        UsageError: The header is not valid CSV.
    """

    def __init__(self, lines: Iterable[str], name: str) -> None:
        self._name = name
        self._lines = self._count(lines)
        self._line = 0
        header = next(filter(str.strip, self._lines), "")
        if match := DELIMITER_LINE.fullmatch(header):
            self._delimiter = match["delimiter"]
            header = next(filter(str.strip, self._lines), "")
        else:
            self._delimiter = max(DELIMITERS, key=header.count)
        if "\0" in header:
            raise UsageError(f"{name} contains null bytes, so it is not text. Save it as UTF-8.")
        self.columns: tuple[str, ...] = next(self._parse([header]), ())

    def _count(self, lines: Iterable[str]) -> Iterator[str]:
        for self._line, line in enumerate(lines, start=1):
            yield line

    def _parse(self, lines: Iterable[str]) -> Iterator[tuple[str, ...]]:
        import csv

        reader = csv.reader((f"{line}\n" for line in lines), delimiter=self._delimiter, strict=True)
        try:
            for row in reader:
                yield tuple(field.strip() for field in row)
        except csv.Error as error:
            raise UsageError(f"{self._name} is not a valid CSV file: line {self._line:,}: {error}.") from None

    def rows(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Yield the line number and the fields of each row, as many fields as there are columns.

        Raises:
            UsageError: A row is not valid CSV or has more fields than the header.
        """
        size = len(self.columns)
        for row in self._parse(self._lines):
            if any(row[size:]):
                raise UsageError(
                    f"Line {self._line:,} of {self._name} has {len(row)} fields, but the header has {size}. Quote "
                    f"fields that contain {self._delimiter!r}."
                )
            if any(row):
                yield self._line, row[:size] + ("",) * (size - len(row))

    def find_column(self, kind: str, names: Sequence[str], given: str | None = None, has_parameter: bool = True) -> int:
        """Return the position of a column. Case is ignored.

        Args:
            kind: What the column contains.
            names: The recognized names of such a column. If the table has several of them, the first is preferred.
            given: The only accepted name, instead of ``names``.
            has_parameter: Whether users can set ``given``, with the parameter ``<kind>_column``. Messages then say so.

        Raises:
            UsageError: There is no such column, or more than one.
        """
        columns = [column.lower() for column in self.columns]
        names = names if given is None else [given.strip().lower()]
        is_preferred = names[0] in columns
        found = [position for position, name in enumerate(columns) if name in (names[:1] if is_preferred else names)]
        if len(found) == 1:
            return found[0]
        listed = ", ".join(quote(column) for column in self.columns[:MAX_LISTED]) or "nothing"
        listed += ", ..." * (len(columns) > MAX_LISTED)
        if found:
            same = " and ".join(quote(self.columns[position]) for position in found)
            hint = f"Choose one with `{kind}_column`." if has_parameter and not is_preferred else "Rename one of them."
            raise UsageError(f"{self._name} has {len(found)} {kind} columns: {same}. {hint}")
        wanted = f"column {quote(given)}" if given is not None else f"{kind} column ({', '.join(names)})"
        hint = f" Set `{kind}_column`." if has_parameter and given is None else ""
        raise UsageError(f"{self._name} has no {wanted}. Its first line contains {listed}.{hint}")
