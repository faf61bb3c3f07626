"""Resuming a record file: in the end it has the same bytes as after an uninterrupted run."""

from __future__ import annotations

import contextlib
import csv
import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densenet_cli.errors import OutputError, UsageError
from densenet_cli.output.record_formats import RECORD_FORMATS
from densenet_cli.output.records import RecordWriter, open_records
from densenet_cli.results import Failure, Prediction, Score
from tests.test_results import names, texts

SETTINGS: dict[str, Any] = {"model": "densenet121", "top_k": 2, "labels": ["x"] * 1000}
RESUMABLE = [name for name, format_ in RECORD_FORMATS.items() if format_.read]


@dataclass(frozen=True)
class Source:
    name: str


SOURCES = [
    Source(name)
    for name in (
        "a",
        "b",
        "né\n🐈",
        "dup",
        "bad",
        "dup",
        "none",
        'q"\r\n",',
        "bad\udcff\\",
        "b\\s",
        "dup",
        "dup",
        "bad",
        "z",
    )
]


def predict(source: Source) -> Prediction:
    if source.name.startswith("bad"):
        return Prediction(source.name, "m", error=Failure("UnreadableImage", 'No "image"\nat all.'))
    count = 0 if source.name == "none" else 2
    return Prediction(source.name, "m", tuple(Score(rank, rank, None, "l\n,é", 0.5) for rank in range(1, count + 1)))


def run(path: Path, sources: list[Source], stop_after: int | None = None, **options: Any) -> list[str]:
    """Classify the pending sources. Return their names in the order in which they were processed."""
    done: list[str] = []
    try:
        with open_records(path, path.suffix[1:], SETTINGS, **options) as records:
            for source in records.pending(iter(sources)):
                if len(done) == stop_after:
                    raise KeyboardInterrupt
                records.write(predict(source))
                done.append(source.name)
    except KeyboardInterrupt:
        pass
    return done


def enter(path: Path, settings: dict[str, Any] = SETTINGS, **options: Any) -> RecordWriter:
    with open_records(path, path.suffix[1:], settings, resume=True, **options) as records:
        return records


@pytest.fixture(params=RESUMABLE)
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"out.{request.param}"


def test_a_file_that_was_cut_at_any_byte_is_completed(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)
    run(output, SOURCES)
    complete = output.read_bytes()
    assert len(complete) < 3000
    for cut in range(len(complete) + 1):
        output.write_bytes(complete[:cut])
        run(output, SOURCES, resume=True)
        assert output.read_bytes() == complete, f"cut at byte {cut}: {complete[:cut]!r}"


@pytest.mark.parametrize("format_name", RESUMABLE)
@settings(deadline=None, max_examples=60)
@given(images=st.lists(st.tuples(names, texts, st.integers(0, 3), st.integers(1, 2)), max_size=6), data=st.data())
def test_any_names_and_labels_cut_at_any_byte(
    format_name: str,
    images: list[tuple[str, str, int, int]],
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("resume") / f"out.{format_name}"
    # All images of a name have the same result.
    results = {
        name: Prediction(name, text, tuple(Score(rank, 0, None, text, 0.5) for rank in range(first, count + 1)))
        if count < 3
        else Prediction(name, text, error=Failure("UnreadableImage", text))
        for name, text, count, first in images
    }
    sources = [Source(name) for name, *_ in images]
    predictions = [results[source.name] for source in sources]

    def run_all(**options: bool) -> None:
        with open_records(path, format_name, SETTINGS, **options) as records:
            pending = len(list(records.pending(sources)))
            for prediction in predictions[len(predictions) - pending :]:
                records.write(prediction)

    run_all()
    complete = path.read_bytes()
    path.write_bytes(complete[: data.draw(st.integers(0, len(complete)))])
    run_all(resume=True)
    assert path.read_bytes() == complete


def test_a_complete_last_record_is_kept(output: Path) -> None:
    for count in range(1, len(SOURCES)):
        run(output, SOURCES, stop_after=count, overwrite=True)
        assert run(output, SOURCES, resume=True) == [source.name for source in SOURCES[count:]]


@pytest.mark.parametrize("name", ["coffee", "bad", "none"])
def test_a_complete_last_record_is_kept_if_its_source_is_not_given_again(output: Path, name: str) -> None:
    run(output, [*SOURCES, Source(name)])
    complete = output.read_bytes()
    run(output, SOURCES, resume=True)
    assert output.read_bytes() == complete
    run(output, [*SOURCES, Source("new")], resume=True)
    assert output.read_bytes() == complete + RECORD_FORMATS[output.suffix[1:]].encode(predict(Source("new"))).encode()


class TestFewerRowsThanTopK:
    """The last record of a CSV file may be complete (because of a minimum probability) or not."""

    SETTINGS = SETTINGS | {"top_k": 3}

    def run(self, path: Path, names: list[str], stop_after: int | None = None, **options: bool) -> list[str]:
        done: list[str] = []
        with (
            contextlib.suppress(KeyboardInterrupt),
            open_records(path, path.suffix[1:], self.SETTINGS, **options) as records,
        ):
            for source in records.pending(map(Source, names)):
                if len(done) == stop_after:
                    raise KeyboardInterrupt
                records.write(predict(source))
                done.append(source.name)
        return done

    @pytest.fixture
    def table(self, tmp_path: Path) -> Path:
        self.run(tmp_path / "out.csv", ["a", "b", "coffee"])
        return tmp_path / "out.csv"

    def test_its_source_is_processed_again_if_given(self, table: Path) -> None:
        complete = table.read_bytes()
        assert self.run(table, ["a", "b", "coffee"], resume=True) == ["coffee"]
        assert table.read_bytes() == complete

    def test_it_is_kept_if_its_source_is_not_given(self, table: Path) -> None:
        complete = table.read_bytes()
        assert self.run(table, ["a", "b"], resume=True) == []
        assert table.read_bytes() == complete

    def test_it_is_kept_after_new_records(self, table: Path) -> None:
        assert self.run(table, ["a", "b", "c", "d"], resume=True) == ["c", "d"]
        assert names_in(table) == ["a", "b", "c", "d", "coffee"]

    def test_an_interruption_before_its_turn_keeps_it(self, table: Path) -> None:
        assert self.run(table, ["a", "b", "c", "d", "coffee"], stop_after=1, resume=True) == ["c"]
        assert names_in(table) == ["a", "b", "c", "coffee"]
        assert self.run(table, ["a", "b", "c", "d", "coffee"], resume=True) == ["d", "coffee"]
        assert names_in(table) == ["a", "b", "c", "d", "coffee"]

    def test_an_incomplete_row_after_it_belongs_to_another_record(self, table: Path) -> None:
        table.write_bytes(table.read_bytes()[:-3])
        self.run(table, ["a", "b"], resume=True)
        assert names_in(table) == ["a", "b"]

    def test_it_is_kept_while_errors_are_retried(self, tmp_path: Path) -> None:
        path = tmp_path / "out.csv"
        self.run(path, ["a", "bad", "b", "coffee"])
        assert self.run(path, ["a", "bad", "b"], resume=True, retry_errors=True) == ["bad"]
        assert names_in(path) == ["a", "b", "bad", "coffee"]


RANKS: dict[str, tuple[int, ...]] = {"a": (2, 3), "b": (1, 3), "c": (2,), "bad": (), "d": (2, 3), "e": (3,)}


class TestRanksThatAreLeftOut:
    """Classes can have different minimum probabilities, so the first rank of a CSV record can be larger than 1."""

    def run(self, path: Path, names: list[str], **options: bool) -> list[str]:
        done = []
        with open_records(path, "csv", SETTINGS | {"top_k": 3}, **options) as records:
            for source in records.pending(map(Source, names)):
                scores = tuple(Score(rank, rank, None, "label", 0.5) for rank in RANKS[source.name])
                error = None if scores else Failure("UnreadableImage", "No image.")
                records.write(Prediction(source.name, "m", scores, error))
                done.append(source.name)
        return done

    @pytest.mark.parametrize(
        "names",
        [list("abcde"), list("ddaaccbbe"), ["bad", "d", "bad", "bad", "a"], ["e", "e", "d"]],
        ids=" ".join,
    )
    def test_a_file_that_was_cut_at_any_byte_is_completed(
        self, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("os.fsync", lambda _: None)
        path = tmp_path / "out.csv"
        self.run(path, names)
        complete = path.read_bytes()
        for cut in range(len(complete) + 1):
            path.write_bytes(complete[:cut])
            self.run(path, names, resume=True)
            assert path.read_bytes() == complete, f"cut at byte {cut}: {complete[:cut]!r}"
        assert self.run(path, names, resume=True) == []

    def test_a_rank_that_is_no_number_is_damage(self, tmp_path: Path) -> None:
        path = tmp_path / "out.csv"
        self.run(path, ["a", "b"])
        path.write_bytes(path.read_bytes().replace(b",3,3,", b",three,3,", 1))
        with pytest.raises(OutputError, match="damaged"):
            self.run(path, ["a", "b"], resume=True)


def names_in(table: Path) -> list[str]:
    with table.open(encoding="utf-8", newline="") as file:
        return [row["source"] for row in csv.DictReader(file) if row["rank"] in ("", "1")]


def test_many_interruptions(output: Path) -> None:
    run(output, SOURCES)
    complete = output.read_bytes()
    run(output, SOURCES, stop_after=1, overwrite=True)
    for _ in range(len(SOURCES)):
        run(output, SOURCES, stop_after=2, resume=True)
    assert output.read_bytes() == complete


def test_resuming_without_a_file_creates_one(output: Path) -> None:
    assert len(run(output, SOURCES, resume=True)) == len(SOURCES)


def test_a_run_that_ends_before_its_first_record_changes_nothing(output: Path) -> None:
    run(output, SOURCES)
    complete = output.read_bytes()
    run(output, SOURCES, stop_after=0, resume=True)
    run(output, SOURCES, stop_after=0, resume=True, retry_errors=True)
    assert output.read_bytes() == complete


def test_the_writer_counts_the_existing_records(output: Path) -> None:
    run(output, SOURCES)
    with (
        pytest.raises(KeyboardInterrupt),
        open_records(output, output.suffix[1:], SETTINGS, resume=True) as records,
    ):
        assert (records.recorded, records.recorded_errors) == (len(SOURCES), 3)
        raise KeyboardInterrupt


def test_a_new_source_is_processed(output: Path) -> None:
    run(output, SOURCES)
    assert run(output, [Source("0"), *SOURCES], resume=True) == ["0"]


def test_failed_sources_are_processed_again_last(output: Path) -> None:
    run(output, SOURCES, stop_after=11)
    done = run(output, SOURCES, resume=True, retry_errors=True)
    assert done == ["dup", "bad", "z", "bad", "bad\udcff\\"]
    expected = output.with_stem("expected")
    good = [source for source in SOURCES[:11] if not source.name.startswith("bad")]
    run(expected, good + [Source(name) for name in done])
    assert output.read_bytes() == expected.read_bytes()
    assert {path.name for path in output.parent.iterdir()} == {
        file.name + suffix for file in (output, expected) for suffix in ("", ".meta.json")
    }


def test_failed_sources_at_the_start(output: Path) -> None:
    sources = [Source(name) for name in ("bad1", "a", "b")]
    run(output, sources)
    assert run(output, sources, resume=True, retry_errors=True) == ["bad1"]
    assert run(output, sources, resume=True) == []


def test_an_error_record_whose_source_is_not_given_again_stays(output: Path) -> None:
    run(output, [Source(name) for name in ("bad1", "a", "bad2", "b", "bad3")])
    complete = output.read_bytes()
    assert run(output, [Source("a")], resume=True, retry_errors=True) == []
    assert output.read_bytes() == complete
    sources = [Source(name) for name in ("bad2", "c")]
    with open_records(output, output.suffix[1:], SETTINGS, resume=True, retry_errors=True) as records:
        assert (records.recorded, records.recorded_errors) == (2, 3)
        for source in records.pending(sources):
            records.write(predict(source))
        assert records.recorded_errors == 2
    expected = output.with_stem("expected")
    run(expected, [Source(name) for name in ("bad1", "a", "b", "bad3", "c", "bad2")])
    assert output.read_bytes() == expected.read_bytes()


def test_of_two_error_records_of_a_source_that_is_given_once_one_stays(output: Path) -> None:
    run(output, [Source(name) for name in ("bad", "a", "bad")])
    assert run(output, [Source("bad")], resume=True, retry_errors=True) == ["bad"]
    assert run(output, [Source("bad")] * 3, resume=True) == ["bad"]


def test_a_run_that_ends_before_it_retries_keeps_the_error_records(output: Path) -> None:
    sources = [Source(name) for name in ("bad1", "a", "bad2", "b")]
    run(output, sources)
    assert run(output, [*sources, Source("c")], stop_after=1, resume=True, retry_errors=True) == ["c"]
    assert run(output, [*sources, Source("c")], resume=True) == []


def test_only_failed_sources(output: Path) -> None:
    sources = [Source(name) for name in ("bad1", "bad2", "bad3")]
    run(output, sources)
    assert run(output, sources, resume=True, retry_errors=True) == ["bad1", "bad2", "bad3"]


def test_retrying_keeps_the_file_mode(output: Path) -> None:
    run(output, SOURCES)
    output.chmod(0o640)
    run(output, SOURCES, resume=True, retry_errors=True)
    assert output.stat().st_mode & 0o777 == 0o640


def test_a_full_disk_while_errors_are_dropped(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(output, SOURCES)
    complete = output.read_bytes()
    monkeypatch.setattr("os.fsync", raise_disk_full)
    with pytest.raises(OutputError, match="No space left"):
        run(output, SOURCES, resume=True, retry_errors=True)
    monkeypatch.undo()
    assert output.read_bytes() == complete
    assert not list(output.parent.glob("*.part"))


def raise_disk_full(_: object) -> None:
    raise OSError(28, "No space left on device")


def test_other_settings_are_an_error_that_names_them(output: Path) -> None:
    run(output, SOURCES)
    complete = output.read_bytes()
    with pytest.raises(UsageError, match=r"`top_k` \(now 5, before 2\), `labels`\."):
        enter(output, SETTINGS | {"top_k": 5, "labels": ["y"] * 1000})
    with pytest.raises(UsageError, match=r"`exact` \(now true, before null\)"):
        enter(output, SETTINGS | {"exact": True})
    with pytest.raises(UsageError, match=r"`top_k` \(now null, before 2\)"):
        enter(output, {name: value for name, value in SETTINGS.items() if name != "top_k"})
    assert output.read_bytes() == complete


@pytest.mark.parametrize(("meta", "message"), [(None, "is missing"), (b"{", "is damaged"), (b"[]", "is damaged")])
def test_unknown_settings_are_an_error(output: Path, meta: bytes | None, message: str) -> None:
    run(output, SOURCES)
    file = output.with_name(output.name + ".meta.json")
    file.unlink() if meta is None else file.write_bytes(meta)
    with pytest.raises(UsageError, match=message):
        enter(output)


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"garbage\n",
        b"\xff\n",
        b"5\n",
        b"{}\n",
        b'{"a": 1}\n',
        b"[" * 100_000 + b"\n",
        b"a,b,2,,,,,,\n",
        b'a"b\n"\n',
    ],
)
def test_a_damaged_file_is_an_error_and_is_kept(output: Path, line: bytes) -> None:
    run(output, SOURCES)
    complete = output.read_bytes()
    for place in (
        0,
        len(predict(SOURCES[0]).to_json()) + 1 if output.suffix == ".jsonl" else len(RECORD_FORMATS["csv"].head),
    ):
        damaged = complete[:place] + line + complete[place:]
        output.write_bytes(damaged)
        with pytest.raises(OutputError, match=r"is damaged|does not start"):
            enter(output)
        assert output.read_bytes() == damaged


def test_zeros_that_a_power_failure_left_at_the_end_are_cut_off(output: Path) -> None:
    run(output, SOURCES)
    complete = output.read_bytes()
    output.write_bytes(complete[:-20] + bytes(4096))
    run(output, SOURCES, resume=True)
    assert output.read_bytes() == complete


def test_a_name_longer_than_the_limit_of_the_csv_module(tmp_path: Path) -> None:
    sources = [Source("\n" * 300_000), Source("b")]
    run(tmp_path / "out.csv", sources)
    assert run(tmp_path / "out.csv", sources, resume=True) == []


ROOT = Path(__file__).parents[2]

CHILD = """
import sys
from pathlib import Path
from tests.output.test_resume import many, run
run(Path(sys.argv[1]), many(), resume=True)
"""


def many() -> list[Source]:
    return [Source(f"{'bad' if number % 7 == 0 else 'né'}{number % 4000}\n") for number in range(5000)]


def test_killed_at_random_moments(output: Path) -> None:
    expected = output.with_stem("expected")
    run(expected, many())
    chance = random.Random(7)
    kills = 0
    deadline = time.monotonic() + 60
    while kills < 3 and time.monotonic() < deadline:
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(output)], cwd=ROOT)
        before = output.stat().st_size if output.exists() else 0
        while child.poll() is None and (not output.exists() or output.stat().st_size <= before):
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.03))
        child.send_signal(signal.SIGKILL)
        child.wait()
        kills += child.returncode == -signal.SIGKILL
        if child.returncode == 0:
            output.unlink()
    assert kills == 3
    subprocess.run([sys.executable, "-c", CHILD, str(output)], cwd=ROOT, check=True)
    assert output.read_bytes() == expected.read_bytes()
    meta = json.loads(output.with_name(output.name + ".meta.json").read_text())
    assert meta == {**SETTINGS, "working_directory": str(ROOT)}


SPELLINGS = [
    "photos/{}",
    "./photos/{}",
    "photos//{}",
    "{cwd}/photos/{}",
    "photos/../photos/{}",
    "../{here}/photos/./{}",
]
NAMES = ["1.jpg", "é \\x41.jpg", "bad\udcff.jpg"]


def spelled(spelling: str, folder: Path) -> list[Source]:
    return [Source(spelling.format(name, cwd=folder, here=folder.name)) for name in NAMES]


class TestSpellings:
    """One image is one record, however its path is spelled."""

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "wörk"
        (folder / "photos").mkdir(parents=True)
        monkeypatch.chdir(folder)
        return folder

    @pytest.mark.parametrize("first", SPELLINGS)
    def test_all_spellings_resume_each_other(self, output: Path, folder: Path, first: str) -> None:
        run(output, spelled(first, folder))
        complete = output.read_bytes()
        for spelling in SPELLINGS:
            assert run(output, spelled(spelling, folder), resume=True) == []
        assert output.read_bytes() == complete

    def test_an_interrupted_file(self, output: Path, folder: Path) -> None:
        run(output, spelled("photos/{}", folder))
        complete = output.read_bytes()
        for cut in range(len(complete)):
            output.write_bytes(complete[:cut])
            run(output, spelled("./photos/{}", folder), resume=True)
            run(output, spelled("photos/{}", folder), resume=True)
            data = output.read_bytes()
            assert data.count(b"1.jpg") == complete.count(b"1.jpg") and data.count(b"bad") == complete.count(b"bad")

    def test_a_last_record_that_may_be_incomplete_keeps_its_name(self, tmp_path: Path) -> None:
        fewer_rows = TestFewerRowsThanTopK()
        fewer_rows.run(tmp_path / "out.csv", ["a", "b"])
        complete = (tmp_path / "out.csv").read_bytes()
        assert fewer_rows.run(tmp_path / "out.csv", ["./a", "./b"], resume=True) == ["b"]
        assert (tmp_path / "out.csv").read_bytes() == complete

    def test_failed_sources_are_processed_again(self, output: Path, folder: Path) -> None:
        run(output, [Source("bad"), Source("a")])
        assert run(output, [Source("./a"), Source("./bad")], resume=True, retry_errors=True) == ["./bad"]

    def test_other_sources_are_compared_as_they_are(self, output: Path) -> None:
        names = ["-", "./-", "https://a.org//x", "https://a.org/x", "a", "a/b", "/", "//x"]
        run(output, [Source(name) for name in names])
        assert run(output, [Source(name) for name in [*names, "https://a.org/./x"]], resume=True) == [
            "https://a.org/./x"
        ]

    def test_a_source_given_twice_has_two_records(self, output: Path) -> None:
        assert run(output, [Source("a"), Source("./a")]) == ["a", "./a"]
        assert run(output, [Source("./a"), Source("a"), Source("b")], resume=True) == ["b"]
        assert run(output, [Source("b"), Source("./b")], resume=True) == ["./b"]

    def test_dots_after_a_link_do_not_lead_back(self, output: Path, folder: Path) -> None:
        (folder / "elsewhere" / "below").mkdir(parents=True)
        (folder / "link\\").symlink_to("elsewhere/below")
        run(output, [Source("1.jpg")])
        assert run(output, [Source("link\\/../1.jpg"), Source("photos/../1.jpg")], resume=True) == ["link\\/../1.jpg"]

    def test_from_another_working_directory(self, output: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run(output, [Source("1.jpg"), Source("photos/2.jpg")])
        monkeypatch.chdir(folder / "photos")
        sources = [Source(name) for name in ("../1.jpg", "2.jpg", "1.jpg")]
        assert run(output, sources, resume=True) == [str(folder / "photos" / "1.jpg")]
        assert run(output, sources, resume=True) == []
        monkeypatch.chdir(folder)
        assert run(output, [Source("photos/1.jpg"), Source("1.jpg")], resume=True) == []

    @pytest.mark.parametrize(
        ("name", "recorded"),
        [
            ("../photos/./3.jpg", "{folder}/photos/3.jpg"),
            ("..//4.jpg", "{folder}/4.jpg"),
            ("link/../5.jpg", "{folder}/photos/link/../5.jpg"),
            ("{folder}/photos/../6.jpg", "{folder}/photos/../6.jpg"),
            ("s3://bucket/a/../b.jpg", "s3://bucket/a/../b.jpg"),
            ("https://a.org/./b.jpg", "https://a.org/./b.jpg"),
            ("-", "-"),
        ],
    )
    def test_names_from_another_working_directory(
        self, output: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, recorded: str
    ) -> None:
        """Relative names become absolute names without needless parts. Other names stay as they are."""
        run(output, [Source("1.jpg")])
        (folder / "elsewhere" / "below").mkdir(parents=True)
        (folder / "photos" / "link").symlink_to("../elsewhere/below")
        monkeypatch.chdir(folder / "photos")
        done = run(output, [Source(name.format(folder=folder))], resume=True)
        assert done == [recorded.format(folder=folder)]

    def test_a_moved_working_directory(self, output: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run(output, [Source("photos/2.jpg")])
        folder.rename(folder.parent / "moved")
        monkeypatch.chdir(folder.parent / "moved")
        assert run(output, [Source("./photos/2.jpg"), Source("a")], resume=True) == ["a"]

    def test_a_file_of_an_earlier_version(self, output: Path, folder: Path) -> None:
        run(output, spelled("photos/{}", folder))
        output.with_name(output.name + ".meta.json").write_text(json.dumps(SETTINGS))
        assert run(output, spelled("{cwd}/photos/{}", folder), resume=True) == []
