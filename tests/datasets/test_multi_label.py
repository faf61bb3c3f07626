"""Tables of images with any number of labels."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from densenet_cli.datasets import LabelTable, MultiLabelTable, check_single_labels
from densenet_cli.errors import UsageError
from densenet_cli.labels import from_class_names, placeholders

FINDINGS = from_class_names(["Edema", "Mass", "Pleural Thickening", "Hernia"])


def write_table(tmp_path: Path, text: str, labels=FINDINGS, **arguments) -> MultiLabelTable:
    (tmp_path / "table.csv").write_bytes(text.encode())
    return MultiLabelTable(str(tmp_path / "table.csv"), labels, **arguments)


def rows(tmp_path: Path, text: str, labels=FINDINGS, **arguments) -> dict[str, tuple[set[int], set[int]]]:
    """Return the name of each image, its classes, and the classes that are unknown."""
    table = write_table(tmp_path, text, labels, **arguments)
    return {os.path.basename(s.name): (set(s.positives), set(s.unknown)) for s in table.sources()}


def test_labels_in_one_cell(tmp_path):
    text = "path,label\na.png,Edema|Mass\nb.png,mass\nc.png,\nd.png, Hernia | pleural_thickening \n"
    assert rows(tmp_path, text) == {
        "a.png": ({0, 1}, set()),
        "b.png": ({1}, set()),
        "c.png": (set(), set()),
        "d.png": ({2, 3}, set()),
    }


def test_the_table_of_chest_x_ray_14(tmp_path):
    text = (
        "Image Index,Finding Labels,Follow-up #,Patient Age\n"
        "00000001_000.png,Edema|Pleural_Thickening,0,58\n"
        "00000002_000.png,No Finding,0,81\n"
    )
    assert rows(tmp_path, text) == {"00000001_000.png": ({0, 2}, set()), "00000002_000.png": (set(), set())}


def test_the_table_of_chexpert(tmp_path):
    """Columns of the model's classes count. Empty cells are negative, and -1 is unknown."""
    text = (
        "Path,Sex,Age,AP/PA,No Finding,Edema,Mass,Support Devices\n"
        "CheXpert-v1.0/1.jpg,Male,60,AP,,1.0,0.0,1.0\n"
        "CheXpert-v1.0/2.jpg,Female,7,PA,1.0,-1.0,,\n"
    )
    assert rows(tmp_path, text) == {"1.jpg": ({0}, {2, 3}), "2.jpg": (set(), {0, 2, 3})}
    uncertain, missing = write_table(tmp_path, text).warnings()
    assert "1 uncertain value" in uncertain
    assert "2 classes" in missing and "Pleural Thickening" in missing and "Hernia" in missing
    labels = from_class_names(["No Finding", "Edema"])
    assert rows(tmp_path, text, labels) == {"1.jpg": ({1}, set()), "2.jpg": ({0}, {1})}


def test_a_class_named_no_finding(tmp_path):
    text = "path,label\na.png,No Finding\nb.png,Edema\n"
    assert rows(tmp_path, text)["a.png"] == (set(), set())
    assert rows(tmp_path, text, from_class_names(["Edema", "no_finding"]))["a.png"] == ({1}, set())


def test_a_row_per_label(tmp_path):
    text = "path,label\na.png,Edema\nb.png,Mass\n./a.png,Hernia\na.png,Edema\nb.png,\n"
    assert rows(tmp_path, text) == {"a.png": ({0, 3}, set()), "b.png": ({1}, set())}


@pytest.mark.parametrize(("one", "zero"), [("1", "0"), ("1.0", ""), ("True", "False"), ("TRUE", "0.00")])
def test_values_of_class_columns(tmp_path, one, zero):
    text = f"image;edema;Mass;pleural_thickening;HERNIA\na.png;{one};{zero};-1;{one}\n"
    assert rows(tmp_path, text) == {"a.png": ({0, 3}, {2})}


def test_class_columns_of_a_model_without_names(tmp_path):
    assert rows(tmp_path, "path,0,class 1\na.png,1,0\n", placeholders(3)) == {"a.png": ({0}, {2})}


def test_the_name_of_a_class_can_contain_a_separator(tmp_path):
    assert rows(tmp_path, "path,label\na.png,b|c\n", from_class_names(["b|c", "d"])) == {"a.png": ({0}, set())}


def test_an_image_counts_once(tmp_path):
    table = write_table(tmp_path, "path,Edema\na.png,1\n./a.png,1.0\nb.png,-1\nb.png,-1\n")
    assert len(list(table.sources())) == 2
    repeated, uncertain, _ = table.warnings()
    assert "2 duplicate rows" in repeated and "1 uncertain" in uncertain


def test_choose_a_column_of_labels(tmp_path):
    text = "path,Edema,findings\na.png,1,Mass\n"
    assert rows(tmp_path, text) == {"a.png": ({0}, {1, 2, 3})}
    assert rows(tmp_path, text, label_column="findings") == {"a.png": ({1}, set())}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,label\na.png,Edema|Oedema|Stroke\n", "2 of 3 labels in .*'Oedema' .*'Edema'"),
        ("path,label,Edema\na.png,Edema,1\n", "'label'.*'Edema'.*`label_column`"),
        ("path,findings\na.png,Edema\n", "no label column.*'findings'.*`label_column`"),
        ("path,Edema,edema\na.png,1,0\n", "Two columns .*'Edema' and 'edema'"),
        ("path,Edema\na.png,2\n", "Line 2 .*'2'.*'Edema'"),
        ("path,Edema\na.png,nan\n", "Line 2 .*'nan'.*'Edema'"),
        ("path,Edema\na.png,1\na.png,0\n", "Line 3 .*contradicts.*a.png"),
        ("path,label\n,Edema\n", "Line 2 .* no path"),
        ("path,label\n", "no rows"),
        ("name,label\na.png,Edema\n", "no path column"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, words):
    with pytest.raises(UsageError, match=words):
        write_table(tmp_path, text)


def test_several_labels_for_a_single_label_model(tmp_path):
    (tmp_path / "table.csv").write_text("path,label\na.png,Edema|Mass\nb.png,b|c\n")
    table = LabelTable(str(tmp_path / "table.csv"))
    with pytest.raises(UsageError, match=r"'Edema\|Mass'"):
        check_single_labels(table, FINDINGS)
    with pytest.raises(UsageError, match="`activation` sigmoid"):
        check_single_labels(table, FINDINGS, assumes_softmax=True)
    check_single_labels(table, from_class_names(["Edema|Mass", "b|c"]))
