"""Vector files: their contents, and that an interrupted run ends with the same bytes as an uninterrupted one."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from densenet_cli.errors import OutputError, UsageError
from densenet_cli.output import atomic, record_file, vectors
from densenet_cli.output.vector_formats import VECTOR_FORMATS
from densenet_cli.output.vectors import check_vectors, open_vectors, parts_path, sources_path
from densenet_cli.results import Embedding, Failure
from tests.support.processes import exit_status
from tests.support.small_disk import limit_file_size

WIDTH = 6
SETTINGS: dict[str, Any] = {"model": "m", "weights_md5": "0", "preprocess": "crop", "input_size": 32, "ten_crop": False}


@dataclass(frozen=True)
class Source:
    name: str


NAMES = ["a.jpg", "dup", "bad 1", "né\n🐈", "dup", "caf\udce9\\", "b\\s", "bad 2", "z"]
SOURCES = [Source(name) for name in NAMES]
GOOD = [name for name in NAMES if not name.startswith("bad")]
LISTED = ["a.jpg", "dup", "né\n🐈", "dup", "caf\\xe9\\\\", "b\\s", "z"]
"""The names of ``GOOD`` as they are in JSON."""


def vector_of(name: str) -> np.ndarray:
    return np.random.default_rng(len(name) + ord(name[0])).normal(size=WIDTH).astype(np.float32)


VECTORS = np.stack([vector_of(name) for name in GOOD])


def embed(source: Source, repaired: bool) -> Embedding:
    if source.name.startswith("bad") and not repaired:
        return Embedding(source.name, "m", error=Failure("UnreadableImage", "No\nimage."))
    return Embedding(source.name, "m", vector_of(source.name))


def run(
    path: Path, sources: list[Source] = SOURCES, stop_after: int | None = None, repaired: bool = False, **options: bool
) -> list[str]:
    """Embed the pending sources. Return the names of those that were processed."""
    done: list[str] = []
    try:
        with open_vectors(path, SETTINGS, WIDTH, **options) as writer:
            for source in writer.pending(iter(sources)):
                if len(done) == stop_after:
                    raise KeyboardInterrupt
                writer.write(embed(source, repaired))
                done.append(source.name)
    except KeyboardInterrupt:
        pass
    return done


def files(path: Path) -> dict[str, bytes]:
    """Return name -> contents of all files beside ``path``."""
    return {file.name: file.read_bytes() for file in sorted(path.parent.iterdir())}


def listing(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in sources_path(path).read_bytes().splitlines()]


def matrix(path: Path) -> np.ndarray:
    if path.suffix == ".parquet":
        return np.stack(parquet.read_table(path)["vector"].to_numpy())
    loaded = np.load(path)
    return loaded if path.suffix == ".npy" else loaded["features"]


@pytest.fixture(params=VECTOR_FORMATS)
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / f"features.{request.param}"


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)


def test_every_format_contains_the_vectors(output: Path) -> None:
    run(output)
    array = matrix(output)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, VECTORS)
    assert list(files(output)) == [output.name, f"{output.name}.meta.json", f"{output.name}.sources.jsonl"]
    meta = json.loads(files(output)[f"{output.name}.meta.json"])
    assert meta == {**SETTINGS, "working_directory": str(Path.cwd())}


def test_the_list_of_sources_has_a_row_or_an_error_for_each(output: Path) -> None:
    run(output)
    records = listing(output)
    assert [record["source"] for record in records if "row" in record] == LISTED
    assert [record["row"] for record in records if "row" in record] == list(range(len(GOOD)))
    failed = {"source": "bad 1", "error": {"type": "UnreadableImage", "message": "No\nimage."}}
    assert records[2] == failed
    assert [record["source"] for record in records if "error" in record] == ["bad 1", "bad 2"]
    (escaped,) = (record for record in records if "source_bytes" in record)
    assert escaped["source"] == "caf\\xe9\\\\"


def test_metadata_of_npz(tmp_path: Path) -> None:
    path = tmp_path / "features.npz"
    run(path)
    with np.load(path, allow_pickle=False) as loaded:
        assert loaded["sources"].tolist() == LISTED
        assert loaded["model"] == "m"
        assert json.loads(str(loaded["preprocessing"])) == {"preprocess": "crop", "input_size": 32, "ten_crop": False}
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def test_metadata_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "features.parquet"
    run(path)
    table = parquet.read_table(path)
    assert table.column_names == ["source", "vector"]
    assert str(table.schema.field("vector").type) == f"fixed_size_list<element: float>[{WIDTH}]"
    assert table["source"].to_pylist() == LISTED
    assert table.schema.metadata[b"model"] == b"m"
    assert json.loads(table.schema.metadata[b"preprocessing"])["input_size"] == 32


@pytest.mark.parametrize("sources", [[], [Source("bad")]], ids=["none", "failed"])
def test_without_vectors_the_matrix_has_no_rows(output: Path, sources: list[Source]) -> None:
    run(output, sources)
    if output.suffix == ".parquet":
        assert parquet.read_table(output).num_rows == 0
    else:
        assert matrix(output).shape == (0, WIDTH)
    assert [record["source"] for record in listing(output)] == [source.name for source in sources]
    assert len(files(output)) == 3
    run(output, resume=True)
    np.testing.assert_array_equal(matrix(output)[: len(GOOD)], VECTORS)


def test_more_vectors_than_are_in_memory_at_once(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(output)
    monkeypatch.setattr("densenet_cli.output.vectors.BATCH_ROWS", 3)
    monkeypatch.setattr("densenet_cli.output.vector_formats.BATCH_ROWS", 2)
    run(output, overwrite=True)
    np.testing.assert_array_equal(matrix(output), VECTORS)
    assert run(output, [*SOURCES, Source("new")], resume=True) == ["new"]
    np.testing.assert_array_equal(matrix(output), [*VECTORS, vector_of("new")])


def test_a_run_interrupted_anywhere_ends_with_the_same_bytes(output: Path, unsynced: None) -> None:
    run(output)
    complete = files(output)
    for count in range(len(SOURCES)):
        for file in output.parent.iterdir():
            file.unlink()
        assert len(run(output, stop_after=count)) == count
        assert not output.exists()
        assert run(output, resume=True) == NAMES[count:]
        assert files(output) == complete


def test_parts_that_were_cut_at_any_byte(output: Path, unsynced: None) -> None:
    run(output)
    complete = files(output)
    run(output, overwrite=True, stop_after=len(SOURCES) - 1)
    parts_file = parts_path(output)
    data, settings = parts_file.read_bytes(), files(output)[parts_file.name + ".meta.json"]
    for cut in range(0, len(data), 7):
        output.unlink()
        parts_file.write_bytes(data[:cut])
        parts_file.with_name(parts_file.name + ".meta.json").write_bytes(settings)
        run(output, resume=True)
        assert files(output) == complete


def killed(work: Callable[[], object], at: int) -> bool:
    """Call ``work`` in a process that is killed before step ``at``, where a step is a change on disk.

    Returns whether there were as many steps.
    """
    steps = 0

    def step() -> None:
        nonlocal steps
        if steps == at:
            os._exit(9)
        steps += 1

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("os.rename", "os.remove") or (event == "open" and arguments[2] & (os.O_RDWR | os.O_WRONLY)):
            step()

    def stepping(read_vectors: Callable[..., Any]) -> Callable[..., Any]:
        def read(*arguments: Any) -> Any:
            for batch in read_vectors(*arguments):
                step()
                yield batch
            step()

        return read

    def write_all(file: Any, data: bytes) -> None:
        for half in (data[: len(data) // 2], data[len(data) // 2 :]):
            step()
            file.write(half)

    def work_in_steps() -> None:
        atomic.write_all = record_file.write_all = write_all
        vectors._read_vectors = stepping(vectors._read_vectors)
        os.fsync = lambda _: step()  # type: ignore[assignment]
        sys.addaudithook(audit)
        work()

    status = exit_status(work_in_steps)
    assert status in (0, 9)
    return status == 9


def test_killed_at_any_step_a_run_ends_with_the_same_bytes(output: Path, unsynced: None) -> None:
    sources = SOURCES[2:6]
    run(output, sources)
    complete = files(output)
    at = 0
    while True:
        for file in output.parent.iterdir():
            file.unlink()
        if not killed(lambda: run(output, sources), at):
            break
        if output.exists():
            assert output.read_bytes() == complete[output.name]
        run(output, sources, resume=True)
        leftover = files(output)
        assert {name: leftover[name] for name in complete} == complete
        assert all(name.endswith((".part", ".parts.jsonl.meta.json")) for name in leftover.keys() - complete.keys())
        at += 1
    assert at > 20


def test_killed_at_any_step_of_resuming_a_complete_file_nothing_is_lost(tmp_path: Path, unsynced: None) -> None:
    output = tmp_path / "out" / "features.npz"
    output.parent.mkdir()
    run(output, SOURCES[2:5])
    before = files(output)
    run(output, SOURCES[4:7], resume=True)
    complete = files(output)
    at = 0
    while True:
        for file in output.parent.iterdir():
            file.unlink()
        for name, data in before.items():
            (output.parent / name).write_bytes(data)
        if not killed(lambda: run(output, SOURCES[4:7], resume=True), at):
            break
        run(output, SOURCES[4:7], resume=True)
        assert {name: files(output)[name] for name in complete} == complete
        at += 1
    assert at > 20


def test_failed_sources_are_processed_again_last(output: Path) -> None:
    run(output)
    assert run(output, resume=True) == []
    assert run(output, repaired=True, resume=True, retry_errors=True) == ["bad 1", "bad 2"]
    np.testing.assert_array_equal(matrix(output), [*VECTORS, vector_of("bad 1"), vector_of("bad 2")])
    assert [record["row"] for record in listing(output)] == list(range(len(NAMES)))


def test_an_error_whose_source_is_not_given_again_stays(output: Path) -> None:
    run(output)
    complete = files(output)
    assert run(output, SOURCES[:1], resume=True, retry_errors=True) == []
    assert files(output) == complete
    with open_vectors(output, SETTINGS, WIDTH, resume=True, retry_errors=True) as writer:
        (source,) = writer.pending([Source("bad 2")])
        writer.write(embed(source, repaired=True))
    assert (writer.failed, writer.rows) == (1, len(GOOD) + 1)
    assert [record["source"] for record in listing(output) if "error" in record] == ["bad 1"]


def test_resuming_a_complete_file_changes_nothing(output: Path) -> None:
    run(output)
    complete = files(output)
    assert run(output, [], resume=True) == []
    assert files(output) == complete


def test_overwrite_keeps_the_old_file_until_the_new_one_is_complete(output: Path) -> None:
    run(output)
    before = output.read_bytes()
    run(output, [Source("new")] * 2, overwrite=True, stop_after=1)
    assert output.read_bytes() == before
    run(output, [Source("new")] * 2, resume=True)
    np.testing.assert_array_equal(matrix(output), [vector_of("new")] * 2)


def test_an_existing_file_is_an_error(output: Path) -> None:
    run(output)
    with pytest.raises(UsageError, match=r"features\.\w+ exists.*`resume`.*`overwrite`"):
        check_vectors(output)


def test_existing_parts_are_an_error(output: Path) -> None:
    run(output, stop_after=2)
    with pytest.raises(UsageError, match=r"parts\.jsonl exists.*`resume`"):
        check_vectors(output)


@pytest.mark.parametrize("complete", [True, False], ids=["complete", "parts"])
def test_other_settings_are_an_error(output: Path, complete: bool) -> None:
    run(output, stop_after=None if complete else 3)
    before = files(output)
    with (
        pytest.raises(UsageError, match=r'`model` \(now "other", before "m"\)'),
        open_vectors(output, {**SETTINGS, "model": "other"}, WIDTH, resume=True),
    ):
        pass
    assert files(output) == before


@pytest.mark.parametrize(
    "options", [{"resume": True, "overwrite": True}, {"retry_errors": True}], ids=["both", "retry alone"]
)
def test_options_that_contradict_each_other(output: Path, options: dict[str, bool]) -> None:
    with pytest.raises(UsageError, match="resume"):
        check_vectors(output, **options)


@pytest.mark.parametrize("name", ["features", "features.csv", "x.npz.gz"])
def test_an_unknown_suffix(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"\.npz, \.npy, or \.parquet"):
        check_vectors(tmp_path / name)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match="pip install pyarrow"):
        check_vectors(tmp_path / "features.PARQUET")


@pytest.mark.parametrize("place", ["missing/features.npz", "features.npz"])
def test_a_path_that_cannot_be_a_file(tmp_path: Path, place: str) -> None:
    os.mkfifo(tmp_path / "features.npz")
    with pytest.raises(OutputError, match=r"does not exist|not a regular file"):
        check_vectors(tmp_path / place)


def test_a_file_with_other_contents_is_not_resumed(output: Path) -> None:
    run(output)
    for data in (b"", b"precious", output.read_bytes()[:-40], output.read_bytes()[:100]):
        output.write_bytes(data or b"\0" * 200)
        before = files(output)
        with pytest.raises(OutputError, match=r"damaged.*`overwrite`"):
            run(output, resume=True)
        assert files(output) == before


def test_a_list_of_sources_that_does_not_fit(output: Path) -> None:
    run(output)
    path = output.with_name(output.name + ".sources.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    for wrong in (lines[:-1], lines[1:], lines[::-1], [*lines, b'{"source": "x", "row": 7}\n']):
        path.write_bytes(b"".join(wrong))
        with pytest.raises(OutputError, match="damaged"):
            run(output, resume=True)
    path.unlink()
    with pytest.raises(UsageError, match=r"sources\.jsonl is missing"):
        run(output, resume=True)


def test_a_second_run_on_the_same_file_is_an_error(output: Path) -> None:
    run(output, stop_after=1)
    with open_vectors(output, SETTINGS, WIDTH, resume=True) as writer:

        def resume() -> None:
            with pytest.raises(OutputError, match="another run is writing it"):
                run(output, resume=True)

        assert exit_status(resume) == 0
        writer.write(embed(Source("z"), repaired=False))
    np.testing.assert_array_equal(matrix(output), [vector_of("a.jpg"), vector_of("z")])


def test_a_symbolic_link_is_followed(output: Path) -> None:
    target = output.parent / "elsewhere"
    output.symlink_to(target)
    run(output, stop_after=4)
    run(output, resume=True)
    assert output.is_symlink() and target.is_file()
    np.testing.assert_array_equal(matrix(output), VECTORS)


@pytest.mark.parametrize("room", range(0, 400, 57))
def test_a_full_disk_keeps_what_is_finished(output: Path, room: int) -> None:
    parts_file = parts_path(output)
    run(output, stop_after=1)
    with (
        limit_file_size(parts_file.stat().st_size + room),
        pytest.raises(OutputError, match=r"File too large.*`resume`"),
    ):
        run(output, resume=True)
    assert not output.exists()
    finished = len(parts_file.read_bytes().splitlines())
    assert finished >= 1
    assert run(output, resume=True) == NAMES[finished:]
    np.testing.assert_array_equal(matrix(output), VECTORS)


@pytest.mark.parametrize("format_name", ["npz", "parquet"])
@pytest.mark.parametrize("room", [0, 100, 300])
def test_a_disk_that_is_full_at_the_end_keeps_all_vectors(tmp_path: Path, format_name: str, room: int) -> None:
    """The parts of these short vectors are smaller than the file, so the disk is too small for the file."""
    output = tmp_path / f"features.{format_name}"
    run(output)
    complete = files(output)
    run(output, overwrite=True, stop_after=len(SOURCES) - 1)
    output.unlink()
    size = parts_path(output).stat().st_size + 200 + room
    assert size < len(complete[output.name])
    with (
        limit_file_size(size),
        pytest.raises(OutputError, match=r"File too large.*parts\.jsonl.*`resume`"),
    ):
        run(output, resume=True)
    assert not {output.name, output.name + ".part"} & set(files(output))
    assert run(output, resume=True) == []
    assert files(output) == complete
