"""The label table that ships, and tables that users bring."""

from __future__ import annotations

import re

import pytest

from densenet_cli import labels
from densenet_cli.errors import UsageError
from densenet_cli.labels import ClassLabel


def test_imagenet_has_a_thousand_different_classes():
    table = labels.imagenet()
    assert len(table) == 1000
    assert [label.index for label in table] == list(range(1000))
    assert len({label.id for label in table}) == 1000
    assert len({label.name for label in table}) == 1000
    assert all(re.fullmatch(r"n\d{8}", label.id) for label in table)
    assert [label.id for label in table] == sorted(label.id for label in table)
    assert all(labels.is_clean(label.name) and label.name == label.name.strip() for label in table)


@pytest.mark.parametrize(
    ("index", "wordnet_id", "name"),
    [
        (0, "n01440764", "tench"),
        (134, "n02012849", "crane bird"),
        (281, "n02123045", "tabby"),
        (285, "n02124075", "Egyptian cat"),
        (517, "n03126707", "crane"),
        (638, "n03710637", "maillot"),
        (639, "n03710721", "maillot tank suit"),
        (657, "n03773504", "missile"),
        (967, "n07920052", "espresso"),
        (999, "n15075141", "toilet tissue"),
    ],
)
def test_known_classes(index, wordnet_id, name):
    assert labels.imagenet()[index] == ClassLabel(index, wordnet_id, name)


def test_plain_labels_count_from_nought():
    assert labels.plain(2) == (ClassLabel(0, None, "class 0"), ClassLabel(1, None, "class 1"))


def test_a_file_of_names(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes("\ufeffcat\r\nn02084071\tdog, small\r\n été \r\n\r\n".encode())
    assert labels.read_file(path, 3) == (
        ClassLabel(0, None, "cat"),
        ClassLabel(1, "n02084071", "dog, small"),
        ClassLabel(2, None, "été"),
    )


def test_unicode_line_separators_do_not_split_a_name(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("a\u2028b\nc\n", encoding="utf-8")
    assert [label.name for label in labels.read_file(path, 2)] == ["a\u2028b", "c"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat\n", "has 2 classes, but .* names 1"),
        (b"", "has 2 classes, but .* names 0"),
        (b"a\nb\nc\n", "has 2 classes, but .* names 3"),
        (b"cat\n\xff\n", "not UTF-8"),
        (b"\ncat\n", "Line 1 of .* is no name"),
        (b"cat\n\x1b[31mdog\n", "Line 2 of .* is no name"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_sentence(tmp_path, content, message):
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        labels.read_file(path, 2)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_a_missing_file_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match=r"can't be read: No such file or directory\.$"):
        labels.read_file(tmp_path / "none.txt", 2)
