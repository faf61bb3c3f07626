"""The model that ships: on real photographs, so that mixed-up weights, labels or preprocessing would show."""

from __future__ import annotations

import pytest

from densenet_cli import Classifier, labels, variants
from densenet_cli.weights import checkpoint, store
from tests.conftest import SAMPLES
from tests.support.command import densenet

SHOWN = {
    "bison.jpg": {347},
    "cat.jpg": {281, 285},
    "espresso.jpg": {967},
    "german_shepherd.jpg": {235},
    "koala.jpg": {105},
    "red_panda.jpg": {387},
    "rocket.jpg": {744},
}
"""ImageNet's indices of what each shows, among those that tiny knows."""


def test_it_fits_in_the_wheel():
    assert store.get_file(variants.get("tiny")).stat().st_size < 8e6


def test_its_labels_are_imagenets():
    read = checkpoint.read(store.get_file(variants.get("tiny")))
    assert read.variant == "tiny"
    table = labels.imagenet()
    assert len(read.metadata.labels) == 200
    assert all(table[label.index] == label for label in read.metadata.labels)


@pytest.mark.parametrize("engine", ["onnx", "tensorflow"])
def test_it_sees_what_the_sample_images_show(engine):
    classifier = Classifier("tiny", engine=engine)
    found = {name: classifier.predict(SAMPLES / name, top_k=5) for name in SHOWN}
    seen = [name for name, indices in SHOWN.items() if indices & {score.index for score in found[name].scores}]
    # Chance would see 0.2 of the seven.
    assert len(seen) >= 5, {name: [score.label for score in found[name].scores] for name in SHOWN}


def test_no_network_and_no_download():
    result = densenet("predict", SAMPLES, "--variant", "tiny", "--offline", "--format", "jsonl")
    assert result.status == 0
    assert '"model": "densenet-tiny"' in result.out
