"""Records on streams, and the arguments of ``open_records``."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from densenet_cli.errors import OutputError, UsageError
from densenet_cli.output.record_formats import RECORD_FORMATS
from densenet_cli.output.records import StreamWriter, check_records, open_records, resolve_record_format
from tests.output.test_record_file import PREDICTIONS, parse, write


@pytest.mark.parametrize("format_name", RECORD_FORMATS)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_stream_and_a_file_get_the_same_bytes(format_name: str, count: int, tmp_path: Path) -> None:
    stream = io.BytesIO()
    with open_records(None, format_name, {}, stream=stream) as records:
        for prediction in PREDICTIONS[:count]:
            records.write(prediction)
    path = tmp_path / f"out.{format_name}"
    write(path, PREDICTIONS[:count])
    assert path.read_bytes() == stream.getvalue()
    assert parse(stream.getvalue().decode(), format_name) == [p.source for p in PREDICTIONS[:count]]


def test_a_json_array_has_a_line_per_record() -> None:
    stream = io.BytesIO()
    with StreamWriter(stream, "json") as records:
        for prediction in PREDICTIONS[1:]:
            records.write(prediction)
    first, second = (prediction.to_json() for prediction in PREDICTIONS[1:])
    assert stream.getvalue().decode() == f"[\n{first},\n{second}\n]\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OutputError, ZeroDivisionError])
def test_a_json_array_is_closed_when_the_run_is_interrupted(error: type[BaseException]) -> None:
    stream = io.BytesIO()
    with pytest.raises(error), StreamWriter(stream, "json") as records:
        records.write(PREDICTIONS[0])
        raise error
    assert parse(stream.getvalue().decode(), "json") == ["a.jpg"]


def test_an_error_before_the_first_record_writes_nothing() -> None:
    stream = io.BytesIO()
    with pytest.raises(ZeroDivisionError), StreamWriter(stream, "csv"):
        raise ZeroDivisionError
    assert stream.getvalue() == b""


def test_each_record_is_flushed() -> None:
    read, written = os.pipe()
    with open(read, "rb") as reader, open(written, "wb") as stream, StreamWriter(stream, "jsonl") as records:
        records.write(PREDICTIONS[0])
        assert reader.readline().decode() == PREDICTIONS[0].to_json() + "\n"


def test_a_closed_pipe_raises_only_broken_pipe_error() -> None:
    read, written = os.pipe()
    os.close(read)
    with (
        open(written, "wb", buffering=0) as stream,
        pytest.raises(BrokenPipeError),
        StreamWriter(stream, "json") as records,
    ):
        records.write(PREDICTIONS[0])


def test_a_full_device_is_an_output_error() -> None:
    with (
        open("/dev/full", "wb", buffering=0) as stream,
        pytest.raises(OutputError, match="No space left on device"),
        StreamWriter(stream, "json") as records,
    ):
        records.write(PREDICTIONS[0])


def test_the_suffix_determines_the_format() -> None:
    assert (
        resolve_record_format("a.csv")
        == resolve_record_format(Path("x.y/A.CSV"))
        == resolve_record_format("out", "csv")
        == resolve_record_format("out.txt", "csv")
        == resolve_record_format("a.csv", "csv")
        == "csv"
    )


@pytest.mark.parametrize(
    ("output", "given", "message"),
    [
        ("out.txt", None, r"out\.txt.*\.json, \.jsonl, or \.csv"),
        ("csv", None, "csv.*`format`"),
        ("out.csv", "json", "csv.*json"),
        ("out.csv", "table", "json, jsonl, or csv"),
        ("", None, "`output` is empty"),
        ("", "csv", "`output` is empty"),
        ("/dev/stdout", None, "`output` to -"),
        ("/dev/stdout", "csv", "`output` to -"),
    ],
)
def test_an_output_without_a_format(output: str, given: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_record_format(output, given)


@pytest.mark.parametrize(
    ("output", "format_name", "options", "message"),
    [
        ("x.csv", "csv", {"resume": True, "overwrite": True}, "only one"),
        ("x.csv", "csv", {"retry_errors": True}, "`retry_errors` needs `resume`"),
        ("x.json", "json", {"resume": True}, r"\.jsonl or \.csv file, not \.json"),
        (None, "csv", {"resume": True}, "`resume` needs a file"),
        (None, "csv", {"overwrite": True}, "`overwrite` needs a file"),
        (None, "table", {"retry_errors": True}, "`retry_errors` needs `resume`"),
    ],
)
@pytest.mark.parametrize("check", [check_records, lambda *args, **options: open_records(*args, {}, **options)])
def test_options_that_contradict_each_other(check, output, format_name, options, message) -> None:
    with pytest.raises(UsageError, match=message):
        check(output, format_name, **options)
