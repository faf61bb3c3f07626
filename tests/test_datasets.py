"""Class folders and tables of labels, as evaluation and training read them."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from densenet_cli.datasets import ClassFolders, LabelTable, find_splits, open_dataset
from densenet_cli.errors import SourceUnreadableError, UsageError
from densenet_cli.images import walking
from densenet_cli.images.sources import expand
from densenet_cli.training.image_list import list_images


def write_files(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return str(folder)


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


def write_table(tmp_path: Path, text: str, encoding: str = "utf-8", **arguments) -> LabelTable:
    (tmp_path / "table.csv").write_bytes(text.encode(encoding))
    return LabelTable(str(tmp_path / "table.csv"), **arguments)


def rows(table: LabelTable) -> list[tuple[str, str]]:
    return [(label, os.path.relpath(source.name, table.folder)) for label, source in table.images()]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_in_any_dialect(tmp_path, delimiter, end, encoding):
    lines = [("File_Name", "size", "Class"), ("a,b.jpg", "1", "tench"), ("é;c.jpg", "2", "sea lion")]
    text = end.join(delimiter.join(f'"{field}"' for field in line) for line in lines) + end
    assert rows(write_table(tmp_path, text, encoding)) == [("tench", "a,b.jpg"), ("sea lion", "é;c.jpg")]


@pytest.mark.parametrize("path", ["path", "filename", "file_name", "image", "Image"])
@pytest.mark.parametrize("label", ["label", "class", "CLASS"])
def test_usual_columns(tmp_path, path, label):
    assert rows(write_table(tmp_path, f"{label},{path}\ncat,a.png\n")) == [("cat", "a.png")]


def test_labels_must_be_utf8_but_paths_need_not(tmp_path):
    table = write_table(tmp_path, "path,label\n\xe9.png,cat\n", "latin-1")
    assert [os.fsencode(source.name)[-5:] for _, source in table.images()] == [b"\xe9.png"]
    with pytest.raises(UsageError, match=r"Line 2 of .* UTF-8"):
        write_table(tmp_path, "path,label\na.png,caf\xe9\n", "latin-1")


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;;;", "sep=;\r"])
def test_a_line_that_names_the_delimiter(tmp_path, first):
    assert rows(write_table(tmp_path, f"{first}\npath;label;a,b,c\n1,5.png;cat;\n")) == [("cat", "1,5.png")]


def test_columns(tmp_path):
    text = "path,image,label,class\na.png,b.png,cat,dog\n"
    assert rows(write_table(tmp_path, text)) == [("cat", "a.png")]
    assert rows(write_table(tmp_path, text, path_column="Image", label_column="class")) == [("dog", "b.png")]
    with pytest.raises(UsageError, match=r"no column 'photo'.*'path', 'image'"):
        write_table(tmp_path, text, path_column="photo")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.png,cat\n", "no path column .*'a.png', 'cat'.*`path_column`"),
        ("path;label,x\na;b,c\n", "no path column"),
        ("path,label,Label\na,b,c\n", "2 label columns: 'label' and 'Label'"),
        ("image,filename,label\na,b,c\n", "'image' and 'filename'.*`path_column`"),
        ("path,label\na,b.png,cat\n", "Line 2 .* 3 fields.* 2"),
        ("p\0a\0t\0h\0,\0label", "null bytes.*UTF-8"),
        ('path,label\n"a.png,cat\nb.png,dog\n', "not a valid CSV"),
        ("path,label\na.png,cat\nb.png,cat\na.png,dog\n", "Line 4 .*a.png as 'dog'.*'cat'"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, words):
    with pytest.raises(UsageError, match=words):
        write_table(tmp_path, text)


def test_an_image_counts_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = write_table(tmp_path, f"path,label\na.png,cat\n./a.png,cat\n{tmp_path}/b/../a.png,cat\nb.png,cat\n")
    assert rows(table) == [("cat", "a.png"), ("cat", "b.png")]
    (warning,) = table.warnings()
    assert "2 duplicate rows" in warning
    with pytest.raises(UsageError, match="earlier line"):
        write_table(tmp_path, "path,label\na.png,cat\n./a.png,dog\n")


def test_backslashes_in_a_table(tmp_path):
    write_files(tmp_path, "cat/1.png", "back\\slash.png")
    table = write_table(tmp_path, "path,label\ncat\\1.png,a\nback\\slash.png,a\nno\\file.png,a\n")
    assert [path for _, path in rows(table)] == ["cat/1.png", "back\\slash.png", "no\\file.png"]


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
