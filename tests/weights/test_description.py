"""The description in a ``.keras`` file of ``densenet export``."""

from __future__ import annotations

import json

import pytest

from densenet_cli.errors import CheckpointError
from densenet_cli.images.preprocessing import Preprocessing
from densenet_cli.labels import imagenet
from densenet_cli.weights.metadata import parse_description

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
    "values", [{"labels": 5}, {"labels": ["a", 7]}, {"labels": ["a\x1b"]}, {"labels": ["a"], "wordnet_ids": ["b", "c"]}]
)
def test_malformed_labels(values):
    with pytest.raises(CheckpointError):
        parse(**values)


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"preprocessing": 5}'])
def test_other_texts(text):
    with pytest.raises(CheckpointError):
        parse_description(text)
