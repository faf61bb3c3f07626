"""Galleries: safe and distinct file names inside the folder, and complete or absent files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from densenet_cli import Classifier
from densenet_cli.errors import OutputError, UsageError
from densenet_cli.output.gallery import Gallery, check_gallery
from tests.support.images import photograph
from tests.support.networks import tiny_weights


def reserve(*names: str, folder: str = "maps") -> list[str]:
    gallery = Gallery(Path(folder))
    return [str(gallery.reserve(name)) for name in names]


@pytest.mark.parametrize(
    ("source", "drawing"),
    [
        ("cat.jpg", "maps/cat.jpg.png"),
        ("photos/1.jpg", "maps/photos/1.jpg.png"),
        ("./photos//1.jpg", "maps/photos/1.jpg.png"),
        ("/home/me/cat.jpg", "maps/home/me/cat.jpg.png"),
        ("../cat.jpg", "maps/__/cat.jpg.png"),
        ("a/../../../../etc/passwd", "maps/a/__/__/__/__/etc/passwd.png"),
        ("-", "maps/stdin.png"),
        ("https://example.org/a/cat.jpg?size=9", "maps/example.org/a/cat.jpg_size=9.png"),
        ("http://[::1]:80/..", "maps/[__1]_80/__.png"),
        ("a\nb\\c.jpg", "maps/a_b_c.jpg.png"),
        ("b\udcffd.jpg", "maps/b_xffd.jpg.png"),
        ("Katze mit Hütchen.jpg", "maps/Katze mit Hütchen.jpg.png"),
        ("/", "maps/image.png"),
    ],
)
def test_names(source, drawing):
    assert reserve(source) == [drawing]


def test_no_two_images_have_the_same_file():
    names = ["a/1.jpg", "b/1.jpg", "1.jpg", "1.png", "./1.jpg", "1.JPG", "../x", "__/x", "1.jpg"]
    paths = reserve(*names)
    assert len({path.casefold() for path in paths}) == len(names)
    assert paths[4] == "maps/1.jpg-2.png"


def test_spellings_of_a_path_have_one_file():
    here = os.getcwd()
    for name in ("a/1.jpg", "./a/1.jpg", f"{here}/a/1.jpg", "a/../a/1.jpg", f"../{os.path.basename(here)}/a/1.jpg"):
        assert reserve(name) == ["maps/a/1.jpg.png"]


@given(st.lists(st.text(st.characters(exclude_categories=[])), max_size=20))
def test_all_files_are_inside_the_folder(names):
    paths = reserve(*names, folder="/somewhere/maps")
    assert len(set(paths)) == len(names)
    for path in paths:
        assert os.path.normpath(path) == path
        assert path.startswith("/somewhere/maps/")
        assert all(len(part.encode()) <= 220 for part in path.split("/"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return Classifier(weights=tiny_weights(tmp_path_factory.mktemp("weights")))


def save(classifier, gallery, *names):
    return list(gallery.save(classifier.explain_many([str(name) for name in names]), 2))


def test_files_are_written_in_order_and_failed_images_have_none(classifier, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(12):
        (tmp_path / f"{number % 3}").mkdir(exist_ok=True)
        photograph(size=(40, 30)).save(f"{number % 3}/{number:02}.png")
    (tmp_path / "0" / "04.jpg").write_text("no image")
    done = save(classifier, Gallery(Path("maps")), "0", "nowhere", "1", "2")
    assert [explanation.source for explanation, _ in done if explanation.error] == ["0/04.jpg", "nowhere"]
    assert len(done) == 14
    for explanation, path in done:
        assert (path is None) == (explanation.error is not None)
        if path:
            assert str(path) == f"maps/{explanation.source}.png"
            with Image.open(path) as drawing:
                assert drawing.size == explanation.draw().size
    assert sorted(path.name for path in tmp_path.rglob("*.part")) == []


def test_an_existing_file_is_an_error_or_replaced(classifier, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photograph(size=(40, 30)).save("a.png")
    Path("maps").mkdir()
    Path("maps/a.png.png").write_text("mine")
    with pytest.raises(UsageError, match=r"maps/a\.png\.png exists.*overwrite"):
        save(classifier, Gallery(Path("maps")), "a.png")
    assert Path("maps/a.png.png").read_text() == "mine"
    save(classifier, Gallery(Path("maps"), overwrite=True), "a.png")
    with Image.open("maps/a.png.png") as drawing:
        assert drawing.format == "PNG"


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file is not a folder"):
        check_gallery(tmp_path / "file" / "maps", None, overwrite=False)
    (tmp_path / "closed").mkdir(mode=0o500)
    if not os.access(tmp_path / "closed", os.W_OK):
        with pytest.raises(OutputError, match="read-only"):
            check_gallery(tmp_path / "closed" / "maps", "a.png", overwrite=False)
    check_gallery(tmp_path / "new" / "maps", "a.png", overwrite=False)
    assert not (tmp_path / "new").exists()


def test_the_file_of_the_first_source_is_checked(tmp_path):
    (tmp_path / "a.png.png").touch()
    check_gallery(tmp_path, "b.png", overwrite=False)
    check_gallery(tmp_path, "a.png", overwrite=True)
    with pytest.raises(UsageError, match=r"a\.png\.png exists"):
        check_gallery(tmp_path, "a.png", overwrite=False)


def test_a_full_disk_leaves_no_file(classifier, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photograph(size=(40, 30)).save("a.png")

    def full(file, data):
        file.write(bytes(data)[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("densenet_cli.output.atomic.write_all", full)
    with pytest.raises(OutputError, match=r"maps/a\.png\.png.*No space left on device"):
        save(classifier, Gallery(Path("maps")), "a.png")
    assert list(Path("maps").iterdir()) == []


def test_sources_without_a_file_name():
    assert reserve("<bytes>", "<bytes>") == ["maps/_bytes_.png", "maps/_bytes_-2.png"]
