"""Names of folders, and the folder of an image."""

from __future__ import annotations

import pytest

from densenet_cli.errors import UsageError
from densenet_cli.labels import ClassLabel
from densenet_cli.results import Failure, Prediction, Score
from densenet_cli.sorting.folders import choose_folder, class_folders, safe_name


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
