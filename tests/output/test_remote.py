"""Output files in storage: what runs that are killed, resumed, and refused do to staged and stored files."""

from __future__ import annotations

from pathlib import Path

import pytest

from densenet_cli import storage
from densenet_cli.errors import DensenetError, OutputError, UsageError
from densenet_cli.output.remote import RECORD_FILES
from densenet_cli.output.staging import identify, list_staged
from densenet_cli.paths import staging_dir
from tests.support.staging import sources_in, storage_url, stored, write_and_be_killed, write_records


@pytest.fixture
def url(tmp_path: Path) -> str:
    return storage_url(tmp_path)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """The file in storage."""
    return stored(tmp_path)


def delete(path: Path) -> None:
    path.unlink()


def delete_settings(path: Path) -> None:
    path.with_name(f"{path.name}.meta.json").unlink()


def delete_both(path: Path) -> None:
    delete(path)
    delete_settings(path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


class TestDeletedFiles:
    """A file in storage was deleted or emptied after a killed run on this machine had uploaded it."""

    @pytest.fixture(params=[delete, delete_settings, delete_both, empty])
    def killed(self, url: str, output: Path, request: pytest.FixtureRequest) -> None:
        write_and_be_killed(url, "ab+c")
        assert sources_in(output) == ["a", "b"]
        request.param(output)

    @pytest.mark.usefixtures("killed")
    def test_the_staged_results_are_continued(self, url: str, output: Path) -> None:
        write_records(url, "d", resume=True)
        assert sources_in(output) == ["a", "b", "c", "d"]
        assert output.with_name("labels.jsonl.meta.json").stat().st_size
        assert list_staged() == []

    def test_they_are_not_uploaded_if_the_next_run_is_killed_too(self, url: str, output: Path) -> None:
        write_and_be_killed(url, "ab+")
        assert [run.is_uploaded for run in list_staged()] == [True]
        delete(output)
        write_and_be_killed(url, "", resume=True)
        assert [run.is_uploaded for run in list_staged()] == [False]

    @pytest.mark.usefixtures("killed")
    def test_they_are_kept_without_resume(self, url: str) -> None:
        with pytest.raises(UsageError, match=r"`resume`.*`overwrite`"):
            write_records(url, "d")
        (run,) = list_staged()
        assert sources_in(run.folder / "files" / "labels.jsonl") == ["a", "b", "c"]

    @pytest.mark.usefixtures("killed")
    def test_overwrite_discards_them(self, url: str, output: Path) -> None:
        write_records(url, "d", overwrite=True)
        assert sources_in(output) == ["d"]


def test_a_file_that_another_machine_has_changed_replaces_the_staged_results(
    url: str, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_and_be_killed(url, "ab+c")
    with monkeypatch.context() as patch:
        patch.setenv("DENSENET_CACHE", str(tmp_path / "another machine"))
        write_records(url, "xyz", resume=True)
    write_records(url, "d", resume=True)
    assert sources_in(output) == ["a", "b", "x", "y", "z", "d"]


class TestNothingNew:
    """A run that writes no record changes nothing in storage, and leaves nothing on this machine."""

    @pytest.fixture(autouse=True)
    def finished(self, url: str, output: Path) -> list[list[int]]:
        write_records(url, "ab")
        return self.stored_files(output)

    def stored_files(self, output: Path) -> list[list[int]]:
        return [identify(output.with_name(output.name + suffix)) for suffix in RECORD_FILES]

    def test_other_settings(self, url: str, output: Path, finished: list[list[int]]) -> None:
        with pytest.raises(UsageError, match="other settings"):
            write_records(url, "c", top_k=2, resume=True)
        assert self.stored_files(output) == finished
        assert list(staging_dir().iterdir()) == []

    def test_an_error_before_the_first_record(self, url: str, output: Path, finished: list[list[int]]) -> None:
        with pytest.raises(DensenetError, match="failed"):
            write_records(url, "", fail=True, resume=True)
        assert self.stored_files(output) == finished
        assert list(staging_dir().iterdir()) == []

    def test_no_new_sources(self, url: str, output: Path, finished: list[list[int]]) -> None:
        write_records(url, "", resume=True)
        assert self.stored_files(output) == finished
        assert list(staging_dir().iterdir()) == []

    def test_an_error_after_a_record(self, url: str, output: Path) -> None:
        with pytest.raises(DensenetError, match="failed"):
            write_records(url, "c", fail=True, resume=True)
        assert sources_in(output) == ["a", "b", "c"]
        assert [run.is_uploaded for run in list_staged()] == [True]

    def test_other_settings_than_those_of_staged_results(self, url: str, output: Path) -> None:
        with pytest.raises(DensenetError, match="failed"):
            write_records(url, "c", fail=True, resume=True)
        before = self.stored_files(output)
        with pytest.raises(UsageError, match="other settings"):
            write_records(url, "d", top_k=2, resume=True)
        assert self.stored_files(output) == before
        assert [run.is_uploaded for run in list_staged()] == [True]

    def test_a_failed_download(
        self, url: str, output: Path, finished: list[list[int]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        download = storage.download

        def fail(url: str, path: Path) -> None:
            if url.endswith(".meta.json"):
                raise OutputError("failed")
            download(url, path)

        monkeypatch.setattr(storage, "download", fail)
        with pytest.raises(OutputError, match="failed"):
            write_records(url, "c", resume=True)
        assert self.stored_files(output) == finished
        assert list(staging_dir().iterdir()) == []
