"""Tables of paths and labels, as evaluation and training read them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from densenet_cli.datasets import LabelTable
from densenet_cli.errors import UsageError


def write_files(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return str(folder)


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
