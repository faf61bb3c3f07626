"""``densenet predict`` with a multi-label model: which labels are reported, in all formats."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from densenet_cli import Classifier
from tests.support.command import densenet
from tests.support.images import noise_images
from tests.support.networks import FINDINGS, multi_label_weights, probabilities_in


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return multi_label_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return noise_images(tmp_path_factory.mktemp("images"), 30)


@pytest.fixture(scope="module")
def probabilities(weights, folder, tmp_path_factory):
    """The probabilities of each image, computed from the logits."""
    rows = probabilities_in(folder, weights, tmp_path_factory.mktemp("cache"))
    counts = set((rows >= 0.5).sum(axis=1))
    assert 0 in counts and max(counts) > 1, "some images must have no label, and others several"
    return rows


def labels_of(output: str) -> list[list[str]]:
    return [[score["label"] for score in json.loads(line)["predictions"]] for line in output.splitlines()]


def expected(probabilities, top_k, min_prob) -> list[list[str]]:
    orders = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    return [
        [FINDINGS[n] for n in order if row[n] >= min_prob] for row, order in zip(probabilities, orders, strict=True)
    ]


@pytest.mark.parametrize(
    ("options", "top_k", "min_prob"),
    [
        ((), 5, 0.5),
        (("--min-prob", 0.2), 5, 0.2),
        (("-k", 2), 2, 0),
        (("-k", 2, "--min-prob", 0.2), 2, 0.2),
        (("--min-prob", 0), 5, 0),
    ],
)
def test_selected_labels(weights, folder, probabilities, options, top_k, min_prob):
    result = densenet("predict", folder, "--weights", weights, "--format", "jsonl", *options)
    assert result.status == 0
    assert labels_of(result.out) == expected(probabilities, top_k, min_prob)


def test_probabilities_are_independent(weights, folder, probabilities):
    result = densenet("predict", folder, "--weights", weights, "--format", "jsonl", "--min-prob", 0)
    records = [json.loads(line)["predictions"] for line in result.out.splitlines()]
    actual = [[next(s for s in scores if s["index"] == n)["probability"] for n in range(5)] for scores in records]
    np.testing.assert_allclose(actual, probabilities, atol=1e-6)
    assert probabilities.sum(axis=1).max() > 1.1


def test_images_without_labels(weights, folder, probabilities):
    result = densenet("predict", folder, "--weights", weights, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(result.out)))
    unlabeled = [row["source"] for row in rows if not row["rank"]]
    none = (probabilities < 0.5).all(axis=1)
    assert unlabeled == [str(path) for path, n in zip(sorted(folder.iterdir()), none, strict=True) if n]
    assert all(row["label"] == row["probability"] == row["error"] == "" for row in rows if not row["rank"])
    table = densenet("predict", folder, "--weights", weights)
    assert table.out.count("No class has a probability of at least 0.5.") == none.sum()
    assert "WordNet" not in table.out


@pytest.mark.parametrize("extension", ["csv", "jsonl"])
def test_resume(weights, folder, tmp_path, extension):
    file = tmp_path / f"labels.{extension}"
    arguments = ("predict", folder, "--weights", weights, "-o", file)
    assert densenet(*arguments).status == 0
    complete = file.read_bytes()
    settings = json.loads((tmp_path / f"{file.name}.meta.json").read_text())
    assert (settings["top_k"], settings["min_prob"]) == (5, 0.5)
    for length in range(80, len(complete), 53):
        file.write_bytes(complete[:length])
        assert densenet(*arguments, "--resume", "--min-prob", 0.5).status == 0
        assert file.read_bytes() == complete
    rejected = densenet(*arguments, "--resume", "-k", 5)
    assert rejected.status == 2 and "--min-prob" in rejected.err


def test_page(weights, folder, probabilities, tmp_path):
    assert densenet("predict", folder, "--weights", weights, "--html", tmp_path / "page.html").status == 0
    text = (tmp_path / "page.html").read_text()
    assert "data-multi-label" in text
    assert text.count("data-probability") == len(probabilities) + (probabilities >= 0.5).sum()


def test_explain_uses_the_most_probable_label(weights, folder, probabilities):
    images = sorted(folder.iterdir())
    result = densenet("explain", images[0], "--weights", weights, "--format", "json")
    assert result.status == 0, result.err
    (record,) = json.loads(result.out)
    assert [map_["label"] for map_ in record["maps"]] == [FINDINGS[probabilities[0].argmax()]]


def test_python_api(weights, folder, probabilities):
    classifier = Classifier(weights=weights)
    predictions = list(classifier.predict_many([folder]))
    assert [[score.label for score in p.scores] for p in predictions] == expected(probabilities, 5, 0.5)
    best = classifier.predict(sorted(folder.iterdir())[0], top_k=2)
    assert [score.label for score in best.scores] == expected(probabilities[:1], 2, 0)[0]
