"""JSON and CSV of predictions, read back with other parsers, for any names of files and classes."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from densenet_cli import labels
from densenet_cli.errors import UnreadableImageError, UsageError
from densenet_cli.output.record_formats import CSV_COLUMNS, RECORD_FORMATS
from densenet_cli.results import Failure, Prediction, Score, Selection
from densenet_cli.text import escape_name, shortest_float

CAT = Prediction(
    "cat.jpg",
    "densenet121",
    (
        Score(1, 285, "n02124075", "Egyptian cat", float(np.float32(0.8123))),
        Score(2, 7, None, 'a "quoted", one', float(np.float32(1e-5))),
    ),
)
BROKEN = Prediction("broken.png", "densenet121", error=Failure("UnreadableImage", "The file is empty."))

names = st.text() | st.binary().map(os.fsdecode) | st.text(alphabet='\\x/\r\n",\x1b\u2028é\udcff\ud800')
texts = st.text(st.characters(exclude_categories=["Cs"])) | st.text(alphabet='\\\r\n", \x00\x85é🐈')
probabilities = st.floats(0, 1, width=32)


@st.composite
def predictions(draw: st.DrawFn) -> Prediction:
    source, model = draw(names), draw(texts)
    if draw(st.booleans()):
        return Prediction(source, model, error=Failure("UnreadableImage", draw(names)))
    count = draw(st.integers(0, 4))
    scores = (
        Score(rank, draw(st.integers(0, 999)), draw(st.none() | texts.filter(bool)), draw(texts), draw(probabilities))
        for rank in range(1, count + 1)
    )
    return Prediction(source, model, tuple(scores))


def unescape(text: str) -> bytes:
    """Return the bytes of a name in CSV, as the documentation describes."""
    parts = re.split(rb"\\(\\|x[0-9a-f]{2})", text.encode())
    parts[1::2] = [b"\\" if part == b"\\" else bytes.fromhex(part[1:].decode()) for part in parts[1::2]]
    return b"".join(parts)


def name_bytes(name: str) -> bytes:
    """Return the bytes of a name. A lone surrogate that stands for no byte is encoded like other characters."""
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogatepass")


def test_json_record_is_as_documented() -> None:
    assert json.loads(CAT.to_json()) == {
        "source": "cat.jpg",
        "model": "densenet121",
        "predictions": [
            {"rank": 1, "index": 285, "id": "n02124075", "label": "Egyptian cat", "probability": 0.8123},
            {"rank": 2, "index": 7, "id": None, "label": 'a "quoted", one', "probability": 1e-05},
        ],
    }
    assert json.loads(BROKEN.to_json()) == {
        "source": "broken.png",
        "model": "densenet121",
        "error": {"type": "UnreadableImage", "message": "The file is empty."},
    }
    assert Prediction("a", "m").to_json() == '{"source": "a", "model": "m", "predictions": []}'


def test_notes_are_fields_of_json() -> None:
    assert Prediction("a", "m", notes=("truncated",)).to_dict() == {
        "source": "a", "model": "m", "predictions": [], "truncated": True,
    }  # fmt: skip


def test_csv_rows_are_as_documented() -> None:
    assert RECORD_FORMATS["csv"].head == "source,model,rank,index,id,label,probability,error,notes,set,unsure\n"
    assert CAT.to_csv() == (
        "cat.jpg,densenet121,1,285,n02124075,Egyptian cat,0.8123,,,,\n"
        'cat.jpg,densenet121,2,7,,"a ""quoted"", one",1e-05,,,,\n'
    )
    assert BROKEN.to_csv() == "broken.png,densenet121,,,,,,UnreadableImage: The file is empty.,,,\n"
    assert Prediction("a", "m").to_csv() == "a,m,,,,,,,,,\n"
    assert Prediction("a", "m", notes=("truncated",)).to_csv() == "a,m,,,,,,,truncated,,\n"
    sure = replace(CAT, set=CAT.scores, unsure=False)
    assert sure.to_rows()[1][-2:] == ('Egyptian cat|a "quoted", one', "false")
    assert replace(CAT, set=(), unsure=True).to_rows()[0][-2:] == ("", "true")
    assert list(sure.to_dict())[-2:] == ["set", "unsure"]
    assert sure.to_dict()["set"] == sure.to_dict()["predictions"]


@pytest.mark.parametrize(
    ("name", "source", "source_bytes"),
    [
        ("Katze \N{CAT}.jpg", "Katze \N{CAT}.jpg", None),
        ("back\\slash", "back\\slash", None),
        ("back\\slash\udcff", r"back\\slash\xff", b"back\\slash\xff"),
        ("new\nline", "new\nline", None),
    ],
)
def test_names_in_json(name: str, source: str, source_bytes: bytes | None) -> None:
    record = Prediction(name, "m").to_dict()
    assert record["source"] == source
    assert record.get("source_bytes") == (base64.b64encode(source_bytes).decode() if source_bytes else None)


def test_backslashes_are_doubled_in_csv() -> None:
    assert escape_name("a\\b") == r"a\\b"
    assert escape_name("a\\b\udce9") == r"a\\b\xe9"


def test_json_escapes_what_a_terminal_would_interpret() -> None:
    name = "\x1b[2J\x9b31m\u202e\u2028\x7f\ngnp.exe🐈"
    line = Prediction(name, "m").to_json()
    assert line.isprintable() and "🐈" in line
    assert json.loads(line)["source"] == name


@given(predictions())
@example(Prediction("\udcff\\\n", "m"))
@example(Prediction("\ud800", "m", error=Failure("UnreadableImage", "\ud800\udcff")))
def test_json_restores_the_prediction(prediction: Prediction) -> None:
    line = prediction.to_json()
    line.encode()
    assert line.isprintable()
    record = json.loads(line)
    if "source_bytes" in record:
        assert base64.b64decode(record["source_bytes"]) == name_bytes(prediction.source)
        assert record["source"] == escape_name(prediction.source)
    else:
        assert record["source"] == prediction.source
    assert record["model"] == prediction.model
    if prediction.error:
        assert record["error"]["type"] == prediction.error.type
    else:
        scores = tuple(
            Score(s["rank"], s["index"], s["id"], s["label"], float(np.float32(s["probability"])))
            for s in record["predictions"]
        )
        assert scores == prediction.scores


@given(predictions())
@example(Prediction("a\rb", "\r", (Score(1, 0, None, "\r", 0.5),)))
def test_csv_restores_the_prediction(prediction: Prediction) -> None:
    text = prediction.to_csv()
    assert text.encode().endswith(b"\n") and not text.endswith("\r\n")
    rows = list(csv.DictReader(io.StringIO(text, newline=""), CSV_COLUMNS, strict=True))
    assert len(rows) == max(1, len(prediction.scores))
    for row in rows:
        assert unescape(row["source"]) == name_bytes(prediction.source)
        assert row["model"] == prediction.model
    if prediction.error:
        assert rows[0]["error"].startswith(f"{prediction.error.type}: ")
    scores = tuple(
        Score(int(r["rank"]), int(r["index"]), r["id"] or None, r["label"], float(np.float32(r["probability"])))
        for r in rows
        if r["rank"]
    )
    assert scores == prediction.scores


@given(probabilities)
def test_probability_has_the_fewest_decimals_that_identify_its_float32(probability: float) -> None:
    shortest = shortest_float(probability)
    assert shortest is not None
    assert np.float32(shortest) == np.float32(probability)
    digits = len(re.sub(r"e.*|\.0$|\.", "", repr(shortest)).lstrip("0"))
    assert digits <= 9
    assert all(np.float32(f"{probability:.{fewer}g}") != np.float32(probability) for fewer in range(1, digits))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nonfinite_probability_is_null(value: float) -> None:
    prediction = Prediction("a", "m", (Score(1, 0, None, "x", value),))
    assert json.loads(prediction.to_json())["predictions"][0]["probability"] is None
    assert prediction.to_rows()[0][CSV_COLUMNS.index("probability")] == ""


def test_failure_copies_type_and_message() -> None:
    assert Failure.of(UnreadableImageError("The file is empty.")) == BROKEN.error


def test_import_is_fast() -> None:
    code = "import sys, densenet_cli.results; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "json", "csv", "base64", "click", "rich"} & set(modules)


@pytest.mark.parametrize(
    ("is_multi_label", "top_k", "min_prob", "expected"),
    [
        (False, None, None, (5, 0.0)),
        (False, 3, None, (3, 0.0)),
        (False, None, 0.2, (5, 0.2)),
        (True, None, None, (14, 0.5)),
        (True, 3, None, (3, 0.0)),
        (True, None, 0.2, (14, 0.2)),
        (True, 3, 0.2, (3, 0.2)),
        (True, None, 0, (14, 0)),
    ],
)
def test_default_selection(is_multi_label, top_k, min_prob, expected):
    assert Selection.resolve(14, is_multi_label, top_k, min_prob) == expected


@pytest.mark.parametrize("values", [(0, None), (None, 1.1), (None, float("nan"))])
def test_values_outside_their_range(values):
    with pytest.raises(UsageError):
        Selection.resolve(14, True, *values)


def test_selected_scores():
    probabilities = np.array([0.1, 0.9, 0.5, 0.9, 0.7], np.float32)
    table = labels.placeholders(5)
    positions = [score.index for score in Selection(4, 0.0).scores(probabilities, table)]
    assert positions == [1, 3, 4, 2]
    scores = Selection(5, 0.5).scores(probabilities, table)
    assert [(score.rank, score.index) for score in scores] == [(1, 1), (2, 3), (3, 4), (4, 2)]
    assert Selection(5, 0.95).scores(probabilities, table) == ()
