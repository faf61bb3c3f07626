"""Records in the formats of part files: Parquet, JSON Lines, and CSV.

The columns and fields are those of ``docs/reference/output.md``. All parts have the same schema, whatever they contain.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeAlias

from densenet_cli.output.record_formats import RECORD_FORMATS
from densenet_cli.results import Embedding, Prediction
from densenet_cli.text import csv_line, escape_name, json_line, shortest_float, source_fields, to_unicode

if TYPE_CHECKING:
    import pyarrow

Record: TypeAlias = Prediction | Embedding

PARQUET_ROWS = 4096
"""Rows of a row group, which are in memory at the same time."""

VECTOR_COLUMNS = ("source", "model", "vector", "error", "notes")
"""Columns of embeddings in CSV. A vector is numbers separated by spaces."""

_NOTES = ("truncated", "narrow_range", "more_pages")


def prediction_schema() -> pyarrow.Schema:
    """Return the Arrow schema of predictions."""
    import pyarrow

    text = pyarrow.string()
    scores = pyarrow.list_(
        pyarrow.struct(
            {
                "rank": pyarrow.int32(),
                "index": pyarrow.int32(),
                "id": text,
                "label": text,
                "probability": pyarrow.float32(),
            }
        )
    )
    return _schema({"predictions": scores, "set": scores, "unsure": pyarrow.bool_()})


def embedding_schema(width: int) -> pyarrow.Schema:
    """Return the Arrow schema of embeddings of a length."""
    import pyarrow

    return _schema({"vector": pyarrow.list_(pyarrow.float32(), width)})


def _schema(values: dict[str, pyarrow.DataType]) -> pyarrow.Schema:
    import pyarrow

    text = pyarrow.string()
    return pyarrow.schema(
        {
            "source": text,
            "source_bytes": text,
            "model": text,
            **values,
            **dict.fromkeys(_NOTES, pyarrow.bool_()),
            "error": pyarrow.struct({"type": text, "message": text}),
        }
    )


def to_columns(record: Record) -> dict[str, Any]:
    """Return the fields of a record. Those that it lacks are missing. A vector is an array."""
    if isinstance(record, Prediction):
        return record.to_dict()
    fields = {**source_fields(record.source), "model": to_unicode(record.model)}
    if record.error is not None:
        fields["error"] = record.error.to_dict()
    else:
        fields["vector"] = record.vector
    return {**fields, **dict.fromkeys(record.notes, True)}


def to_table(records: Iterable[Record], schema: pyarrow.Schema) -> pyarrow.Table:
    """Return records as a table with a schema. Fields that a record lacks are null."""
    import pyarrow

    return pyarrow.Table.from_pylist([to_columns(record) for record in records], schema=schema)


class PartFormat(NamedTuple):
    """A format of part files.

    Attributes:
        suffix: The extension of a part file.
        write: Writes records of a schema to a binary file, and yields each record once it is written or buffered.
    """

    suffix: str
    write: Callable[[Iterable[Record], IO[bytes], pyarrow.Schema], Iterator[Record]]


def _write_parquet(records: Iterable[Record], file: IO[bytes], schema: pyarrow.Schema) -> Iterator[Record]:
    from pyarrow import parquet

    iterator = iter(records)
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while batch := list(islice(iterator, PARQUET_ROWS)):
            yield from batch
            writer.write_table(to_table(batch, schema))


def _write_lines(records: Iterable[Record], file: IO[bytes], schema: pyarrow.Schema) -> Iterator[Record]:
    for record in records:
        file.write(f"{_to_json(record)}\n".encode())
        yield record


def _write_csv(records: Iterable[Record], file: IO[bytes], schema: pyarrow.Schema) -> Iterator[Record]:
    has_vectors = "vector" in schema.names
    file.write((csv_line(VECTOR_COLUMNS) if has_vectors else RECORD_FORMATS["csv"].head).encode())
    for record in records:
        file.write((record.to_csv() if isinstance(record, Prediction) else csv_line(_to_row(record))).encode())
        yield record


def _to_json(record: Record) -> str:
    if isinstance(record, Prediction):
        return record.to_json()
    fields = to_columns(record)
    if record.vector is not None:
        fields["vector"] = _numbers(record.vector)
    return json_line(fields)


def _to_row(record: Embedding) -> tuple[str, ...]:
    error = f"{record.error.type}: {to_unicode(record.error.message)}" if record.error else ""
    vector = "" if record.vector is None else " ".join(map(json.dumps, _numbers(record.vector)))
    return escape_name(record.source), to_unicode(record.model), vector, error, " ".join(record.notes)


def _numbers(vector: Sequence[float] | Any) -> list[float | None]:
    return [shortest_float(value) for value in vector]


PART_FORMATS = {
    "parquet": PartFormat(".parquet", _write_parquet),
    "jsonl": PartFormat(".jsonl", _write_lines),
    "csv": PartFormat(".csv", _write_csv),
}
