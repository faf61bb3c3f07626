"""Calibrate the bundled weights on the validation images of their run: ``python scripts/calibrate_tiny.py TRAIN``.

TRAIN is the folder with the training images of Tiny ImageNet, of which the run held out some for validation. The script
finds these from the settings in the file, checks that the model has the recorded accuracy on them, and adds the
calibration to the metadata. The weights are copied bit for bit. The test images are not used.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from densenet_cli import Classifier
from densenet_cli.datasets import LabeledSource
from densenet_cli.evaluation.calibrate import calibrate
from densenet_cli.output.atomic import write_file
from densenet_cli.training.batches import Subset, split_validation
from densenet_cli.training.image_cache import DecodedOnDemand
from densenet_cli.training.image_list import list_images
from densenet_cli.weights import safetensors

BUNDLED = Path(__file__).parents[1] / "src/densenet_cli/data/densenet-tiny.safetensors"


def main(folder: Path) -> None:
    """Calibrate the bundled weights."""
    classifier = Classifier("tiny", uncalibrated=True)
    run = classifier.metadata.training
    image_list = list_images(str(folder))
    images = DecodedOnDemand(image_list.paths, 0)
    subset = Subset(images, np.arange(len(image_list)), image_list.target_array())
    _, validation = split_validation(subset, len(image_list.classes), run["validation"], run["seed"])
    positions = {label.id: position for position, label in enumerate(classifier.labels)}
    targets = [positions[image_list.classes[target]] for target in validation.targets]
    paths = [image_list.paths[index] for index in validation.indices]
    sources = [LabeledSource(path, path, "path", target=target) for path, target in zip(paths, targets, strict=True)]
    report = calibrate(classifier, sources)
    calibration, expected = report.calibration, classifier.metadata.accuracy["validation"]
    print(
        f"{calibration.images:,} images, accuracy {calibration.accuracy:.2%}, temperature {calibration.temperature:.4f}"
    )
    print(f"before: {report.before}\nafter: {report.after}")
    if abs(calibration.accuracy - expected["top1"]) > 0.002:
        sys.exit(f"These are not the validation images: the accuracy on them is {expected['top1']:.2%}.")
    metadata = replace(classifier.metadata, calibration=calibration.to_dict())
    content = safetensors.replace_metadata(BUNDLED, classifier.config, metadata)
    assert content is not None
    write_file(BUNDLED, content)
    print(f"{BUNDLED.name}, {BUNDLED.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
