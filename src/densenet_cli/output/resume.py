"""What an interrupted file of records holds: which sources are done, and which bytes are kept.

Half a record at the end is not kept. A line of JSON is half where its line break is missing. In CSV some of an image's
rows can be missing without a trace, because ``--min-prob`` leaves out rows too; such a last record is the doubtful one.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from densenet_cli.errors import OutputError
from densenet_cli.results import CSV_COLUMNS, FORMATS
from densenet_cli.text import escape_name


@dataclass(slots=True)
class Survey:
    """What to keep of a file of records.

    Attributes:
        ranges: the bytes kept, as (start, stop), in order and apart from one another.
        done: hash of a source's escaped name -> number of its records kept. (A hundred thousand take some 10 MB;
            that two names share one of 2**64 hashes is no more likely than 1 in 10**9.)
        retried: the same of the error records dropped.
        errors: number of error records kept.
        doubtful: the last record, if it looks whole and may yet be half of one; it is in none of the others.
    """

    ranges: list[tuple[int, int]] = field(default_factory=list)
    done: dict[int, int] = field(default_factory=dict)
    retried: dict[int, int] = field(default_factory=dict)
    errors: int = 0
    doubtful: Record | None = None

    @property
    def size(self) -> int:
        """Number of bytes kept."""
        return sum(stop - start for start, stop in self.ranges)

    def keep(self, start: int, stop: int) -> None:
        """Keep bytes behind the others."""
        if self.ranges and self.ranges[-1][1] == start:
            start = self.ranges.pop()[0]
        if start < stop:
            self.ranges.append((start, stop))


class Record(NamedTuple):
    """A record in the file, its bytes from ``start`` up to ``stop``; ``source`` is the escaped name."""

    start: int
    stop: int
    source: str
    failed: bool
    doubtful: bool = False

    @property
    def key(self) -> int:
        """What ``Survey`` counts it under."""
        return hash(self.source)


def survey(file: BinaryIO, name: str, format_name: str, *, top_k: int | None, retry_errors: bool) -> Survey:
    """Read a file of records from its beginning.

    Args:
        file: at its beginning.
        name: what messages call it.
        format_name: a key of ``FORMATS``.
        top_k: the most rows that a record in CSV has, if that is known.
        retry_errors: leave out the error records.

    Raises OutputError where anything but the end of the file is no record: it is then no file of ours, or damaged.
    """
    found = Survey()
    head = FORMATS[format_name].head.encode()
    start = file.read(len(head))
    if start != head:
        if head.startswith(start):
            return found
        raise OutputError(
            f"{name} does not begin as this version's .{format_name} files do; start anew with --overwrite."
        )
    found.keep(0, len(head))
    try:
        for record in _READERS[format_name](file, len(head), top_k):
            if record.doubtful:
                found.doubtful = record
            elif record.failed and retry_errors:
                found.retried[record.key] = found.retried.get(record.key, 0) + 1
            else:
                found.keep(record.start, record.stop)
                found.done[record.key] = found.done.get(record.key, 0) + 1
                found.errors += record.failed
    except _NotARecord as error:
        raise OutputError(
            f"{name} is damaged: there is no record at byte {error.args[0]}; start anew with --overwrite."
        ) from None
    return found


class _NotARecord(Exception):
    """The byte where one should begin."""


def _json_lines(file: BinaryIO, start: int, _top_k: int | None) -> Iterator[Record]:
    for line in file:
        if not line.endswith(b"\n"):
            return
        try:
            record = json.loads(line)
            source = str(record["source"])
            failed = "error" in record
        except (ValueError, TypeError, KeyError, RecursionError):
            raise _NotARecord(start) from None
        stop = start + len(line)
        yield Record(start, stop, source if "source_bytes" in record else escape_name(source), failed)
        start = stop


def _csv_row(line: bytes) -> list[str]:
    """One row's fields; a name may be longer than the 128 KiB that csv takes by itself."""
    usual = csv.field_size_limit(sys.maxsize)
    try:
        (row,) = csv.reader([line.decode().removesuffix("\n")], strict=True)
    finally:
        csv.field_size_limit(usual)
    return row


def _csv_records(file: BinaryIO, start: int, top_k: int | None) -> Iterator[Record]:
    """A record begins at each row whose rank is 1, or that has none."""
    record: Record | None = None
    last = ""
    for line in _csv_lines(file):
        try:
            row = _csv_row(line)
            source, _, rank, *_, error = row
        except (ValueError, csv.Error):
            raise _NotARecord(start) from None
        if len(row) != len(CSV_COLUMNS) or not (last or rank in ("", "1")):
            raise _NotARecord(start)
        stop = start + len(line)
        if rank in ("", "1"):
            if record:
                yield record
            record = Record(start, stop, source, error != "")
        elif record:
            record = record._replace(stop=stop)
        last = rank
        start = stop
    if record and last in ("", str(top_k)):
        yield record
    elif record and file.tell() == start:  # no half row behind it, which could be one of its own
        yield record._replace(doubtful=True)


def _csv_lines(file: BinaryIO) -> Iterator[bytes]:
    """Whole rows: up to a line break outside quotes, which is one behind an even number of quotes."""
    row: list[bytes] = []
    quoted = False
    for line in file:
        row.append(line)
        quoted ^= line.count(b'"') % 2 == 1
        if line.endswith(b"\n") and not quoted:
            yield b"".join(row)
            row.clear()


_READERS = {"jsonl": _json_lines, "csv": _csv_records}
