"""Label tables, built in and from a file, and finding a class by its name."""

from __future__ import annotations

import re
import unicodedata

import pytest

from densenet_cli import labels
from densenet_cli.errors import UsageError
from densenet_cli.labels import ClassLabel, ClassResolver, imagenet, placeholders


def test_imagenet_has_a_thousand_different_classes():
    table = imagenet()
    assert len(table) == 1000
    assert [label.index for label in table] == list(range(1000))
    assert len({label.id for label in table}) == 1000
    assert len({label.name for label in table}) == 1000
    assert all(re.fullmatch(r"n\d{8}", label.id) for label in table)
    assert [label.id for label in table] == sorted(label.id for label in table)
    assert all(labels.is_valid(label.name) and label.name == label.name.strip() for label in table)


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
    assert imagenet()[index] == ClassLabel(index, wordnet_id, name)


def test_placeholders_count_from_zero():
    assert placeholders(2) == (ClassLabel(0, None, "class 0"), ClassLabel(1, None, "class 1"))


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[31m", "\x85", "\ud800", "\udcff", None, 7, ["a"]])
def test_invalid_names(name):
    assert not labels.is_valid(name)
    assert labels.is_valid("été \U0001f98a \u2028")


def test_class_names_that_are_wordnet_ids_get_imagenet_labels():
    first, second = labels.from_class_names(("n01443537", "n02124075"))
    assert (first.index, first.name) == (1, "goldfish")
    assert (second.index, second.id, second.name) == (285, "n02124075", "Egyptian cat")
    assert labels.from_class_names(["n01443537", "newt"]) == (
        ClassLabel(0, None, "n01443537"),
        ClassLabel(1, None, "newt"),
    )


IMAGENET = ClassResolver(imagenet())


def resolver(*names: str) -> ClassResolver:
    return ClassResolver(tuple(ClassLabel(index, None, name) for index, name in enumerate(names)))


@pytest.mark.parametrize(
    "name", ["n02124075", "N02124075", "Egyptian cat", "egyptian_cat", "Egyptian_Cat", "EGYPTIAN CAT", "285", "0285"]
)
def test_resolve_by_id_name_and_index(name):
    assert IMAGENET.candidates(name) == [285]
    assert IMAGENET.resolve(name) == 285


def test_every_class_resolves_by_id_and_index():
    for position, label in enumerate(imagenet()):
        assert IMAGENET.candidates(label.id) == IMAGENET.candidates(str(label.index)) == [position]


def test_only_two_names_are_ambiguous():
    ambiguous = {label.name for label in imagenet() if len(IMAGENET.candidates(label.name)) != 1}
    assert ambiguous == {"crane", "maillot"}
    assert len(IMAGENET.candidates("CARDIGAN")) == 2


@pytest.mark.parametrize(("name", "ids"), [("crane", "n02012849 n03126707"), ("Maillot", "n03710637 n03710721")])
def test_an_ambiguous_name_is_an_error(name, ids):
    for resolve in (IMAGENET.resolve, lambda name: IMAGENET.resolve_all(["tench", name], "class folders in val")):
        with pytest.raises(UsageError, match=f"'{name}' matches") as raised:
            resolve(name)
        assert all(id_ in str(raised.value) for id_ in ids.split())


def test_a_subset_of_imagenet_keeps_its_indices():
    subset = ClassResolver(tuple(imagenet()[index] for index in (285, 1, 517)))
    assert subset.resolve_all(["1", "n02124075", "crane"], "x") == {"1": 1, "n02124075": 0, "crane": 2}
    assert subset.candidates("0") == subset.candidates("2") == []


def test_custom_labels():
    assert resolver("Cat", "cat").resolve_all(["cat", "Cat"], "x") == {"cat": 1, "Cat": 0}
    with pytest.raises(UsageError, match="'CAT' matches"):
        resolver("Cat", "cat").resolve_all(["CAT"], "x")
    numbered = ClassResolver(placeholders(12))
    assert numbered.candidates("class_11") == numbered.candidates("11") == [11]
    assert resolver("café").candidates(unicodedata.normalize("NFD", "Café")) == [0]
    for hostile in ("", "²", "-1", "1e0", " ", "\udcff", "\u0661"):
        assert resolver("a", "b").candidates(hostile) == []


def test_positions_are_not_used_if_the_model_has_names():
    digits = resolver("1", "2", "3")
    assert digits.resolve_all(["3", "1"], "x") == {"3": 2, "1": 0}
    assert digits.candidates("0") == digits.candidates("02") == []
    with pytest.raises(UsageError, match=r"1 of 2 .*'0'.*Positions are used only"):
        digits.resolve_all(["0", "1"], "class folders in val")
    with pytest.raises(UsageError, match=r"'02'.*'2'"):
        digits.resolve("02")
    assert resolver("cat", "dog").candidates("1") == []


def test_indices_of_labels_that_are_not_imagenets_are_not_used():
    own_order = ClassResolver((ClassLabel(0, "n02124075", "Egyptian cat"), ClassLabel(1, "n01440764", "tench")))
    assert own_order.candidates("0") == own_order.candidates("285") == []
    assert own_order.candidates("n02124075") == [0]


def test_an_integer_is_an_index():
    assert resolver("2", "1").resolve(1) == 1
    assert ClassResolver(imagenet()[280:]).resolve(285) == 5
    with pytest.raises(UsageError, match="9"):
        resolver("2", "1").resolve(9)


@pytest.mark.parametrize(
    ("names", "rules"),
    [(["285", "egyptian_cat"], "index.*name"), (["n02124075", "285"], "WordNet.*index"), (["1", "tench", "01"], "pad")],
)
def test_two_names_for_one_class_by_different_rules_are_an_error(names, rules):
    with pytest.raises(UsageError, match=rules) as raised:
        IMAGENET.resolve_all(names, "class folders in val")
    assert repr(names[0]) in str(raised.value) and repr(names[-1]) in str(raised.value)
    assert IMAGENET.resolve_all(["sea_lion", "Sea lion"], "x") == {"sea_lion": 150, "Sea lion": 150}


def test_unknown_names_are_listed():
    with pytest.raises(UsageError) as raised:
        resolver("cat", "dog").resolve_all(["cat", "cow", "bad\udcff"], "class folders in val")
    message = str(raised.value)
    with pytest.raises(UsageError, match=r"'cta' \(did you mean 'cat'\?\), 'xyz'"):
        resolver("cat", "dog").resolve_all(["cta", "xyz"], "labels in a.csv")
    assert "2 of 3 class folders in val" in message
    assert "only 2" in message
    assert "'cow'" in message and r"'bad\xff'" in message
    assert "'cat', 'dog'" in message
    with pytest.raises(UsageError, match=r"9 of 9 .* 'x0', 'x1', 'x2', 'x3', 'x4', and 4 more\. .* 995 more\.$"):
        IMAGENET.resolve_all([f"x{n}" for n in range(9)], "labels in a.csv")


def test_similar_names_are_suggested():
    with pytest.raises(UsageError, match=r"'goldfisch'.*'goldfish'"):
        IMAGENET.resolve("goldfisch")
    with pytest.raises(UsageError, match="'n01443537'"):
        IMAGENET.resolve("n0144353")
    with pytest.raises(UsageError, match="'cat', 'dog'"):
        resolver("cat", "dog").resolve("xyz")
