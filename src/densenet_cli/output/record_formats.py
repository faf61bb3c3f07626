"""The formats of record files: JSON, JSON Lines, and CSV, written record by record and read back to resume."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeAlias, TypeVar

from densenet_cli.text import escape_name

CSV_COLUMNS = ("source", "model", "rank", "index", "id", "label", "probability", "error", "notes", "set", "unsure")


class Named(Protocol):
    """A source: anything with the name that its record will have as ``source``."""

    @property
    def name(self) -> str:
        """The name of the source."""


N = TypeVar("N", bound=Named)


class Record(Protocol):
    """A result that can be written as JSON: a ``Prediction``, or an ``Explanation``. CSV needs a ``Prediction``."""

    @property
    def source(self) -> str:
        """The name of the image source."""

    def to_json(self) -> str:
        """Return one line of JSON."""


class StoredRecord(NamedTuple):
    """A record in a file, at the bytes from ``start`` to ``stop``.

    ``source`` is the escaped name, ``failed`` whether it is an error record, and ``ambiguous`` whether it may be only
    the beginning of a record.
    """

    start: int
    stop: int
    source: str
    failed: bool
    ambiguous: bool = False


Reader: TypeAlias = Callable[[BinaryIO, int, "int | None"], Iterator[StoredRecord]]
"""Called with a file after its head, the offset there, and the maximum number of rows per record (None: unknown).
It skips an incomplete record at the end, and raises ``InvalidRecordError``."""


class InvalidRecordError(Exception):
    """There is no record at ``offset``."""

    def __init__(self, offset: int) -> None:
        super().__init__(offset)
        self.offset = offset


class RecordFormat(NamedTuple):
    """How records make up a file: ``head``, the encoded records with ``separator`` between them, and ``foot``.

    ``encode`` takes a ``Prediction``; the JSON formats take anything with ``to_json``. ``read`` is None if an
    interrupted file cannot be resumed.
    """

    encode: Callable[[Any], str]
    head: str = ""
    separator: str = ""
    foot: str = ""
    read: Reader | None = None


def _read_json_lines(file: BinaryIO, start: int, _max_rows: int | None) -> Iterator[StoredRecord]:
    """Read records in JSON Lines. A line without a newline is incomplete."""
    import json

    for line in file:
        if not line.endswith(b"\n"):
            return
        try:
            record = json.loads(line)
            source = str(record["source"])
            failed = "error" in record
        except (ValueError, TypeError, KeyError, RecursionError):
            raise InvalidRecordError(start) from None
        stop = start + len(line)
        yield StoredRecord(start, stop, source if "source_bytes" in record else escape_name(source), failed)
        start = stop


def _read_csv(file: BinaryIO, start: int, max_rows: int | None) -> Iterator[StoredRecord]:
    """Read records in CSV. A record begins where the source changes or the rank does not increase.

    Its first rank can be larger than 1, because classes can have different minimum probabilities.

    The last record of an interrupted file may lack rows without a trace, because a minimum probability leaves out rows
    as well. Such a record is ambiguous.
    """
    import csv

    record: StoredRecord | None = None
    last_rank = 0  # of a row without a rank, which is a record of its own
    for line in _csv_lines(file):
        try:
            row = _parse_csv_row(line)
            source, _, column, *_, error, _, _, _ = row
            rank = int(column or 0)
        except (ValueError, csv.Error):
            raise InvalidRecordError(start) from None
        if len(row) != len(CSV_COLUMNS):
            raise InvalidRecordError(start)
        stop = start + len(line)
        if record and record.source == source and rank > last_rank > 0:
            record = record._replace(stop=stop)
        else:
            if record:
                yield record
            record = StoredRecord(start, stop, source, error != "")
        last_rank = rank
        start = stop
    if record and last_rank in (0, max_rows):
        yield record
    elif record and file.tell() == start:  # an incomplete row after it could be one of its own
        yield record._replace(ambiguous=True)


def _csv_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield complete rows. A row ends at a newline after an even number of quotes."""
    row: list[bytes] = []
    quoted = False
    for line in file:
        row.append(line)
        quoted ^= line.count(b'"') % 2 == 1
        if line.endswith(b"\n") and not quoted:
            yield b"".join(row)
            row.clear()


def _parse_csv_row(line: bytes) -> list[str]:
    import csv

    # A name may be longer than 128 KiB, the default limit of the csv module.
    limit = csv.field_size_limit(sys.maxsize)
    try:
        (row,) = csv.reader([line.decode().removesuffix("\n")], strict=True)
    finally:
        csv.field_size_limit(limit)
    return row


RECORD_FORMATS = {
    "json": RecordFormat(lambda record: record.to_json(), "[\n", ",\n", "\n]\n"),
    "jsonl": RecordFormat(lambda record: record.to_json() + "\n", read=_read_json_lines),
    "csv": RecordFormat(lambda record: record.to_csv(), ",".join(CSV_COLUMNS) + "\n", read=_read_csv),
}
"""Format name -> format. The suffix of a file is a dot and the name."""
