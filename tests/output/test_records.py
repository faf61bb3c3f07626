"""Writers: what is in the file or the stream after every record, and however the run ends."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from densenet_cli.errors import OutputError, UsageError
from densenet_cli.output import atomic
from densenet_cli.output.records import RecordWriter, StreamWriter, format_of, open_records
from densenet_cli.results import FORMATS, Failure, Prediction, Score

SETTINGS: dict[str, Any] = {"model": "densenet121", "top_k": 2}
PREDICTIONS = [
    Prediction("a.jpg", "m", (Score(1, 5, "n1", "five", 0.5), Score(2, 6, None, "six", 0.25))),
    Prediction("b\n.jpg", "m", error=Failure("UnreadableImage", "No image.")),
    Prediction("c.jpg", "m"),
]


def file_writer(path: Path, **options: Any) -> RecordWriter:
    return open_records(path, format_of(path), SETTINGS, **options)


def write(path: Path, predictions: list[Prediction], **options: Any) -> None:
    with file_writer(path, **options) as records:
        for prediction in predictions:
            records.write(prediction)


def parse(text: str, format_name: str) -> list[str]:
    """The sources of the records in the text, which has to be whole."""
    if format_name == "csv":
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
        assert ",".join(rows[0]) + "\n" == FORMATS["csv"].head
        return [row[0] for row in rows[1:] if row[2] in ("", "1")]
    records = json.loads(text) if format_name == "json" else map(json.loads, text.splitlines())
    return [record["source"] for record in records]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Files can't grow beyond ``size`` bytes: the kernel stops a write in its middle, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(params=FORMATS)
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"out.{request.param}"


# --- streams


@pytest.mark.parametrize("format_name", FORMATS)
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


def test_a_json_array_has_a_record_a_line() -> None:
    stream = io.BytesIO()
    with StreamWriter(stream, "json") as records:
        for prediction in PREDICTIONS[1:]:
            records.write(prediction)
    first, second = (prediction.to_json() for prediction in PREDICTIONS[1:])
    assert stream.getvalue().decode() == f"[\n{first},\n{second}\n]\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OutputError, ZeroDivisionError])
def test_an_array_on_a_stream_is_closed_when_the_run_is_interrupted(error: type[BaseException]) -> None:
    stream = io.BytesIO()
    with pytest.raises(error), StreamWriter(stream, "json") as records:
        records.write(PREDICTIONS[0])
        raise error
    assert parse(stream.getvalue().decode(), "json") == ["a.jpg"]


def test_an_error_before_the_first_record_leaves_a_stream_empty() -> None:
    stream = io.BytesIO()
    with pytest.raises(ZeroDivisionError), StreamWriter(stream, "csv"):
        raise ZeroDivisionError
    assert stream.getvalue() == b""


def test_each_record_is_flushed() -> None:
    read, written = os.pipe()
    with open(read, "rb") as reader, open(written, "wb") as stream, StreamWriter(stream, "jsonl") as records:
        records.write(PREDICTIONS[0])
        assert reader.readline().decode() == PREDICTIONS[0].to_json() + "\n"


def test_a_reader_that_has_gone_is_a_broken_pipe_and_nothing_else() -> None:
    read, written = os.pipe()
    os.close(read)
    with (
        open(written, "wb", buffering=0) as stream,
        pytest.raises(BrokenPipeError),
        StreamWriter(stream, "json") as records,
    ):
        records.write(PREDICTIONS[0])


def test_a_full_device_behind_standard_output_is_an_output_error() -> None:
    with (
        open("/dev/full", "wb", buffering=0) as stream,
        pytest.raises(OutputError, match="No space left on device"),
        StreamWriter(stream, "json") as records,
    ):
        records.write(PREDICTIONS[0])


# --- files


def test_a_file_is_whole_after_every_record(output: Path) -> None:
    with file_writer(output) as records:
        for count, prediction in enumerate(PREDICTIONS, 1):
            records.write(prediction)
            assert len(parse(output.read_bytes().decode(), output.suffix[1:])) == count


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interrupted_file_holds_what_was_finished(output: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), file_writer(output) as records:
        records.write(PREDICTIONS[0])
        raise error
    assert parse(output.read_bytes().decode(), output.suffix[1:]) == ["a.jpg"]


def test_an_error_before_the_first_record_leaves_no_file(output: Path) -> None:
    with pytest.raises(ZeroDivisionError), file_writer(output):
        raise ZeroDivisionError
    assert list(output.parent.iterdir()) == []


def test_settings_lie_beside_the_file_before_its_first_record(output: Path) -> None:
    with file_writer(output) as records:
        records.write(PREDICTIONS[0])
        meta = output.with_name(output.name + ".meta.json")
        assert json.loads(meta.read_text()) == SETTINGS
    assert {path.name for path in output.parent.iterdir()} == {output.name, meta.name}


def test_an_existing_file_is_refused_before_anything_is_loaded(output: Path) -> None:
    output.write_text("precious")
    with pytest.raises(UsageError, match=r"exists; .*--overwrite"):
        file_writer(output)
    assert output.read_text() == "precious"


def test_a_file_that_appears_meanwhile_is_refused_too(output: Path) -> None:
    records = file_writer(output)
    output.write_text("precious")
    with pytest.raises(UsageError, match="exists"), records:
        pass
    assert output.read_text() == "precious"


def test_an_empty_file_counts_as_none(output: Path) -> None:
    output.touch()
    write(output, PREDICTIONS)
    assert len(parse(output.read_bytes().decode(), output.suffix[1:])) == 3


def test_overwrite_keeps_the_old_file_until_the_first_record(output: Path) -> None:
    write(output, PREDICTIONS)
    before = output.read_bytes()
    with pytest.raises(ZeroDivisionError), file_writer(output, overwrite=True) as records:
        assert output.read_bytes() == before
        raise ZeroDivisionError
    assert output.read_bytes() == before
    with file_writer(output, overwrite=True) as records:
        records.write(PREDICTIONS[2])
    assert parse(output.read_bytes().decode(), output.suffix[1:]) == ["c.jpg"]


def test_a_link_stays_one(output: Path) -> None:
    target = output.parent / "elsewhere"
    output.symlink_to(target)
    write(output, PREDICTIONS)
    assert output.is_symlink() and parse(target.read_bytes().decode(), output.suffix[1:])


@pytest.mark.parametrize("room", range(0, 400, 37))
def test_a_full_disk_leaves_whole_records(output: Path, room: int) -> None:
    written = 0
    with (
        pytest.raises(OutputError, match=r"can't be written \(File too large\)") as full,
        file_writer(output) as records,
    ):
        records.write(PREDICTIONS[0])
        written += 1
        with largest_file(output.stat().st_size + room):
            for prediction in PREDICTIONS * 4:
                records.write(prediction)
                written += 1
    sources = [prediction.source for prediction in [PREDICTIONS[0], *PREDICTIONS * 4]]
    assert parse(output.read_bytes().decode(), output.suffix[1:]) == sources[:written]
    assert ("--resume" in str(full.value)) == (output.suffix != ".json")
    if output.suffix != ".json":
        with file_writer(output, resume=True) as records:
            assert records.recorded == written


def test_a_disk_full_from_the_start_leaves_nothing(output: Path) -> None:
    with largest_file(0), pytest.raises(OutputError, match="File too large"), file_writer(output) as records:
        records.write(PREDICTIONS[0])
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize("name", ["folder.csv", "pipe.csv", "missing/out.csv"])
def test_what_can_not_be_a_file_of_records_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(OutputError, match="can't be written"), file_writer(tmp_path / name):
        pass


def test_a_folder_without_permission_is_an_output_error(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)
        with pytest.raises(OutputError, match="Permission denied"), file_writer(tmp_path / "out.csv"):
            pass
    finally:
        os.seteuid(user)
        tmp_path.chmod(stat.S_IRWXU)


def _try_to_enter(path: Path) -> str:
    try:
        with file_writer(path, resume=True):
            return "entered"
    except OutputError as error:
        return str(error)


def test_a_second_run_on_the_same_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        with file_writer(path) as records:
            records.write(PREDICTIONS[0])
            assert "another run is writing it" in pool.apply(_try_to_enter, (path,))
            for prediction in PREDICTIONS:
                records.write(prediction)
        with file_writer(path, resume=True, retry_errors=True) as records:
            records.write(PREDICTIONS[2])  # the file is another one now, without its error
            assert "another run is writing it" in pool.apply(_try_to_enter, (path,))
        assert pool.apply(_try_to_enter, (path,)) == "entered"


def _in_another_process(code: str, path: Path) -> str:
    """Run ``code`` with ``path`` and ``open_records`` at hand; a process of its own, since locks are a process's."""
    start = f"from pathlib import Path; from tests.output.test_records import *; path = Path({str(path)!r})\n"
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-c", start + code], cwd=root, capture_output=True, text=True, check=True
    ).stdout


WHOLE_RUN = "write(path, PREDICTIONS, resume=path.suffix != '.json', overwrite=path.suffix == '.json')"


@contextmanager
def meanwhile(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> Iterator[None]:
    """Once, between opening the file and locking it, something happens."""
    lock = atomic.lock
    todo = [happens]

    def late(file: Any) -> None:
        if todo:
            todo.pop()()
        lock(file)

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "lock", late)
        yield
    assert not todo


def test_the_loser_of_two_that_start_at_once_leaves_the_file_of_the_winner(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both see no file; the loser makes it, and the winner locks it."""
    code = "with file_writer(path) as records:\n print(flush=True); input(); [records.write(p) for p in PREDICTIONS]"
    winner: list[subprocess.Popen[str]] = []

    def wins() -> None:
        start = f"from pathlib import Path; from tests.output.test_records import *; path = Path({str(output)!r})\n"
        winner.append(
            subprocess.Popen(
                [sys.executable, "-c", start + code],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert winner[0].stdout and winner[0].stdout.readline() == "\n"

    with meanwhile(monkeypatch, wins), pytest.raises(OutputError, match="another run is writing it"):
        write(output, PREDICTIONS)
    assert output.exists()
    winner[0].communicate("\n")
    assert winner[0].returncode == 0
    assert len(parse(output.read_bytes().decode(), output.suffix[1:])) == 3


def test_a_run_that_another_overtook_from_start_to_end_leaves_its_file(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        meanwhile(monkeypatch, lambda: _in_another_process(WHOLE_RUN, output)),
        pytest.raises(UsageError, match="exists"),
    ):
        write(output, PREDICTIONS[:1])
    assert len(parse(output.read_bytes().decode(), output.suffix[1:])) == 3


def test_a_file_taken_away_before_it_is_locked_is_made_anew(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run that failed before its first record takes its empty file away."""
    output.touch()
    with meanwhile(monkeypatch, output.unlink):
        write(output, PREDICTIONS)
    assert len(parse(output.read_bytes().decode(), output.suffix[1:])) == 3


def test_a_file_replaced_before_it_is_locked_is_opened_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out.jsonl"
    write(output, PREDICTIONS[:2])

    def replaced() -> None:
        write(tmp_path / "new.jsonl", PREDICTIONS[:1])
        (tmp_path / "new.jsonl").replace(output)

    with meanwhile(monkeypatch, replaced):
        write(output, PREDICTIONS[2:], resume=True)
    assert parse(output.read_bytes().decode(), "jsonl") == ["a.jpg", "c.jpg"]


def test_a_missing_folder_is_found_before_anything_is_loaded(output: Path) -> None:
    with pytest.raises(OutputError, match=r"can't be written: there is no folder .*missing\.$"):
        file_writer(output.parent / "missing" / output.name)


@pytest.mark.parametrize("kind", ["folder", "pipe", "descriptor"])
def test_no_regular_file_is_refused_before_anything_is_loaded(kind: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    read, written = os.pipe()
    path = Path(f"/dev/fd/{written}") if kind == "descriptor" else tmp_path / kind
    try:
        with pytest.raises(OutputError, match=r"no regular file; -o - "):
            open_records(path, "csv", SETTINGS)
    finally:
        os.close(read)
        os.close(written)


# --- options


def test_the_suffix_picks_the_format() -> None:
    assert (
        format_of("a.csv")
        == format_of(Path("x.y/A.CSV"))
        == format_of("out", "csv")
        == format_of("a.csv", "csv")
        == "csv"
    )
    for output, given, message in [
        ("out.txt", None, "end it in .json, .jsonl or .csv"),
        ("csv", None, "names no format"),
        ("out.csv", "json", "contradicts the suffix"),
        ("out.csv", "table", "a file takes json, jsonl or csv"),
        ("", None, "the name of a file, or - for"),
        ("", "csv", "the name of a file, or - for"),
        ("/dev/stdout", None, "write -o - for that"),
        ("/dev/stdout", "csv", "write -o - for that"),
    ]:
        with pytest.raises(UsageError, match=message):
            format_of(output, given)


@pytest.mark.parametrize(
    ("output", "format_name", "options", "message"),
    [
        ("x.csv", "csv", {"resume": True, "overwrite": True}, "choose one"),
        ("x.csv", "csv", {"retry_errors": True}, "goes with --resume"),
        ("x.json", "json", {"resume": True}, ".jsonl or .csv, not .json"),
        (None, "csv", {"resume": True}, "--resume needs a file"),
        (None, "csv", {"overwrite": True}, "--overwrite needs a file"),
    ],
)
def test_options_that_contradict_each_other(
    output: str | None, format_name: str, options: dict[str, bool], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        open_records(output, format_name, {}, **options)
