"""Class folders in archives."""

from __future__ import annotations

import pytest

from densenet_cli.datasets import ClassFolders, open_dataset
from densenet_cli.errors import UsageError
from densenet_cli.images.reading import read_source
from densenet_cli.training.image_list import list_images
from tests.support.archives import FORMATS, pack, write_tar
from tests.support.command import densenet
from tests.support.images import encode, photograph


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "val"
    for name in ("jellyfish/1.png", "jellyfish/deep/2.png", "lampshade/3.png", "lampshade/notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.mark.parametrize("format_", FORMATS)
def test_the_same_images_as_in_folders(folder, tmp_path, format_):
    expected = ClassFolders(str(folder))
    dataset = open_dataset(str(pack(folder, tmp_path / f"val.{format_}")), None)
    assert dataset.classes == expected.classes
    assert [(name, read_source(source)) for name, source in dataset.images()] == [
        (name, open_bytes(source.origin)) for name, source in expected.images()
    ]


def open_bytes(path):
    with open(path, "rb") as file:
        return file.read()


def test_what_is_ignored(tmp_path):
    members = [(name, b"") for name in ("a.png", "x/1.png", "x/y.txt", ".h/1.png", "y/1.png", "z/none.txt")]
    dataset = open_dataset(str(write_tar(tmp_path / "a.tar", *members)), None)
    assert dataset.classes == ("x", "y")
    assert [source.name for _, source in dataset.images()] == [f"{tmp_path}/a.tar/x/1.png", f"{tmp_path}/a.tar/y/1.png"]
    assert dataset.warnings() == [
        "Ignored 1 image outside of class folders.",
        "Skipped 2 files without an image extension.",
    ]


def test_class_folders_in_a_folder(tmp_path):
    archive = write_tar(tmp_path / "a.tar", *((name, b"") for name in ("v/w/x/1.png", "v/w/y/1.png", "v/w/y/2.png")))
    for given in (archive, archive / "v", f"{archive}/v/w/"):
        dataset = open_dataset(str(given), None)
        assert dataset.classes == ("x", "y")
        assert [name for name, _ in dataset.images()] == ["x", "y", "y"]


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["v/1.png", "v/w/2.png"], ["v"]),
        (["v/w/2.png", "v/1.png"], ["v"]),
        (["v/w/1.png", "v/w/2.png"], ["v"]),
        (["v/w/1.png", "v/x/2.png", "u/1.png"], ["u", "v"]),
        (["v/a/b/1.png", "v/c/b/1.png"], ["a", "c"]),
        (["v/1.png", "/etc/1.png", "../x/1.png", "w/1.png", "/1.png"], ["v", "w"]),
        (["v/a/b/1.png", "v/a/c/1.png", "v/a/b/2.png"], ["b", "c"]),
    ],
)
def test_classes(tmp_path, names, classes):
    archive = write_tar(tmp_path / "a.tar", *((name, b"") for name in names))
    assert list(open_dataset(str(archive), None).classes) == classes


@pytest.mark.parametrize(
    ("names", "fact"),
    [
        ([], "no images"),
        (["a.png", "b.png"], "2 images"),
        (["train/x/1.png", "val/x/1.png"], "already split"),
        (["data/train/x/1.png", "data/val/x/1.png"], "a.tar/data/val"),
    ],
)
def test_other_archives(tmp_path, names, fact):
    archive = write_tar(tmp_path / "a.tar", *((name, b"") for name in names))
    with pytest.raises(UsageError, match=fact):
        open_dataset(str(archive), None)


def test_training_with_a_table_of_members_that_are_missing(tmp_path):
    write_tar(tmp_path / "a.tar", ("1.png", b"x"))
    (tmp_path / "t.csv").write_text("path,label\na.tar/2.png,cat\na.tar/3.png,dog\n")
    with pytest.raises(UsageError, match="no such file"):
        list_images(open_dataset(None, str(tmp_path / "t.csv")))


def test_a_damaged_archive(tmp_path):
    archive = write_tar(tmp_path / "a.tar", ("x/1.png", b"x" * 5000), ("y/1.png", b"x" * 5000))
    archive.write_bytes(archive.read_bytes()[:8000])
    with pytest.raises(UsageError, match="truncated"):
        open_dataset(str(archive), None)


def test_training_needs_files(folder, tmp_path):
    with pytest.raises(UsageError, match="in an archive"):
        list_images(open_dataset(str(pack(folder, tmp_path / "val.tar")), None))


def test_evaluation(folder, tmp_path):
    for path in folder.rglob("*.png"):
        path.write_bytes(encode(photograph("coffee", (60, 40 + len(path.name))), "PNG"))
    arguments = ["evaluate", "--variant", "tiny", "--format", "json"]
    expected = densenet(*arguments, folder)
    for format_ in ("tar", "tar.gz", "zip"):
        archive = pack(folder, tmp_path / f"val.{format_}")
        result = densenet(*arguments, archive)
        assert (result.status, result.out.replace(str(archive), str(folder))) == (0, expected.out)
        table = tmp_path / "labels.csv"
        table.write_text(
            f"path,label\n{archive.name}/jellyfish/1.png,jellyfish\n{archive.name}/lampshade/3.png,lampshade\n"
        )
        result = densenet(*arguments, "--csv", table)
        assert result.status == 0 and '"images": 2' in result.out
