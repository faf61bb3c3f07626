"""The bundled model on photographs, which detects mixed-up weights, labels, or preprocessing."""

from __future__ import annotations

import pytest

from densenet_cli import Classifier, labels, variants
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
