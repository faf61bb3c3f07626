"""A small model, labeled images for it, and its calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from densenet_cli import Classifier
from densenet_cli.images.sources import from_object
from densenet_cli.labels import from_class_names
from densenet_cli.weights import safetensors
from densenet_cli.weights.contents import ModelMetadata
from tests.support.command import densenet
from tests.support.images import noise_images
from tests.support.networks import TINY, multi_label_weights, random_arrays

LABELS = ("ant", "bee", "cow", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay")
SCALE = 3.0
"""How much larger the logits of the model are than those that the labels follow."""


def write_overconfident_model(folder: Path) -> Path:
    """Write a checkpoint for images of 32 x 32 pixels, with various predictions."""
    arrays = random_arrays(TINY)
    path = folder / "model.safetensors"
    metadata = ModelMetadata(labels=from_class_names(LABELS), preprocess="squash", input_size=32)
    safetensors.write(path, arrays, TINY, metadata)
    images = noise_images(new_folder(folder / "for-the-head"), 24, seed=1)
    logits = logits_of(path, images)
    head, scale = arrays["predictions"], 5 * SCALE / logits.std()
    head["kernel"] *= scale
    head["bias"] = ((head["bias"] - logits.mean(axis=0)) * scale).astype(np.float32)
    safetensors.write(path, arrays, TINY, metadata)
    return path


def new_folder(path: Path) -> Path:
    path.mkdir()
    return path


def logits_of(weights: Path, folder: Path) -> np.ndarray:
    """Return the logits of the images in a folder, in the order of their names."""
    with Classifier(weights=weights) as classifier:
        sources = map(from_object, sorted(folder.iterdir()))
        return np.stack([result.outputs["logits"] for result in classifier.stream(sources, ("logits",))])


def write_labels(file: Path, weights: Path, images: Path, seed: int = 0) -> np.ndarray:
    """Write a table of classes that follow softmax(logits / ``SCALE``), and return their positions."""
    logits = logits_of(weights, images).astype(np.float64) / SCALE
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    sums = (probabilities / probabilities.sum(axis=1, keepdims=True)).cumsum(axis=1)
    targets = (np.random.default_rng(seed).random((len(logits), 1)) > sums).sum(axis=1).clip(max=len(LABELS) - 1)
    rows = [f"{path.name},{LABELS[target]}\n" for path, target in zip(sorted(images.iterdir()), targets, strict=True)]
    file.write_text("path,label\n" + "".join(rows))
    return targets


def write_multi_labels(file: Path, weights: Path, images: Path) -> np.ndarray:
    """Write a table of labels that follow sigmoid(logits / 2), and return them as 0 and 1."""
    from tests.support.networks import FINDINGS

    probabilities = 1 / (1 + np.exp(-logits_of(weights, images) / 2))
    targets = (np.random.default_rng(0).random(probabilities.shape) < probabilities).astype(int)
    rows = [
        ",".join([path.name, *map(str, row)]) + "\n"
        for path, row in zip(sorted(images.iterdir()), targets.tolist(), strict=True)
    ]
    file.write_text(",".join(["path", *FINDINGS]) + "\n" + "".join(rows))
    return targets


def calibrate_model(folder: Path, count: int = 300) -> Path:
    """Write a calibrated model, images, and their labels to a folder; return the path of the calibrated model."""
    weights = write_overconfident_model(folder)
    images = noise_images(new_folder(folder / "images"), count)
    write_labels(folder / "labels.csv", weights, images)
    return run_calibrate(folder, weights, images)


def calibrate_multi_label_model(folder: Path, count: int = 300) -> Path:
    """The same for a multi-label model."""
    weights = multi_label_weights(folder)
    images = noise_images(new_folder(folder / "images"), count)
    write_multi_labels(folder / "labels.csv", weights, images)
    return run_calibrate(folder, weights, images)


def run_calibrate(folder: Path, weights: Path, images: Path) -> Path:
    output = folder / "calibrated.safetensors"
    result = densenet("calibrate", images, "--csv", folder / "labels.csv", "--weights", weights, "-o", output)
    assert result.status == 0, result.err
    return output
