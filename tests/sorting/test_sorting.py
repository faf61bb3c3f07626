"""Files are placed completely or not at all, whenever the run ends, and ``undo`` restores all of them."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import pytest

from densenet_cli.errors import OutputError, UsageError
from densenet_cli.labels import ClassLabel
from densenet_cli.results import Failure, Prediction, Score
from densenet_cli.sorting import transfer
from densenet_cli.sorting.journal import JOURNAL_NAME, Journal
from densenet_cli.sorting.sorter import Placement, Sorter, choose_folder, class_folders, find_sidecars, safe_name, undo

FILES = {
    "a/1.jpg": b"first",
    "a/1.xmp": b"about the first",
    "a/1.CR2": b"raw",
    "a/1.jpg.xmp": b"more about it",
    "b/1.jpg": b"second",
    "b/2.png": b"third",
    "b/2.cr2": b"not of a JPEG",
    "b/empty.jpg": b"",
    "c/1.jpg": b"first",
}
PLACEMENTS = {"a/1.jpg": "cat", "b/1.jpg": "cat", "b/2.png": "unsure", "b/empty.jpg": "failed", "c/1.jpg": "cat"}


def write_files(folder: Path) -> Path:
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != JOURNAL_NAME
    }


def run(source: Path, target: Path, action: str) -> Sorter:
    """Sort, as the command does: the images that are not placed yet."""
    find_sidecars.__globals__["_names_by_stem"].cache_clear()
    target.mkdir(exist_ok=True)
    with Journal(target) as journal:
        sorter = Sorter(target, action, journal)
        sorter.finish_pending()
        paths = [(source / name, folder) for name, folder in PLACEMENTS.items() if (source / name).exists()]
        list(sorter.place(Placement(str(path), folder) for path, folder in paths if not sorter.is_done(str(path))))
        return sorter


@pytest.fixture(params=["same file system", "two file systems"])
def folders(request, tmp_path):
    """A folder of files, and a folder to sort into."""
    source = write_files(tmp_path / "photos")
    if request.param == "same file system":
        yield source, tmp_path / "sorted"
        return
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    target = other / f"densenet-sort-{os.getpid()}"
    yield source, target
    shutil.rmtree(target, ignore_errors=True)


HASH = transfer.hashlib.sha256(b"second").hexdigest()[:8]
SORTED = {
    "cat/1.jpg": b"first",
    "cat/1.xmp": b"about the first",
    "cat/1.CR2": b"raw",
    "cat/1.jpg.xmp": b"more about it",
    f"cat/1-{HASH}.jpg": b"second",
    "unsure/2.png": b"third",
    "failed/empty.jpg": b"",
}


@pytest.mark.parametrize("action", ["copy", "move", "link"])
def test_sort_and_undo(folders, action):
    source, target = folders
    sorter = run(source, target, action)
    assert tree(target) == SORTED
    assert sorter.report.placed == {"cat": 2, "unsure": 1, "failed": 1}
    assert sorter.report.sidecars == 3
    assert sorter.report.identical == [str(source / "c/1.jpg")]
    if action == "move":
        assert tree(source) == {"b/2.cr2": b"not of a JPEG", "c/1.jpg": b"first"}
    else:
        assert tree(source) == FILES
    assert all(path.is_symlink() == (action == "link") for path in target.rglob("*.png"))
    again = run(source, target, action)
    assert not again.report.placed and tree(target) == SORTED
    with Journal(target, create=False) as journal:
        assert undo(journal) == (7, [])
    assert tree(source) == FILES
    assert list(target.iterdir()) == []
    with pytest.raises(UsageError):
        Journal(target, create=False)


CALLS = ("open", "replace", "unlink", "symlink", "rmdir", "mkdir", "fsync", "close")
"""Functions of ``os`` before which a process is killed."""


def killed(count: int, work) -> bool:
    """Run ``work`` in a child process that dies before its ``count``-th change. Return whether it did."""
    pid = os.fork()
    if pid == 0:
        left = [count]

        def wrap(function):
            def call(*arguments, **settings):
                left[0] -= 1
                if left[0] <= 0:
                    os._exit(9)
                return function(*arguments, **settings)

            return call

        write_all = transfer.write_all
        try:
            with (
                mock.patch.multiple(os, **{name: wrap(getattr(os, name)) for name in CALLS}),
                mock.patch.object(transfer, "write_all", wrap(write_all)),
            ):
                work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 9)
    return status == 9


def contents(*folders: Path) -> set[bytes]:
    return {content for folder in folders if folder.exists() for content in tree(folder).values()}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("action", ["copy", "move", "link"])
def test_kill_at_every_moment(folders, action):
    """No content is ever lost, the same command finishes, and ``undo`` restores everything."""
    source, target = folders
    count = 1
    while True:
        shutil.rmtree(source)
        shutil.rmtree(target, ignore_errors=True)
        write_files(source)
        if not killed(count, lambda: run(source, target, action)):
            break
        assert contents(source, target) >= set(FILES.values())
        run(source, target, action)
        assert tree(target) == SORTED, count
        if action != "move":
            assert tree(source) == FILES
        with Journal(target, create=False) as journal:
            undo(journal)
        assert tree(source) == FILES, count
        count += 1
    assert count > (15 if action == "link" else 30)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kill_of_undo_at_every_moment(folders):
    source, target = folders

    def undo_all():
        with Journal(target, create=False) as journal:
            assert undo(journal)[1] == []

    for count in range(1, 1000):
        run(source, target, "move")
        if not killed(count, undo_all):
            break
        assert contents(source, target) >= set(FILES.values())
        if (target / JOURNAL_NAME).exists():
            undo_all()
        assert tree(source) == FILES, count
    assert count > 10


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
    assert sorted(files.values()) == sorted([b"mine", b"mine, too", *SORTED.values(), b"first"][:-1])
    with Journal(target, create=False) as journal:
        assert undo(journal)[1] == []
    assert tree(source) == FILES
    assert tree(target) == {"cat/1.jpg": b"mine", "cat/1.xmp": b"mine, too"}


def test_undo_keeps_changed_files(tmp_path):
    source, target = write_files(tmp_path / "photos"), tmp_path / "sorted"
    run(source, target, "move")
    (source / "a/1.jpg").write_bytes(b"a new file")
    (target / "unsure/2.png").unlink()
    with Journal(target, create=False) as journal:
        restored, left = undo(journal)
    assert restored == 5
    assert {Path(path).name for path, _ in left} == {"1.jpg", "2.png"}
    assert tree(source)["a/1.jpg"] == b"a new file"
    assert tree(target) == {"cat/1.jpg": b"first"}
    assert (target / JOURNAL_NAME).exists()


def test_undo_keeps_changed_copies(tmp_path):
    source, target = write_files(tmp_path / "photos"), tmp_path / "sorted"
    run(source, target, "copy")
    (target / "cat/1.jpg").write_bytes(b"edited")
    (source / "b/2.png").unlink()
    with Journal(target, create=False) as journal:
        assert {Path(path).name for path, _ in undo(journal)[1]} == {"1.jpg", "2.png"}
    assert tree(target) == {"cat/1.jpg": b"edited", "unsure/2.png": b"third"}


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
    with Journal(target, create=False) as journal:
        assert undo(journal)[1] == []
    assert tree(source) == FILES


def test_damaged_journal(tmp_path):
    source, target = write_files(tmp_path / "photos"), tmp_path / "sorted"
    run(source, target, "move")
    journal = target / JOURNAL_NAME
    content = journal.read_bytes()
    journal.write_bytes(content + b'{"action": "mo')  # incomplete
    with Journal(target) as restored:
        assert len(restored.operations) == 7
    for wrong in (b"text\n", b'{"densenet_sort": 2}\n', content + b'{"action": "delete"}\n', content + b"[1]\n"):
        journal.write_bytes(wrong)
        with pytest.raises(OutputError):
            Journal(target)


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
    with Journal(target, create=False) as journal:
        assert undo(journal)[1] == []
    assert (source / "b" / long).read_bytes() == b"two"


@pytest.mark.skipif(os.name == "nt", reason="needs permissions")
def test_files_that_cannot_be_read_are_skipped():
    """The others are placed. A conflict of names needs their contents, too."""
    root = Path(tempfile.mkdtemp(prefix="densenet-sort-"))  # accessible to every user, unlike the folders of pytest
    is_root = os.geteuid() == 0
    try:
        root.chmod(0o777)
        source, target = write_files(root / "photos"), root / "sorted"
        for name in ("a/1.jpg", "b/1.jpg"):
            (source / name).chmod(0)
        if is_root:
            os.seteuid(65534)
        sorter = run(source, target, "copy")
        assert [path for path, _ in sorter.report.skipped] == [str(source / "b/1.jpg"), str(source / "a/1.jpg")]
        assert {reason for _, reason in sorter.report.skipped} == {"Permission denied."}
        assert {"unsure/2.png", "cat/1.xmp"} <= tree(target).keys()
        again = run(source, target, "copy")
        assert again.report.placed["unsure"] == 0
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


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("tabby cat", "tabby cat"),
        ("a/b\\c:d", "a_b_c_d"),
        ("..", "_"),
        (".hidden", ".hidden_"),
        ("CON", "CON_"),
        ("lpt1.x", "lpt1.x_"),
        ("end. ", "end"),
        ("", "_"),
        ("ü" * 100, "ü" * 75),
    ],
)
def test_folder_names(name, folder):
    assert safe_name(name) == folder


def test_folders_of_classes():
    names = ("cat", "Cat", "a/b", "a:b", "unsure", "dog")
    labels = tuple(ClassLabel(index, f"n{index}", name) for index, name in enumerate(names))
    by_label = class_folders(labels, "label")
    assert list(by_label.values()) == ["cat (0)", "Cat (1)", "a_b (2)", "a_b (3)", "unsure (4)", "dog"]
    assert class_folders(labels, "id")[3] == "n3"
    groups = class_folders(labels, "group", {"cat": "Pets/Cats", "dog": "../../Pets"})
    assert [groups[index] for index in (0, 5, 1)] == ["Pets/Cats", "Pets", "other"]
    with pytest.raises(UsageError):
        class_folders(labels, "group", {"zebra": "zoo"})
    with pytest.raises(UsageError):
        class_folders((ClassLabel(0, None, "cat"),), "id")


def test_folder_of_a_prediction():
    cat, dog = Score(1, 0, None, "cat", 0.9), Score(2, 1, None, "dog", 0.1)
    folders = {0: "cat", 1: "dog"}
    for prediction, folder in (
        (Prediction("a", "m", (cat,)), "cat"),
        (Prediction("a", "m", ()), "unsure"),
        (Prediction("a", "m", (cat,), unsure=True), "unsure"),
        (Prediction("a", "m", (cat,), unsure=False), "cat"),
        (Prediction("a", "m", (cat,), set=(cat,)), "cat"),
        (Prediction("a", "m", (cat,), set=(cat, dog)), "unsure"),
        (Prediction("a", "m", (cat,), set=()), "unsure"),
        (Prediction("a", "m", (cat,), set=(dog,)), "unsure"),  # possible with thresholds of each class
        (Prediction("a", "m", (), set=(cat,)), "unsure"),
        (Prediction("a", "m", error=Failure("UnreadableImage", "It is empty.")), "failed"),
    ):
        assert choose_folder(prediction, folders) == folder
