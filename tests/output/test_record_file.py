"""Record files: what they contain after every record and however a run ends, and concurrent runs."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from densenet_cli.errors import OutputError, UsageError
from densenet_cli.output import atomic
from densenet_cli.output.record_formats import RECORD_FORMATS
from densenet_cli.output.records import RecordWriter, check_records, open_records
from densenet_cli.results import Failure, Prediction, Score
from tests.support.small_disk import limit_file_size

SETTINGS: dict[str, Any] = {"model": "densenet121", "top_k": 2}
PREDICTIONS = [
    Prediction("a.jpg", "m", (Score(1, 5, "n1", "five", 0.5), Score(2, 6, None, "six", 0.25))),
    Prediction("b\n.jpg", "m", error=Failure("UnreadableImage", "No image.")),
    Prediction("c.jpg", "m"),
]


class Named(NamedTuple):
    """A source."""

    name: str


def file_writer(path: Path, **options: Any) -> RecordWriter:
    return open_records(path, path.suffix[1:], SETTINGS, **options)


def write(path: Path, predictions: list[Prediction], **options: Any) -> None:
    with file_writer(path, **options) as records:
        for prediction in predictions:
            records.write(prediction)


def parse(text: str, format_name: str) -> list[str]:
    """Return the sources of the records in a complete text."""
    if format_name == "csv":
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
        assert ",".join(rows[0]) + "\n" == RECORD_FORMATS["csv"].head
        return [row[0] for row in rows[1:] if row[2] in ("", "1")]
    records = json.loads(text) if format_name == "json" else map(json.loads, text.splitlines())
    return [record["source"] for record in records]


@pytest.fixture(params=RECORD_FORMATS)
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"out.{request.param}"


def test_a_file_is_complete_after_every_record(output: Path) -> None:
    with file_writer(output) as records:
        for count, prediction in enumerate(PREDICTIONS, 1):
            records.write(prediction)
            assert len(parse(output.read_bytes().decode(), output.suffix[1:])) == count


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interrupted_run_keeps_its_records(output: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), file_writer(output) as records:
        records.write(PREDICTIONS[0])
        raise error
    assert parse(output.read_bytes().decode(), output.suffix[1:]) == ["a.jpg"]


def test_an_error_before_the_first_record_leaves_no_file(output: Path) -> None:
    with pytest.raises(ZeroDivisionError), file_writer(output):
        raise ZeroDivisionError
    assert list(output.parent.iterdir()) == []


def test_settings_are_written_before_the_first_record(output: Path) -> None:
    with file_writer(output) as records:
        records.write(PREDICTIONS[0])
        meta = output.with_name(output.name + ".meta.json")
        assert json.loads(meta.read_text()) == {**SETTINGS, "working_directory": str(Path.cwd())}
    assert {path.name for path in output.parent.iterdir()} == {output.name, meta.name}


def test_an_existing_file_is_an_error_at_once(output: Path) -> None:
    output.write_text("precious")
    with pytest.raises(UsageError, match=r"exists.*overwrite"):
        file_writer(output)
    assert output.read_text() == "precious"


def test_a_file_that_appears_after_the_check_is_an_error(output: Path) -> None:
    records = file_writer(output)
    output.write_text("precious")
    with pytest.raises(UsageError, match="exists"), records:
        pass
    assert output.read_text() == "precious"


def test_an_empty_file_counts_as_missing(output: Path) -> None:
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


def test_a_symbolic_link_is_followed(output: Path) -> None:
    target = output.parent / "elsewhere"
    output.symlink_to(target)
    write(output, PREDICTIONS)
    assert output.is_symlink() and parse(target.read_bytes().decode(), output.suffix[1:])


@pytest.mark.parametrize("room", range(0, 400, 37))
def test_a_full_disk_leaves_complete_records(output: Path, room: int) -> None:
    written = 0
    with (
        pytest.raises(OutputError, match="File too large") as caught,
        file_writer(output) as records,
    ):
        records.write(PREDICTIONS[0])
        written += 1
        with limit_file_size(output.stat().st_size + room):
            for prediction in PREDICTIONS * 4:
                records.write(prediction)
                written += 1
    sources = [prediction.source for prediction in [PREDICTIONS[0], *PREDICTIONS * 4]]
    assert parse(output.read_bytes().decode(), output.suffix[1:]) == sources[:written]
    assert ("`resume`" in str(caught.value)) == (output.suffix != ".json")
    if output.suffix != ".json":
        with file_writer(output, resume=True) as records:
            assert records.recorded == written


def test_a_disk_that_is_full_from_the_start_leaves_nothing(output: Path) -> None:
    with limit_file_size(0), pytest.raises(OutputError, match="File too large"), file_writer(output) as records:
        records.write(PREDICTIONS[0])
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize("name", ["folder.csv", "pipe.csv", "missing/out.csv"])
def test_a_path_that_cannot_be_a_record_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(OutputError, match=r"\.csv"), file_writer(tmp_path / name):
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


def enter(path: Path) -> str:
    try:
        with file_writer(path, resume=True):
            return "entered"
    except OutputError as error:
        return str(error)


def test_a_second_run_on_the_same_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        with file_writer(path) as records:
            records.write(PREDICTIONS[0])
            assert "another run is writing it" in pool.apply(enter, (path,))
            for prediction in PREDICTIONS:
                records.write(prediction)
        with file_writer(path, resume=True, retry_errors=True) as records:
            before = path.stat().st_ino
            assert list(records.pending([Named("b\n.jpg")])) == [Named("b\n.jpg")]
            records.write(PREDICTIONS[1])
            assert path.stat().st_ino != before, "the file has been replaced by one without its error record"
            assert "another run is writing it" in pool.apply(enter, (path,))
        assert pool.apply(enter, (path,)) == "entered"


def start_process(code: str, path: Path) -> subprocess.Popen[str]:
    """Start ``code`` in another process, with the names of this module and ``path``."""
    header = f"from pathlib import Path; from tests.output.test_record_file import *; path = Path({str(path)!r})\n"
    return subprocess.Popen(
        [sys.executable, "-c", header + code],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


COMPLETE_RUN = "write(path, PREDICTIONS, resume=path.suffix != '.json', overwrite=path.suffix == '.json')"


@contextmanager
def before_locking(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> Iterator[None]:
    """Call ``action`` once between opening a file and locking it."""
    lock = atomic.lock
    actions = [action]

    def delayed_lock(file: Any) -> None:
        if actions:
            actions.pop()()
        lock(file)

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "lock", delayed_lock)
        yield
    assert not actions


def test_of_two_runs_that_start_at_once_the_second_does_no_harm(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither sees a file. One creates it, and the other one locks it first."""
    code = "with file_writer(path) as records:\n print(flush=True); input(); [records.write(p) for p in PREDICTIONS]"
    processes: list[subprocess.Popen[str]] = []

    def start_other() -> None:
        processes.append(start_process(code, output))
        assert processes[0].stdout and processes[0].stdout.readline() == "\n"

    with before_locking(monkeypatch, start_other), pytest.raises(OutputError, match="another run is writing it"):
        write(output, PREDICTIONS)
    assert output.exists()
    processes[0].communicate("\n")
    assert processes[0].returncode == 0
    assert len(parse(output.read_bytes().decode(), output.suffix[1:])) == 3


def test_a_run_that_was_overtaken_by_a_complete_run_does_no_harm(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def complete_run() -> None:
        with start_process(COMPLETE_RUN, output) as process:
            assert process.wait() == 0

    with before_locking(monkeypatch, complete_run), pytest.raises(UsageError, match="exists"):
        write(output, PREDICTIONS[:1])
    assert len(parse(output.read_bytes().decode(), output.suffix[1:])) == 3


def test_a_file_deleted_before_it_is_locked_is_created_again(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run that failed before its first record deletes its empty file."""
    output.touch()
    with before_locking(monkeypatch, output.unlink):
        write(output, PREDICTIONS)
    assert len(parse(output.read_bytes().decode(), output.suffix[1:])) == 3


def test_a_file_replaced_before_it_is_locked_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out.jsonl"
    write(output, PREDICTIONS[:2])

    def replace() -> None:
        write(tmp_path / "new.jsonl", PREDICTIONS[:1])
        (tmp_path / "new.jsonl").replace(output)

    with before_locking(monkeypatch, replace):
        write(output, PREDICTIONS[2:], resume=True)
    assert parse(output.read_bytes().decode(), "jsonl") == ["a.jpg", "c.jpg"]


def test_a_missing_folder_is_an_error_at_once(output: Path) -> None:
    with pytest.raises(OutputError, match="missing"):
        file_writer(output.parent / "missing" / output.name)


@pytest.mark.parametrize("kind", ["folder", "pipe", "descriptor"])
def test_a_path_that_is_not_a_regular_file_is_an_error_at_once(kind: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    read, written = os.pipe()
    path = Path(f"/dev/fd/{written}") if kind == "descriptor" else tmp_path / kind
    try:
        with pytest.raises(OutputError, match="not a regular file"):
            check_records(path, "csv")
    finally:
        os.close(read)
        os.close(written)
