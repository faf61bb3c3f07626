"""Records in part files: one schema, and the values of the other formats."""

from __future__ import annotations

import csv
import io
import json
import os

import numpy as np
import pytest

from densenet_cli.ray.records import PART_FORMATS, embedding_schema, prediction_schema
from densenet_cli.results import Embedding, Failure, Prediction, Score

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

SCORES = (Score(1, 285, "n02124075", "Egyptian cat", float(np.float32(0.8123))), Score(2, 3, None, "x", 0.1))
PREDICTIONS = [
    Prediction("a.jpg", "m", SCORES, notes=("truncated",)),
    Prediction(os.fsdecode(b"caf\xe9.jpg"), "m", (), set=SCORES[:1], unsure=True),
    Prediction("b.jpg", "m", error=Failure("UnreadableImage", "The file is empty.")),
]
VECTOR = np.array([0.1, -2.5, 3e-8], np.float32)
EMBEDDINGS = [
    Embedding("a.jpg", "m", VECTOR, notes=("more_pages",)),
    Embedding("b.jpg", "m", error=Failure("UnreadableImage", "The file is empty.")),
]


def write(records, format_name, schema):
    file = io.BytesIO()
    assert list(PART_FORMATS[format_name].write(iter(records), file, schema)) == records
    return file.getvalue()


def read_parquet(data):
    return parquet.read_table(io.BytesIO(data))


def drop_nulls(row):
    return {name: value for name, value in row.items() if value is not None}


def test_predictions_in_parquet_have_the_values_of_json():
    table = read_parquet(write(PREDICTIONS, "parquet", prediction_schema()))
    rows = [drop_nulls(row) for row in table.to_pylist()]
    expected = [record.to_dict() for record in PREDICTIONS]
    for record in expected:
        for score in [*record.get("predictions", []), *record.get("set", [])]:
            score["probability"] = float(np.float32(score["probability"]))
    assert rows == expected


@pytest.mark.parametrize("records", [[], PREDICTIONS[2:], PREDICTIONS[:1], PREDICTIONS])
def test_all_parts_have_one_schema(records):
    schema = prediction_schema()
    assert read_parquet(write(records, "parquet", schema)).schema.equals(schema)


def test_equal_records_give_equal_bytes():
    data = [write(PREDICTIONS * 3000, "parquet", prediction_schema()) for _ in range(2)]
    assert data[0] == data[1]
    assert read_parquet(data[0]).num_rows == 9000


def test_text_formats_are_those_of_the_command():
    lines = write(PREDICTIONS, "jsonl", prediction_schema()).decode()
    assert lines == "".join(f"{record.to_json()}\n" for record in PREDICTIONS)
    rows = write(PREDICTIONS, "csv", prediction_schema()).decode()
    assert rows.splitlines()[0].startswith("source,model,rank")
    assert rows.partition("\n")[2] == "".join(record.to_csv() for record in PREDICTIONS)


def test_embeddings_in_all_formats():
    schema = embedding_schema(3)
    table = read_parquet(write(EMBEDDINGS, "parquet", schema))
    assert table.schema.equals(schema)
    assert pyarrow.types.is_fixed_size_list(table.schema.field("vector").type)
    good, bad = table.to_pylist()
    assert np.array_equal(np.array(good["vector"], np.float32), VECTOR)
    assert good["more_pages"] is True and good["error"] is None
    assert bad["vector"] is None and bad["error"]["type"] == "UnreadableImage"
    good, bad = map(json.loads, write(EMBEDDINGS, "jsonl", schema).splitlines())
    assert np.array_equal(np.array(good["vector"], np.float32), VECTOR)
    assert "vector" not in bad and bad["error"]["message"] == "The file is empty."
    good, bad = csv.DictReader(io.StringIO(write(EMBEDDINGS, "csv", schema).decode()))
    assert np.array_equal(np.array(good["vector"].split(), np.float32), VECTOR)
    assert (bad["vector"], bad["error"], good["notes"]) == ("", "UnreadableImage: The file is empty.", "more_pages")
