"""The description in a ``.keras`` file of ``densenet export``."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from densenet_cli.errors import CheckpointError
from densenet_cli.export.model import ExportedModel
from densenet_cli.images.preprocessing import Preprocessing
from densenet_cli.labels import ClassLabel, imagenet
from densenet_cli.weights.contents import Checkpoint
from densenet_cli.weights.metadata import parse_description
from tests.support.networks import TINY

PREPROCESSING = {
    "mode": "crop",
    "input_size": 64,
    "resize_size": 73,
    "interpolation": "bicubic",
    "mean": [0.5, 0.4, 0.3],
    "std": [0.1, 0.2, 0.3],
}


def parse(preprocessing=PREPROCESSING, **values):
    return parse_description(json.dumps({"model": "m", "preprocessing": preprocessing, **values}).encode())


def test_values():
    metadata = parse(labels=["cat", "dog"])
    assert [label.name for label in metadata.labels] == ["cat", "dog"]
    assert (metadata.preprocess, metadata.input_size, metadata.interpolation) == ("crop", 64, "bicubic")
    assert (metadata.mean, metadata.std) == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    assert Preprocessing(input_size=64, crop_ratio=metadata.crop_ratio).resize_side == 73


def test_wordnet_ids():
    labels = imagenet()[5:8]
    names, ids = [label.name for label in labels], [label.id for label in labels]
    assert parse(labels=names, wordnet_ids=ids).labels == labels
    others = parse(labels=["a", "b"], wordnet_ids=["n00000001", "n00000002"]).labels
    assert [(label.index, label.id, label.name) for label in others] == [(0, "n00000001", "a"), (1, "n00000002", "b")]


@pytest.mark.parametrize(
    "labels",
    [
        imagenet()[5:8],
        (ClassLabel(0, "n01440764", "Schleie"), ClassLabel(1, "n01443537", "Goldfisch")),
        (ClassLabel(0, None, "cat"), ClassLabel(1, "n02084071", "dog")),
        tuple(replace(label, index=position) for position, label in enumerate(imagenet()[5:8])),
        (ClassLabel(7, None, "cat"), ClassLabel(3, None, "dog")),
    ],
    ids=["ImageNet", "translated", "some IDs", "ImageNet's names with other indices", "indices without IDs"],
)
def test_labels_of_an_exported_model(labels):
    config = replace(TINY, classes=len(labels))
    model = ExportedModel("m", Checkpoint({}, config), Preprocessing(input_size=64), labels, False)
    assert (
        parse(**{key: model.description[key] for key in model.description.keys() - {"preprocessing"}}).labels == labels
    )


def test_descriptions_without_indices():
    """Earlier versions did not write them. ImageNet's labels have ImageNet's indices, others have their positions."""
    labels = imagenet()[5:7]
    ids = [label.id for label in labels]
    assert parse(labels=[label.name for label in labels], wordnet_ids=ids).labels == labels
    assert parse(labels=ids).labels == labels
    assert parse(labels=["a", "b"], wordnet_ids=ids).labels == (ClassLabel(0, ids[0], "a"), ClassLabel(1, ids[1], "b"))
    assert parse(labels=["a"]).labels == (ClassLabel(0, None, "a"),)


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "other"},
        {"mode": None},
        {"input_size": 0},
        {"input_size": "64"},
        {"input_size": 10**9, "resize_size": 10**9},
        {"resize_size": 63},
        {"resize_size": None},
        {"interpolation": "lanczos"},
        {"mean": [0.5, 0.5]},
        {"mean": ["a", "b", "c"]},
        {"std": [0, 1, 1]},
    ],
    ids=str,
)
def test_malformed_preprocessing(change):
    with pytest.raises(CheckpointError):
        parse({**PREPROCESSING, **change})


@pytest.mark.parametrize(
    "values",
    [
        {"labels": 5},
        {"labels": ["a", 7]},
        {"labels": ["a\x1b"]},
        {"labels": ["a"], "wordnet_ids": ["b", "c"]},
        {"labels": ["a"], "indices": [0, 1]},
        {"labels": ["a"], "indices": [-1]},
        {"labels": ["a"], "indices": ["0"]},
        {"labels": ["a"], "indices": 0},
    ],
    ids=str,
)
def test_malformed_labels(values):
    with pytest.raises(CheckpointError):
        parse(**values)


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"preprocessing": 5}'])
def test_other_texts(text):
    with pytest.raises(CheckpointError):
        parse_description(text)
