"""The images of a training run."""

from __future__ import annotations

import hashlib
import json
import os

import pytest

from densenet_cli.errors import UsageError
from densenet_cli.training.image_list import list_images
from tests.datasets.test_tables import write_files, write_table


def test_image_list(tmp_path):
    images = list_images(write_files(tmp_path, "b/2.png", "b/1.png", "a/x/1.png"))
    assert images.classes == ("a", "b")
    assert [os.path.relpath(path, tmp_path) for path in images.paths] == ["a/x/1.png", "b/1.png", "b/2.png"]
    assert images.targets == (0, 1, 1)
    assert len(images) == 3


def test_validation_images_have_the_targets_of_training(tmp_path):
    images = list_images(write_files(tmp_path, "b/1.png"), ("a", "b", "c"))
    assert (images.classes, images.targets) == (("a", "b", "c"), (1,))


def test_validation_classes_are_compared_as_in_an_evaluation(tmp_path):
    classes = ("Cat", "caf\u00e9", "sea lion")
    images = list_images(write_files(tmp_path / "val", "CAT/1.png", "cafe\u0301/1.png", "sea_lion/1.png"), classes)
    assert sorted(images.targets) == [0, 1, 2]
    with pytest.raises(UsageError, match=r"1 of 2 .*'dgo' .did you mean 'dog'"):
        list_images(write_files(tmp_path / "other", "cat/1.png", "dgo/1.png"), ("cat", "dog"))


@pytest.mark.parametrize("other", ["CAT", "Cat ", "cat"])
def test_classes_that_look_like_one(tmp_path, other):
    images = list_images(write_files(tmp_path, "cat/1.png", f"{other}/2.png", "dog/1.png"))
    if other == "cat":
        assert images.warnings == ()
    else:
        (warning,) = images.warnings
        assert warning.startswith("Warning:") and "'cat'" in warning and repr(other) in warning
    assert list_images(write_files(tmp_path / "val", "cat/1.png", "dog/1.png"), ("cat", "dog")).warnings == ()


def test_common_images_in_any_spelling(tmp_path, monkeypatch):
    folder = write_files(tmp_path, "a/1.png", "a/2.png", "b/1.png")
    monkeypatch.chdir(tmp_path)
    images = list_images(folder)
    assert list_images("b/..").count_common(images) == 3
    table = write_table(tmp_path, f"path,label\n./a/../a/2.png,a\n{folder}/b/1.png,b\nb/3.png,b\n")
    assert list_images(table).count_common(images) == 2
    assert list_images(write_files(tmp_path / "copy", "a/1.png", "b/1.png")).count_common(images) == 0


def test_images_of_a_table(tmp_path):
    images = list_images(write_table(tmp_path, "path,label\nb.png,cat\na.png,dog\nb.png,cat\n"))
    assert (images.classes, images.names(), images.targets) == (("cat", "dog"), ["b.png", "a.png"], (0, 1))
    (warning,) = images.warnings
    assert "1 duplicate row" in warning
    swapped = list_images(write_table(tmp_path, "path,label\nb.png,dog\na.png,cat\n"))
    assert images.fingerprint() != swapped.fingerprint()
    with pytest.raises(UsageError, match="is a URL"):
        list_images(write_table(tmp_path, "path,label\na.png,cat\nhttp://localhost/b.png,dog\n"))


def test_the_fingerprint_of_class_folders_is_stable(tmp_path):
    """Runs that an earlier version started can be resumed."""
    images = list_images(write_files(tmp_path, "a/1.png", "b/2.png"))
    content = json.dumps([["a", "b"], [b"a/1.png".hex(), b"b/2.png".hex()]])
    assert images.fingerprint() == hashlib.sha256(content.encode()).hexdigest()


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
        (["a/1.png", "b/notes.txt"], "only one class"),
        (["caf\u00e9/1.png", "cafe\u0301/1.png"], "Unicode"),
        (["a/1.png", "b\n/1.png"], r"b\\n"),
        (["a/1.png", os.fsdecode(b"b\xff/1.png")], r"'b\\xff'"),
    ],
)
def test_folders_that_are_unsuitable_for_training(tmp_path, names, words):
    with pytest.raises(UsageError, match=words):
        list_images(write_files(tmp_path, *names))
