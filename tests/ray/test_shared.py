"""Models on other machines: the same results, from nothing but what is shared."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from densenet_cli import Classifier
from densenet_cli.paths import checkpoints_dir
from densenet_cli.ray.shared import SharedModel, share_weights

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(autouse=True)
def object_store(monkeypatch):
    """An object store without Ray."""
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(put=lambda value: value, get=lambda value: value))


def move(checkpoint: Path, tmp_path: Path) -> Path:
    """Move a checkpoint to a place that can be deleted."""
    target = tmp_path / "machine" / checkpoint.name
    target.parent.mkdir()
    (shutil.copytree if checkpoint.is_dir() else shutil.copy)(checkpoint, target)
    return target


@pytest.mark.parametrize(
    ("folder", "options"),
    [
        ("timm/plain", {}),
        ("timm/deep", {"preprocess": "squash", "input_size": 40}),
        ("timm/blur", {"interpolation": None, "ten_crop": True}),
        ("timm/gray-max", {"bit_depth": "full", "truncated": "accept"}),
    ],
)
def test_another_machine_gets_the_same_predictions(folder, options, photographs, tmp_path, monkeypatch):
    weights = move(DATA / folder, tmp_path)
    names = tmp_path / "machine" / "labels.txt"
    with Classifier(weights=weights, **options) as classifier:
        names.write_text("".join(f"name {number}\n" for number in range(len(classifier.labels))))
    given = {"weights": weights, "labels": names, **options}
    with Classifier(**given) as classifier:
        expected = [prediction.to_dict() for prediction in classifier.predict_many(photographs)]
        model = SharedModel.of(classifier, given)
    shutil.rmtree(tmp_path / "machine")
    monkeypatch.setenv("DENSENET_CACHE", str(tmp_path / "other cache"))
    with model.create(threads=1, isolate=False, offline=True) as other:
        assert [prediction.to_dict() for prediction in other.predict_many(photographs)] == expected
        assert other.preprocessing == classifier.preprocessing
    assert expected[0]["model"] == Path(folder).name


def test_the_included_model_is_calibrated_elsewhere_too(photographs, tmp_path, monkeypatch):
    with Classifier("tiny") as classifier:
        expected = [prediction.to_dict() for prediction in classifier.predict_many(photographs, max_error=0.3)]
        model = SharedModel.of(classifier, {"variant": "tiny"})
    monkeypatch.setenv("DENSENET_CACHE", str(tmp_path / "other cache"))
    with model.create(threads=1) as other:
        assert [prediction.to_dict() for prediction in other.predict_many(photographs, max_error=0.3)] == expected


def test_a_node_writes_the_files_once(weights, tmp_path):
    shared = share_weights(weights)
    path = shared.write()
    status = path.stat()
    assert path.read_bytes() == weights.read_bytes()
    assert shared.write() == path
    assert path.stat() == status
    assert [entry.name for entry in checkpoints_dir().iterdir()] == [shared.digest]


def test_a_cache_that_cannot_be_written(weights, monkeypatch):
    monkeypatch.setenv("DENSENET_CACHE", os.devnull)
    path = share_weights(weights).write()
    assert path.read_bytes() == weights.read_bytes()
    shutil.rmtree(path.parent)


def test_equal_files_have_one_digest(weights, tmp_path):
    copy = tmp_path / weights.name
    shutil.copy(weights, copy)
    assert share_weights(copy).digest == share_weights(weights).digest
    copy.write_bytes(weights.read_bytes() + b"x")
    assert share_weights(copy).digest != share_weights(weights).digest


def test_int8_needs_no_images_elsewhere(weights):
    from densenet_cli.engines.int8_graph import Quantization
    from densenet_cli.int8 import prepare

    engine = SimpleNamespace(config=SimpleNamespace(classes=10), quantization=None)
    quantization = Quantization({"x": (0.0, 1.0)}, 99, 100)
    assert prepare(engine, None, None, quantization, 1) is quantization
    assert engine.quantization is quantization
    assert np.isclose(quantization.agreement, 0.99)
