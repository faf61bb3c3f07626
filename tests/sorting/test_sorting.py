"""Files are placed completely or not at all, whenever the run ends, and ``undo`` restores all of them."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import pytest

from densenet_cli.errors import OutputError, UsageError
from densenet_cli.sorting import sorter as sorter_module
from densenet_cli.sorting import transfer
from densenet_cli.sorting.journal import JOURNAL_NAME, Journal
from densenet_cli.sorting.sorter import Placement, Sorter
from densenet_cli.sorting.transfer import Operation, UnreadableFileError
from tests.support.sorting import FILES, PLACEMENTS, SORTED, contents, killed, run, tree, undo_all, write_files

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.mark.parametrize("action", ["copy", "move", "link"])
def test_sort_and_undo(folders, action):
    source, target = folders
    sorter = run(source, target, action)
    assert tree(target) == SORTED
    assert sorter.report.placed == {"cat": 2, "dog": 2, "unsure": 1, "failed": 1}
    assert sorter.report.sidecars == 4
    assert sorter.report.identical == [str(source / "c/1.jpg")]
    if action == "move":
        assert tree(source) == {"b/2.cr2": b"not of a JPEG", "c/1.jpg": b"first"}
    else:
        assert tree(source) == FILES
    assert all(path.is_symlink() == (action == "link") for path in target.rglob("*.png"))
    again = run(source, target, action)
    assert not again.report.placed and tree(target) == SORTED
    assert undo_all(target) == (len(SORTED), {})
    assert tree(source) == FILES
    assert not target.exists()
    with pytest.raises(UsageError):
        Journal(target, create=False)


@needs_fork
@pytest.mark.parametrize("undone_directly", [False, True])
@pytest.mark.parametrize("action", ["copy", "move", "link"])
def test_kill_at_every_moment(folders, action, undone_directly, monkeypatch):
    """No content is ever lost, the same command finishes, and ``undo`` restores everything."""
    source, target = folders
    if undone_directly:
        monkeypatch.setattr(sorter_module, "BATCH_SIZE", 2)
    count = 1
    while True:
        shutil.rmtree(source)
        shutil.rmtree(target, ignore_errors=True)
        write_files(source)
        if not killed(count, lambda: run(source, target, action)):
            break
        assert contents(source, target) >= set(FILES.values())
        if not undone_directly:
            run(source, target, action, listed_first=count % 2 == 0)
            assert tree(target) == SORTED, count
            if action != "move":
                assert tree(source) == FILES
        if (target / JOURNAL_NAME).exists() and (target / JOURNAL_NAME).stat().st_size:
            assert undo_all(target)[1] == {}, count
        assert tree(source) == FILES and tree(target) == {}, count
        count += 1
    assert count > (15 if action == "link" else 30)


def fail_for(name: str, error: OSError):
    """Return a patch: a file of this name cannot be placed."""
    perform = Operation.perform

    def perform_or_fail(operation):
        if operation.source.endswith(name):
            raise error
        perform(operation)

    return mock.patch.object(Operation, "perform", perform_or_fail)


DAMAGED = UnreadableFileError(5, "Input/output error")


@pytest.mark.parametrize("name", ["1.jpg", "1.xmp", "1.CR2", "1.jpg.xmp"])
@pytest.mark.parametrize("action", ["copy", "move", "link"])
def test_image_and_sidecars_are_placed_together_or_not_at_all(folders, action, name):
    source, target = folders
    with fail_for(f"a/{name}", DAMAGED):
        sorter = run(source, target, action)
    assert [path for path, _ in sorter.report.skipped] == [str(source / "a/1.jpg")]
    assert (name in sorter.report.skipped[0][1]) == (name != "1.jpg")
    assert sorter.report.placed["cat"] == 1 and sorter.report.sidecars == 1
    assert {name for name in tree(target) if "cat/" in name} == {name for name in SORTED if "cat/1-" in name}
    assert {name for name in tree(source) if "a/" in name} == {name for name in FILES if "a/" in name}
    again = run(source, target, action)
    assert again.report.placed == {"cat": 1} and again.report.sidecars == 3
    assert tree(target) == SORTED
    assert undo_all(target) == (len(SORTED), {})
    assert tree(source) == FILES


@needs_fork
@pytest.mark.parametrize("action", ["copy", "move", "link"])
def test_kill_while_a_sidecar_fails(folders, action):
    source, target = folders

    def run_with_failure():
        with fail_for("a/1.jpg.xmp", DAMAGED):
            run(source, target, action)

    for count in range(1, 1000):
        shutil.rmtree(source)
        shutil.rmtree(target, ignore_errors=True)
        write_files(source)
        if not killed(count, run_with_failure):
            break
        assert contents(source, target) >= set(FILES.values())
        run_with_failure()
        assert {name for name in tree(source) if "a/" in name} == {name for name in FILES if "a/" in name}
        run(source, target, action)
        assert tree(target) == SORTED, count
        assert undo_all(target)[1] == {}
        assert tree(source) == FILES, count
    assert count > 15


@pytest.mark.parametrize("action", ["copy", "move"])
def test_full_disk(folders, action):
    """An error while writing leaves the source, no partial file, and a journal with which the command continues."""
    source, target = folders
    full = OSError(28, "No space left on device")
    target.mkdir()
    with mock.patch.object(transfer, "write_all", side_effect=full):
        if action == "move" and source.stat().st_dev == target.stat().st_dev:
            pytest.skip("a move on one file system writes nothing")
        with pytest.raises(OutputError, match="No space left"):
            run(source, target, action)
    assert tree(source) == FILES
    assert not [path for path in target.rglob("*") if path.is_file() and path.name != JOURNAL_NAME]
    run(source, target, action)
    assert tree(target) == SORTED


def test_existing_files_are_kept(folders):
    source, target = folders
    (target / "cat").mkdir(parents=True)
    (target / "cat" / "1.jpg").write_bytes(b"mine")
    (target / "cat" / "1.xmp").write_bytes(b"mine, too")
    run(source, target, "move")
    files = tree(target)
    assert (files["cat/1.jpg"], files["cat/1.xmp"]) == (b"mine", b"mine, too")
    assert sorted(files.values()) == sorted([b"mine", b"mine, too", *SORTED.values()])
    assert undo_all(target)[1] == {}
    assert tree(source) == FILES
    assert tree(target) == {"cat/1.jpg": b"mine", "cat/1.xmp": b"mine, too"}


def test_file_that_appears_meanwhile_is_kept(tmp_path):
    source, target = write_files(tmp_path / "photos"), tmp_path / "sorted"
    begin = Journal.begin

    def begin_late(journal, operations):
        begin(journal, operations)
        (target / "cat/1.jpg").write_bytes(b"other")

    with mock.patch.object(Journal, "begin", begin_late):
        sorter = run(source, target, "move")
    assert [path for path, _ in sorter.report.skipped] == [str(source / "a/1.jpg")]
    assert tree(target)["cat/1.jpg"] == b"other" and tree(source)["a/1.jpg"] == b"first"
    assert "a/1.xmp" in tree(source)
    assert undo_all(target)[1] == {}
    assert tree(source) == FILES


@pytest.mark.parametrize("action", ["copy", "move", "link"])
def test_the_longest_names(folders, action):
    """Names have up to 255 bytes, also with the hash of their content."""
    source, target = folders
    long = "ü" * 125 + ".jpg"
    (source / "a" / long).write_bytes(b"one")
    (source / "b" / long).write_bytes(b"two")
    (source / "b" / long.replace(".jpg", ".xmp")).write_bytes(b"about two")
    target.mkdir()
    with Journal(target) as journal:
        sorter = Sorter(target, action, journal)
        list(sorter.place([Placement(str(source / folder / long), "cat") for folder in "ab"]))
        assert sorter.report.placed == {"cat": 2} and sorter.report.skipped == []
    names = {content: name for name, content in tree(target).items()}
    assert names[b"one"] == f"cat/{long}" and names[b"two"].endswith(".jpg") and "ü-" in names[b"two"]
    assert names[b"about two"] == names[b"two"].replace(".jpg", ".xmp")
    assert undo_all(target)[1] == {}
    assert (source / "b" / long).read_bytes() == b"two"


@pytest.mark.skipif(os.name == "nt", reason="needs permissions")
@pytest.mark.parametrize("action", ["copy", "move", "link"])
def test_files_that_cannot_be_read_are_skipped(action):
    """An image stays with its sidecar files if one of them cannot be read. The other images are placed."""
    root = Path(tempfile.mkdtemp(prefix="densenet-sort-"))  # accessible to every user, unlike the folders of pytest
    is_root = os.geteuid() == 0
    try:
        root.chmod(0o777)
        source, target = write_files(root / "photos"), root / "sorted"
        for path in (source, *source.iterdir()):
            path.chmod(0o777)
        unreadable = [source / "a/1.jpg", source / "b/1.jpg", source / "d/3.xmp"]
        for path in unreadable:
            path.chmod(0)
        if is_root:
            os.seteuid(65534)
        placements = {name: folder for name, folder in PLACEMENTS.items() if name != "c/1.jpg"}
        sorter = run(source, target, action, placements)
        names = ("a/1.jpg", "b/1.jpg", "d/3.jpg", "d/3.png")
        assert [path for path, _ in sorter.report.skipped] == [str(source / name) for name in names]
        assert ["3.xmp" in reason for _, reason in sorter.report.skipped] == [False, False, True, True]
        assert set(tree(target)) == {"unsure/2.png", "failed/empty.jpg"}
        assert run(source, target, action, placements).report.placed == {}
        if is_root:
            os.seteuid(0)
        for path in unreadable:
            path.chmod(0o644)
        assert run(source, target, action, placements).report.skipped == []
        assert sorted(tree(target).values()) == sorted(SORTED.values())
    finally:
        if is_root:
            os.seteuid(0)
        shutil.rmtree(root)


def test_symbolic_links_are_not_moved(tmp_path):
    (tmp_path / "real.jpg").write_bytes(b"x")
    (tmp_path / "link.jpg").symlink_to("real.jpg")
    target = tmp_path / "sorted"
    target.mkdir()
    with Journal(target) as journal:
        sorter = Sorter(target, "move", journal)
        list(sorter.place([Placement(str(tmp_path / "link.jpg"), "cat"), Placement(str(tmp_path / "none.jpg"), "cat")]))
    assert len(sorter.report.skipped) == 2 and (tmp_path / "link.jpg").is_symlink()


@pytest.mark.parametrize("action", ["copy", "link"])
def test_placed_images_are_done(folders, action):
    """Images that were copied or linked are not placed again, wherever the user moved them, except after ``undo``."""
    source, target = folders
    run(source, target, action)
    (target / "unsure/2.png").rename(target / "cat/2.png")
    (target / "dog/3.png").unlink()
    before = tree(target)
    assert run(source, target, action).report.placed == {}
    assert tree(target) == before
    restored, left = undo_all(target)
    assert restored == len(SORTED) - 2 and set(left) == {"unsure/2.png", "dog/3.png"}
    assert set(tree(target)) == {"cat/2.png"}
    assert run(source, target, action).report.placed == {"cat": 2, "dog": 1, "failed": 1}
    assert set(tree(target)) == {*SORTED, "cat/2.png"} - {"unsure/2.png", "dog/3.png"}


@pytest.mark.parametrize("action", ["copy", "move", "link"])
def test_folder_below_the_sources(tmp_path, action):
    """Images that the user moved from one folder to another are not placed again."""
    source = write_files(tmp_path / "photos")
    target = source / "sorted"
    run(source, target, action)
    (target / "unsure/2.png").rename(target / "cat/2.png")
    before = tree(source)
    names = [path.relative_to(source).as_posix() for path in target.rglob("*.png")]
    assert "sorted/cat/2.png" in names
    assert run(source, target, action, dict.fromkeys(names, "unsure")).report.placed == {}
    assert tree(source) == before
    (target / "new.jpg").write_bytes(b"new")
    assert run(source, target, action, {"sorted/new.jpg": "cat"}).report.placed == {"cat": 1}


@pytest.mark.parametrize("change", ["size", "time"])
def test_changed_source_is_another_image(tmp_path, change):
    source, target = write_files(tmp_path / "photos"), tmp_path / "sorted"
    run(source, target, "copy")
    content = b"THIRD" if change == "time" else b"a longer image"
    (source / "b/2.png").write_bytes(content)
    if change == "size":
        os.utime(source / "b/2.png", (1_000_000_000, 1_000_000_000))
    assert run(source, target, "copy").report.placed == {"unsure": 1}
    assert sorted(tree(target).values()) == sorted([*SORTED.values(), content])


def test_operation_that_is_given_up_is_not_done(tmp_path):
    """A file of an interrupted run that cannot be placed is planned again in the same run."""
    source, target = write_files(tmp_path / "photos"), tmp_path / "sorted"
    with mock.patch.object(Operation, "perform", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        run(source, target, "copy")
    (target / "unsure/2.png").write_bytes(b"another")
    sorter = run(source, target, "copy")
    assert sorter.report.placed == {"unsure": 1}
    assert sorted(tree(target).values()) == sorted([*SORTED.values(), b"another"])
