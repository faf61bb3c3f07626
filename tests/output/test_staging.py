"""The staging folder: what is uploaded, and what may be deleted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from densenet_cli.output.staging import StagedRun, UploadState, identify, list_staged, remove_staged
from tests.support.staging import sources_in, storage_url, stored, write_and_be_killed


def staged_run() -> StagedRun:
    (run,) = list_staged()
    return run


@pytest.mark.parametrize(("names", "is_uploaded"), [("ab", False), ("ab+", True), ("ab+c", False), ("ab+c+", True)])
def test_a_killed_run_is_uploaded_if_storage_has_all_records(names: str, is_uploaded: bool, tmp_path: Path) -> None:
    write_and_be_killed(storage_url(tmp_path), names)
    run = staged_run()
    assert (run.url, run.is_uploaded) == (storage_url(tmp_path), is_uploaded)
    staged = run.folder / "files" / "labels.jsonl"
    assert (sources_in(staged) == sources_in(stored(tmp_path))) == is_uploaded
    remove_staged(run)
    assert list_staged() == []


def test_a_record_that_is_finished_during_an_upload_is_not_uploaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is written after the upload, so its time says nothing."""
    write_and_be_killed(storage_url(tmp_path), "ab+c")
    run = staged_run()
    later = (run.folder / "state.json").stat().st_mtime_ns + 10**9
    os.utime(run.folder / "state.json", ns=(later, later))
    assert not staged_run().is_uploaded


def test_a_file_of_the_same_size_with_other_contents_is_not_uploaded(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text("first\n")
    state = UploadState(tmp_path / "state.json", "s3://bucket/labels.jsonl")
    state.uploaded[path.name] = identify(path)
    assert state.is_uploaded(path)
    (tmp_path / "new").write_text("other\n")
    (tmp_path / "new").replace(path)
    assert not state.is_uploaded(path)
    state.uploaded[path.name] = identify(path, size=3)
    assert not state.is_uploaded(path)


def test_the_state_is_written_and_read(tmp_path: Path) -> None:
    state = UploadState(tmp_path / "state.json", "s3://bucket/labels.jsonl")
    state.versions[""] = "etag"
    state.uploaded["labels.jsonl"] = [1, 2, 3]
    state.write()
    again = UploadState(tmp_path / "state.json")
    assert (again.url, again.versions, again.uploaded) == (state.url, state.versions, state.uploaded)


def test_what_an_older_version_has_staged_counts_as_not_uploaded(tmp_path: Path) -> None:
    write_and_be_killed(storage_url(tmp_path), "ab+")
    path = staged_run().folder / "state.json"
    content = json.loads(path.read_bytes())
    del content["uploaded"]
    path.write_text(json.dumps(content))
    assert UploadState(path).versions == content["files"] != {}
    assert not staged_run().is_uploaded


@pytest.mark.parametrize("content", ["", "{", "5", "[]", "{}", '{"url": 1, "files": [], "uploaded": 1}'])
def test_a_damaged_state_counts_as_not_uploaded(content: str, tmp_path: Path) -> None:
    write_and_be_killed(storage_url(tmp_path), "ab+")
    (staged_run().folder / "state.json").write_text(content)
    assert not staged_run().is_uploaded
