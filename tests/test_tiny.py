"""The bundled model on photographs, which detects mixed-up weights, labels, or preprocessing."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from densenet_cli import Classifier, labels, variants
from densenet_cli.calibration.record import Calibration
from densenet_cli.weights import checkpoint, store
from tests.conftest import SAMPLES
from tests.support.command import densenet

EXPECTED_CLASSES = {
    "bison.jpg": {347},
    "cat.jpg": {281, 285},
    "espresso.jpg": {967},
    "german_shepherd.jpg": {235},
    "koala.jpg": {105},
    "red_panda.jpg": {387},
    "rocket.jpg": {744},
}
"""Sample image -> ImageNet indices of the correct classes, among those of the model."""


def test_file_is_small():
    assert store.get_file(variants.get("tiny")).stat().st_size < 8e6


def test_calibration_did_not_change_the_weights():
    """The arrays are those of the training run, before the calibration was added."""
    arrays = load_file(store.get_file(variants.get("tiny")))
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + arrays[name].tobytes())
    assert digest.hexdigest() == "c1b828d8939bf7f2b0264e391068b59cbb3a3bdc3201e3fa0d6632b3ffdb6ec4"


def test_it_is_calibrated_on_its_validation_images():
    metadata = checkpoint.read(store.get_file(variants.get("tiny"))).metadata
    calibration = Calibration.from_dict(metadata.calibration, 200)
    assert np.bincount(calibration.scores.targets).tolist() == [10] * 200
    # The test images have another accuracy, and images that the model was trained on a higher one.
    assert calibration.accuracy == metadata.accuracy["validation"]["top1"]
    with Classifier("tiny") as classifier, Classifier("tiny", uncalibrated=True) as raw:
        first, second = (model.predict(SAMPLES / "cat.jpg").scores[0] for model in (classifier, raw))
        assert first.label == second.label and first.probability > second.probability
        assert classifier.predictor(coverage=0.9, max_error=0.2).warnings == ()


def test_labels_are_those_of_imagenet():
    contents = checkpoint.read(store.get_file(variants.get("tiny")))
    assert contents.variant == "tiny"
    table = labels.imagenet()
    assert len(contents.metadata.labels) == 200
    assert all(table[label.index] == label for label in contents.metadata.labels)


@pytest.mark.parametrize("engine", ["onnx", "tensorflow"])
def test_sample_images_are_recognized(engine):
    classifier = Classifier("tiny", engine=engine)
    predictions = {name: classifier.predict(SAMPLES / name, top_k=5) for name in EXPECTED_CLASSES}
    correct = [
        name
        for name, indices in EXPECTED_CLASSES.items()
        if indices & {score.index for score in predictions[name].scores}
    ]
    # By chance, 0.2 of the seven would be correct.
    assert len(correct) >= 5, {name: [score.label for score in predictions[name].scores] for name in EXPECTED_CLASSES}


def test_no_download_is_needed():
    result = densenet("predict", SAMPLES, "--variant", "tiny", "--offline", "--format", "jsonl")
    assert result.status == 0
    assert '"model": "densenet-tiny"' in result.out


def test_summary_shows_the_calibration():
    path = store.get_file(variants.get("tiny"))
    result = densenet("summary", "--weights", path)
    assert "2,000 images" in result.out and "temperature 0.85" in result.out
    stated = json.loads(densenet("summary", "--weights", path, "--format", "json").out)["stated"]
    assert stated["calibration"]["images"] == 2000
