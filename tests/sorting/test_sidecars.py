"""Sidecar files go with their images."""

from __future__ import annotations

from pathlib import Path

import pytest

from densenet_cli.sorting.sidecars import SidecarFinder
from tests.support.sorting import run, tree, undo_all, write_files


@pytest.mark.parametrize(
    ("image", "sidecars"),
    [
        ("1.jpg", ["1.CR2", "1.aae", "1.xmp", "1.jpg.xmp"]),
        ("1.png", ["1.aae", "1.xmp"]),
        ("1.CR2", ["1.aae", "1.xmp"]),
        ("1.xmp", []),
        ("1.aae", []),
        ("2.jpeg", []),
    ],
)
def test_names(tmp_path, image, sidecars):
    names = ("1.jpg", "1.png", "1.CR2", "1.xmp", "1.aae", "1.jpg.xmp", "2.jpeg", "3.xmp", "1.txt")
    write_files(tmp_path, dict.fromkeys(names, b""))
    (tmp_path / "2.xmp").mkdir()
    assert [Path(path).name for path in SidecarFinder().find(str(tmp_path / image))] == sidecars


@pytest.mark.parametrize("action", ["copy", "move", "link"])
@pytest.mark.parametrize("reverse", [False, True])
def test_sidecars_that_are_sources(tmp_path, action, reverse):
    """As with a glob: they are not images of their own."""
    files = {"1.AAE": b"edits", "1.CR2": b"raw", "1.JPG": b"image", "1.xmp": b"about it", "2.xmp": b"about nothing"}
    source, target = write_files(tmp_path / "photos", files), tmp_path / "sorted"
    placements = {name: "cat" if name == "1.JPG" else "failed" for name in sorted(files, reverse=reverse)}
    for count in (1, 0):
        report = run(source, target, action, placements).report
        assert report.placed == ({"cat": 1, "failed": 1} if count else {}) and report.sidecars == 3 * count
        assert tree(target) == {("failed/" if name == "2.xmp" else "cat/") + name: files[name] for name in files}
    assert undo_all(target) == (5, {})
    assert tree(source) == files


@pytest.mark.parametrize("action", ["copy", "move", "link"])
@pytest.mark.parametrize("in_two_runs", [False, True])
def test_shared_sidecar(tmp_path, action, in_two_runs):
    """In the same folder, it is shared again. In other folders, copies and links get one each, a move gets none."""
    files = {"1.jpg": b"one", "1.png": b"two", "1.tif": b"three", "1.xmp": b"about them"}
    source, target = write_files(tmp_path / "photos", files), tmp_path / "sorted"
    placements = {"1.jpg": "cat", "1.png": "cat", "1.tif": "dog"}
    sidecars = (
        sum(run(source, target, action, dict([item])).report.sidecars for item in placements.items())
        if in_two_runs
        else run(source, target, action, placements).report.sidecars
    )
    expected = {"cat/1.jpg": b"one", "cat/1.png": b"two", "dog/1.tif": b"three", "cat/1.xmp": b"about them"}
    if action != "move":
        expected["dog/1.xmp"] = b"about them"
    assert tree(target) == expected and sidecars == len(expected) - 3
    assert undo_all(target) == (len(expected), {})
    assert tree(source) == files


@pytest.mark.parametrize("action", ["copy", "move", "link"])
def test_another_sidecar_has_the_name(tmp_path, action):
    files = {"a/1.jpg": b"one", "a/1.xmp": b"about one", "b/1.png": b"two", "b/1.xmp": b"about two"}
    source, target = write_files(tmp_path / "photos", files), tmp_path / "sorted"
    run(source, target, action, {"a/1.jpg": "cat", "b/1.png": "cat"})
    names = {content: Path(name) for name, content in tree(target).items()}
    assert len(names) == 4 and names[b"two"].stem == names[b"about two"].stem != "1"
    assert undo_all(target) == (4, {})


@pytest.mark.parametrize("action", ["copy", "move", "link"])
def test_linked_sidecar_is_not_moved(tmp_path, action):
    """A relative link would lead to another place."""
    source, target = write_files(tmp_path / "photos", {"1.jpg": b"one", "1.png": b"two"}), tmp_path / "sorted"
    (tmp_path / "real.xmp").write_bytes(b"about it")
    (source / "1.xmp").symlink_to("../real.xmp")
    report = run(source, target, action, {"1.jpg": "cat", "1.png": "cat"}).report
    assert report.placed == {"cat": 2}
    assert [path for path, _ in report.skipped] == [str(source / "1.xmp")] * (action == "move")
    assert tree(target).get("cat/1.xmp") == (None if action == "move" else b"about it")
    assert (source / "1.xmp").read_bytes() == b"about it"
    undo_all(target)
    assert (source / "1.xmp").read_bytes() == b"about it" and (source / "1.jpg").exists()
