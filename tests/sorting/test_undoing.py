"""``undo`` restores what was placed, and leaves what was changed since then."""

from __future__ import annotations

import json
import os
from pathlib import Path
from unittest import mock

import pytest

from densenet_cli.errors import UsageError
from densenet_cli.sorting import journal as journal_module
from densenet_cli.sorting import undoing
from densenet_cli.sorting.journal import JOURNAL_NAME
from densenet_cli.sorting.transfer import Operation
from tests.support.sorting import FILES, SORTED, contents, killed, run, tree, undo_all, write_files


@pytest.fixture
def photos(tmp_path):
    return write_files(tmp_path / "photos")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("sorted_again", [False, True])
@pytest.mark.parametrize("action", ["copy", "move", "link"])
def test_kill_at_every_moment(folders, action, sorted_again, monkeypatch):
    """``undo`` continues, also if the images were sorted again in between."""
    source, target = folders
    if sorted_again:
        monkeypatch.setattr(undoing, "BATCH_SIZE", 2)

    def undo_or_fail():
        assert undo_all(target)[1] == {}

    for count in range(1, 1000):
        run(source, target, action)
        if not killed(count, undo_or_fail):
            break
        assert contents(source, target) >= set(FILES.values())
        if sorted_again:
            run(source, target, action)
            assert tree(target) == SORTED, count
        if (target / JOURNAL_NAME).exists():
            undo_or_fail()
        assert tree(source) == FILES and tree(target) == {}, count
    assert count > 10


@pytest.mark.parametrize("action", ["copy", "move", "link"])
def test_missing_files_are_reported(folders, action):
    """Also by the next ``undo``, until they are back."""
    source, target = folders
    run(source, target, action)
    (target / "unsure/2.png").rename(target / "moved.png")
    assert undo_all(target) == (len(SORTED) - 1, {"unsure/2.png": "It is missing."})
    assert undo_all(target) == (0, {"unsure/2.png": "It is missing."})
    (target / "unsure").mkdir()
    (target / "moved.png").rename(target / "unsure/2.png")
    assert undo_all(target) == (1, {})
    assert tree(source) == FILES and not target.exists()


@pytest.mark.parametrize("action", ["copy", "move", "link"])
@pytest.mark.parametrize("content", [b"edited, longer", b"FIRST", b""])
def test_changed_files_are_left(folders, action, content):
    source, target = folders
    run(source, target, action)
    (target / "cat/1.jpg").unlink()
    (target / "cat/1.jpg").write_bytes(content)
    restored, left = undo_all(target)
    assert restored == len(SORTED) - 1 and set(left) == {"cat/1.jpg"}
    assert tree(target) == {"cat/1.jpg": content} and (target / JOURNAL_NAME).exists()
    assert ("a/1.jpg" in tree(source)) == (action != "move")


def test_new_file_with_the_original_name_is_kept(photos, tmp_path):
    run(photos, tmp_path / "sorted", "move")
    (photos / "a/1.jpg").write_bytes(b"a new file")
    restored, left = undo_all(tmp_path / "sorted")
    assert restored == len(SORTED) - 1 and set(left) == {"cat/1.jpg"}
    assert tree(photos)["a/1.jpg"] == b"a new file" and tree(tmp_path / "sorted") == {"cat/1.jpg": b"first"}
    (photos / "a/1.jpg").unlink()
    assert undo_all(tmp_path / "sorted") == (1, {})


def test_the_only_copy_is_kept(photos, tmp_path):
    run(photos, tmp_path / "sorted", "copy")
    (photos / "b/2.png").unlink()
    (photos / "a/1.jpg").write_bytes(b"FIRST")
    assert set(undo_all(tmp_path / "sorted")[1]) == {"unsure/2.png", "cat/1.jpg"}
    assert tree(tmp_path / "sorted") == {"unsure/2.png": b"third", "cat/1.jpg": b"first"}
    (tmp_path / "sorted/cat/1.jpg").rename(tmp_path / "1.jpg")
    left = undo_all(tmp_path / "sorted")[1]
    assert left["cat/1.jpg"] == "It is missing." and set(left) == {"unsure/2.png", "cat/1.jpg"}


def test_file_that_was_moved_back_is_restored(photos, tmp_path):
    run(photos, tmp_path / "sorted", "move")
    (tmp_path / "sorted/unsure/2.png").rename(photos / "b/2.png")
    assert undo_all(tmp_path / "sorted") == (len(SORTED), {})
    assert tree(photos) == FILES


@pytest.mark.parametrize("action", ["copy", "move", "link"])
def test_renamed_folder_is_refused(photos, tmp_path, action):
    target, renamed = tmp_path / "sorted", tmp_path / "renamed"
    run(photos, target, action)
    target.rename(renamed)
    before = tree(renamed)
    for work in (lambda: undo_all(renamed), lambda: run(photos, renamed, action)):
        with pytest.raises(UsageError, match="sorted"):
            work()
    assert tree(renamed) == before
    target.symlink_to(renamed)  # the original name leads to the folder
    assert undo_all(renamed) == (len(SORTED), {})
    assert tree(photos) == FILES


def test_folder_that_leads_elsewhere(photos, tmp_path):
    """A link in the folder, and a link to the folder."""
    target = tmp_path / "sorted"
    (tmp_path / "elsewhere").mkdir()
    target.mkdir()
    (target / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(target)
    run(photos, tmp_path / "link", "move")
    assert (tmp_path / "elsewhere/1.jpg").exists()
    assert undo_all(target.resolve())[1] == {}
    assert tree(photos) == FILES and target.exists() and (tmp_path / "elsewhere").exists()


def test_created_folders_are_removed(photos, tmp_path):
    run(photos, tmp_path / "new/sorted", "copy")
    assert undo_all(tmp_path / "new/sorted")[1] == {}
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    run(photos, tmp_path / "old/sorted", "copy")
    (tmp_path / "old/sorted/mine.txt").write_bytes(b"mine")
    assert undo_all(tmp_path / "old/sorted")[1] == {}
    assert list((tmp_path / "old/sorted").iterdir()) == [tmp_path / "old/sorted/mine.txt"]


@pytest.mark.parametrize("action", ["copy", "link"])
def test_undo_on_a_full_disk(photos, tmp_path, action):
    run(photos, tmp_path / "sorted", action)
    with mock.patch.object(journal_module, "write_all", side_effect=OSError(28, "No space left on device")):
        assert undo_all(tmp_path / "sorted") == (len(SORTED), {})
    assert tree(photos) == FILES and not (tmp_path / "sorted").exists()


def test_file_system_without_times(photos, tmp_path):
    """Moved files have new modification times there."""
    perform = Operation.perform

    def perform_without_times(operation):
        perform(operation)
        os.utime(operation.target)

    with mock.patch.object(Operation, "perform", perform_without_times):
        run(photos, tmp_path / "sorted", "move")
    assert undo_all(tmp_path / "sorted") == (len(SORTED), {})


def rewrite_as_before(journal: Path) -> None:
    """Give a journal the format that had no modification times, images of sidecar files, and lists of void numbers."""
    lines = []
    for values in map(json.loads, journal.read_text().splitlines()):
        for name in ("mtime", "image", "mtimes"):
            values.pop(name, None)
        lines += [{"void": number} for number in values["void"]] if "void" in values else [values]
    journal.write_text("".join(json.dumps(values) + "\n" for values in lines))


@pytest.mark.parametrize("action", ["copy", "move", "link"])
def test_old_journals_can_be_undone(folders, action):
    source, target = folders
    run(source, target, action)
    undo_all(target)
    run(source, target, action)
    rewrite_as_before(target / JOURNAL_NAME)
    assert run(source, target, action).report.placed == {}
    rewrite_as_before(target / JOURNAL_NAME)
    assert undo_all(target) == (len(SORTED), {})
    assert tree(source) == FILES
