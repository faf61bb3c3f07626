"""The output folder: complete or absent files, and settings."""

from __future__ import annotations

import pytest

from densenet_cli.errors import OutputError, UsageError
from densenet_cli.ray.folder import PartCounts, PartFolder


@pytest.fixture
def folder(tmp_path):
    return PartFolder(str(tmp_path / "out"), "jsonl")


def test_a_file_is_complete_or_absent(folder, tmp_path):
    with pytest.raises(RuntimeError), folder.create("part-00000.jsonl") as file:
        file.write(b"half")
        raise RuntimeError
    assert list((tmp_path / "out").iterdir()) == []
    with folder.create("part-00000.jsonl") as file:
        file.write(b"whole")
        assert not (tmp_path / "out" / "part-00000.jsonl").exists()
    assert (tmp_path / "out" / "part-00000.jsonl").read_bytes() == b"whole"


def test_two_processes_can_write_the_same_part(folder, tmp_path):
    with folder.create("part-00000.jsonl") as first, folder.create("part-00000.jsonl") as second:
        first.write(b"same")
        second.write(b"same")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["part-00000.jsonl"]


def test_a_part_is_done_if_it_and_its_marker_exist(folder, tmp_path):
    for part in (0, 1, 123456):
        with folder.create(folder.part_name(part)):
            pass
    folder.finish(0, PartCounts(10, 2))
    folder.finish(123456, PartCounts(1, 0))
    folder.finish(5, PartCounts(3, 0))
    assert folder.finished() == {0: PartCounts(10, 2), 123456: PartCounts(1, 0)}


def test_settings_that_differ_are_named(folder):
    folder.write_settings({"model": "a", "sources": ["x"], "notes": ["n"], "run": "1"})
    assert folder.check_settings({"model": "a", "sources": ["x"], "notes": []}) == "1"
    with pytest.raises(UsageError, match=r"sources.*\"y\""):
        folder.check_settings({"model": "a", "sources": ["y"]})
    folder.put("_settings.json", b"{}")
    with pytest.raises(UsageError, match="crop_ratio"):
        folder.check_settings({"crop_ratio": 0.875, "preprocess": "crop"})
    folder.put("_settings.json", b"{")
    with pytest.raises(UsageError, match="damaged"):
        folder.check_settings({})


def test_a_replaced_run_writes_nothing(folder):
    folder.write_settings({"run": "1"})
    folder.check_run("1")
    with pytest.raises(OutputError, match="replaced"):
        folder.check_run("2")


def test_only_files_of_runs_are_deleted(folder, tmp_path):
    out = tmp_path / "out"
    folder.write_settings({"run": "1"})
    folder.write_sources(0, b"[]\n")
    folder.write_totals(1, 1)
    folder.finish(0, PartCounts(1, 0))
    folder.put("part-00000.jsonl", b"")
    folder.put("part-00001.csv", b"")
    folder.put("mine.jsonl", b"")
    folder.clear()
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == ["mine.jsonl"]


def test_part_files_of_an_unknown_run_are_not_touched(folder):
    folder.check_empty()
    folder.put("part-00000.parquet", b"")
    with pytest.raises(UsageError, match="unknown"):
        folder.check_empty()


def test_a_path_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="not a folder"):
        PartFolder(str(tmp_path / "file"), "jsonl").check()


def test_a_full_disk_is_reported():
    from densenet_cli.ray.folder import _LocalFiles

    with pytest.raises(OutputError):
        _LocalFiles.put(PartFolder("/proc/nothing", "jsonl")._files, "x", b"")
