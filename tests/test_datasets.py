"""Class folders and tables of labels, as evaluation and training read them."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from densenet_cli.datasets import ClassFolders, LabelTable, list_images
from densenet_cli.errors import SourceUnreadableError, UsageError
from densenet_cli.images import walking


def write_files(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return str(folder)


def test_class_folders(tmp_path, caplog):
    images = ("b/2.PNG", "b/1.jpg", "b/deep/er/3.png", "a/1.png")
    folder = write_files(tmp_path, *images, "a/notes.txt", "c/notes.txt", "stray.png", ".d/1.png")
    dataset = ClassFolders(folder)
    assert dataset.classes == ("a", "b", "c")
    with caplog.at_level(logging.INFO):
        sources = list(dataset.sources({"a": 7, "b": 5, "c": 0}))
    names = ["a/1.png", "b/1.jpg", "b/2.PNG", "b/deep/er/3.png"]
    assert [(os.path.relpath(source.name, folder), source.target) for source in sources] == list(
        zip(names, [7, 5, 5, 5], strict=True)
    )
    unsorted, empty = dataset.warnings()
    assert "1 image " in unsorted
    assert "1 class folder " in empty and "c" in empty
    assert "2 files" in caplog.text


def test_a_folder_that_cannot_be_listed_is_a_source_with_an_error(tmp_path, monkeypatch):
    folder = write_files(tmp_path, "a/1.png", "b/1.png")
    scandir = os.scandir

    def deny(path):
        if str(path).endswith("a"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(walking.os, "scandir", deny)
    first, second = ClassFolders(folder).sources({"a": 0, "b": 1})
    assert isinstance(first.error, SourceUnreadableError) and first.target == 0
    assert second.error is None
    with pytest.raises(UsageError, match="Permission denied"):
        list_images(folder)


def test_table(tmp_path):
    file = tmp_path / "table.csv"
    file.write_text("label,Path\ncat,a.png\n\ndog,http://localhost/b.png\n")
    table = LabelTable(str(file))
    assert table.classes == ("cat", "dog")
    sources = list(table.sources({"cat": 3, "dog": 4}))
    assert [(source.name, source.kind, source.target) for source in sources] == [
        (str(tmp_path / "a.png"), "path", 3),
        ("http://localhost/b.png", "url", 4),
    ]
    assert table.warnings() == []
    assert next(LabelTable(str(file), "/else").sources({"cat": 3})).name == "/else/a.png"


def test_image_list(tmp_path):
    images = list_images(write_files(tmp_path, "b/2.png", "b/1.png", "a/x/1.png"))
    assert images.classes == ("a", "b")
    assert [os.path.relpath(path, tmp_path) for path in images.paths] == ["a/x/1.png", "b/1.png", "b/2.png"]
    assert images.targets == (0, 1, 1)
    assert len(images) == 3


def test_validation_images_have_the_targets_of_training(tmp_path):
    images = list_images(write_files(tmp_path, "b/1.png"), ("a", "b", "c"))
    assert (images.classes, images.targets) == (("a", "b", "c"), (1,))


def test_the_fingerprint_does_not_depend_on_the_location(tmp_path):
    names = ("cat/1.png", "dog/1.png")
    fingerprints = [
        list_images(write_files(tmp_path / folder, *names, *more)).fingerprint()
        for folder, more in (("first", ()), ("second", ()), ("third", ("dog/2.png",)))
    ]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["stray.png"], "only 1 image"),
        (["a/1.png"], "only one class"),
        (["a/1.png", "b/notes.txt"], "b"),
        (["a/1.png", "b\n/1.png"], r"b\\n"),
        (["a/1.png", os.fsdecode(b"b\xff/1.png")], "udcff"),
    ],
)
def test_folders_that_are_unsuitable_for_training(tmp_path, names, words):
    with pytest.raises(UsageError, match=words):
        list_images(write_files(tmp_path, *names))
