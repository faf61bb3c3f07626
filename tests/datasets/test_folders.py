"""Class folders, as evaluation and training read them."""

from __future__ import annotations

import logging
import os

import pytest

from densenet_cli.datasets import ClassFolders, find_splits, open_dataset
from densenet_cli.errors import SourceUnreadableError, UsageError
from densenet_cli.images import walking
from densenet_cli.images.sources import expand
from densenet_cli.training.image_list import list_images
from tests.datasets.test_tables import write_files


def test_class_folders(tmp_path):
    images = ("b/2.PNG", "b/1.jpg", "b/deep/er/3.png", "a/1.png")
    folder = write_files(tmp_path, *images, "a/notes.txt", "c/notes.txt", "stray.png", ".d/1.png")
    dataset = ClassFolders(folder)
    assert dataset.classes == ("a", "b")
    sources = list(dataset.sources({"a": 7, "b": 5}))
    names = ["a/1.png", "b/1.jpg", "b/2.PNG", "b/deep/er/3.png"]
    assert [(os.path.relpath(source.name, folder), source.target) for source in sources] == list(
        zip(names, [7, 5, 5, 5], strict=True)
    )
    unsorted, empty, skipped = dataset.warnings()
    assert "1 image " in unsorted
    assert "1 class folder " in empty and "c" in empty
    assert skipped.startswith("Skipped 1 file without")


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


def test_what_is_no_class_and_no_image(tmp_path, caplog):
    ignored = ("__MACOSX/a/._1.png", "@eaDir/1.png", ".ipynb_checkpoints/1-checkpoint.png", "b/.hidden/1.png")
    nested = ("a/@EADIR/1.png/SYNOFILE_THUMB_M.jpg", "a/.ipynb_checkpoints/1.png", "b/__MACOSX/1.png")
    folder = write_files(tmp_path, "a/1.png", "b/1.png", *ignored, *nested, "a/._1.png")
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    dataset = ClassFolders(folder)
    assert dataset.classes == ("a", "b")
    evaluated = [source.name for source in dataset.sources({"a": 0, "b": 1})]
    with caplog.at_level(logging.INFO):
        predicted = [source.name for source in expand([folder])]
    assert evaluated == predicted == list(list_images(folder).paths)
    assert [os.path.relpath(name, folder) for name in evaluated] == ["a/1.png", "b/1.png"]
    assert [record.getMessage() for record in caplog.records] == ["Skipped 4 system folders."]
    warning, skipped = dataset.warnings()
    assert "empty" in warning
    assert skipped == "Skipped 4 system folders."


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train/cat/1.png", "val/cat/1.png"), {"train": "train", "val": "val"}),
        (("Train/cat/1.png", "valid/a/1.png", "test/b/1.png"), {"train": "Train", "val": "valid", "test": "test"}),
        (("train/cat/1.png", "validation/a/1.png", "notes/1.txt"), {"train": "train", "val": "validation"}),
        (("train/a/1.png", "dev/a/1.png", "eval/a/1.png"), {"train": "train", "val": "dev", "test": "eval"}),
        (("val/cat/1.png", "test/cat/1.png"), {"val": "val", "test": "test"}),
        (("train/1.png", "bus/1.png"), {}),
        (("train/a/1.png", "bus/1.png"), {}),
        (("train/1.png", "test/1.png", "bus/1.png"), {}),
        (("train/1.png",), {}),
    ],
)
def test_split_folders(tmp_path, names, expected):
    splits = find_splits(write_files(tmp_path, *names))
    assert {split: os.path.relpath(path, tmp_path) for split, path in splits.items()} == expected


@pytest.mark.parametrize("names", [("train/1.png", "test/1.png"), ("training/1.png", "Validation/1.png")])
def test_split_folders_without_classes(tmp_path, names):
    with pytest.raises(UsageError, match="contain no class folders"):
        find_splits(write_files(tmp_path, *names))


@pytest.mark.parametrize("other", ["dogs/1.png", "validation/cat/1.png"])
def test_ambiguous_split_folders(tmp_path, other):
    with pytest.raises(UsageError, match=other.partition("/")[0]):
        find_splits(write_files(tmp_path, "train/cat/1.png", "val/cat/1.png", other))


@pytest.mark.parametrize(
    ("folders", "count"),
    [
        (("training_set/cat", "training_set/dog", "test_set/cat", "test_set/dog", "test_set/cup"), 1),
        (("cat/train", "cat/val", "dog/train", "dog/val"), 1),
        (("cat/2019", "cat/2020", "dog/2020", "dog/2021"), 0),
        (("cat/images", "dog/images"), 0),
        (("cat/a", "cat/b"), 0),
        (("cat/a", "cat/.git", "cat/@eaDir", "dog/a", "dog/.git", "dog/@eaDir"), 0),
    ],
)
def test_class_folders_that_all_contain_the_same_folders(tmp_path, folders, count):
    warnings = ClassFolders(write_files(tmp_path, *(f"{folder}/1.png" for folder in folders))).warnings()
    assert [warning.startswith("Warning: All class folders") for warning in warnings] == [True] * count


def test_a_split_folder_is_no_dataset(tmp_path):
    with pytest.raises(UsageError, match=r"/train and .*/val\. Use"):
        open_dataset(write_files(tmp_path, "train/cat/1.png", "val/cat/1.png"), None)
