"""Folder names find their class, or a sentence says why not."""

from __future__ import annotations

import unicodedata

import pytest

from densenet_cli.errors import UsageError
from densenet_cli.evaluation.matching import Matcher
from densenet_cli.labels import ClassLabel, imagenet, plain

IMAGENET = Matcher(imagenet())


def own(*names):
    return Matcher(tuple(ClassLabel(n, None, name) for n, name in enumerate(names)))


@pytest.mark.parametrize(
    "name", ["n02124075", "N02124075", "Egyptian cat", "egyptian_cat", "Egyptian_Cat", "EGYPTIAN CAT", "285", "0285"]
)
def test_imagenet_by_id_name_and_index(name):
    assert IMAGENET.find(name) == [285]


def test_every_class_is_found_by_id_and_index():
    for position, label in enumerate(imagenet()):
        assert IMAGENET.find(label.id) == IMAGENET.find(str(label.index)) == [position]


def test_every_name_is_found_but_the_ambiguous_ones():
    ambiguous = {label.name for label in imagenet() if len(IMAGENET.find(label.name)) != 1}
    assert ambiguous == {"crane", "maillot"}
    assert len(IMAGENET.find("CARDIGAN")) == 2


@pytest.mark.parametrize(("name", "ids"), [("crane", "n02012849 n03126707"), ("Maillot", "n03710637 n03710721")])
def test_a_name_of_two_classes_is_ambiguous(name, ids):
    with pytest.raises(UsageError, match=f"'{name}' among the class folders of val names more than one") as raised:
        IMAGENET.match(["tench", name], "class folders of val")
    assert all(id_ in str(raised.value) for id_ in ids.split())


def test_an_imagenet_subset_goes_by_imagenets_indices():
    few = Matcher(tuple(imagenet()[index] for index in (285, 1, 517)))
    assert few.match(["1", "n02124075", "crane"], "x") == {"1": 1, "n02124075": 0, "crane": 2}
    assert few.find("0") == few.find("2") == []


def test_own_labels():
    digits = own("3", "1", "2")
    assert digits.find("3") == [0]  # a name goes before an index
    assert digits.find("0") == [0]
    assert own("Cat", "cat").match(["cat", "Cat"], "x") == {"cat": 1, "Cat": 0}
    with pytest.raises(UsageError, match="more than one class"):
        own("Cat", "cat").match(["CAT"], "x")
    assert Matcher(plain(12)).find("class_11") == Matcher(plain(12)).find("11") == [11]
    assert own("café").find(unicodedata.normalize("NFD", "Café")) == [0]
    for hostile in ("", "²", "-1", "1e0", " ", "\udcff", "\u0661"):
        assert own("a", "b").find(hostile) == []


def test_strangers_are_named():
    with pytest.raises(UsageError) as raised:
        own("cat", "dog").match(["cat", "cow", "bad\udcff"], "class folders of val")
    assert str(raised.value) == (
        "2 of the 3 class folders of val are none of the model's classes, and 3 are more than it has classes (2): "
        r"'cow', 'bad\\xff'. They are matched by WordNet id, readable name or index; the model knows 'cat', 'dog'."
    )
    with pytest.raises(UsageError, match=r"^9 of the 9 .* 'x0', 'x1', 'x2', 'x3', 'x4' and 4 more\. .* 995 more\.$"):
        IMAGENET.match([f"x{n}" for n in range(9)], "labels in a.csv")
