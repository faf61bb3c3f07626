"""Agreement of a classifier in reduced precision with the same one in float32, on the same images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from densenet_cli.errors import UsageError
from densenet_cli.text import to_unicode

if TYPE_CHECKING:
    from densenet_cli.classifier import Classifier
    from densenet_cli.images.sources import Source

TOP_K = 5
INT8_OPTIONS = ("int8_images", "allow_low_agreement")
"""Arguments of ``Classifier`` that only int8 accepts."""


@dataclass(frozen=True)
class Agreement:
    """How similar the predictions of two classifiers are.

    Attributes:
        images: Number of images that both classified.
        same_first: Number of images with the same most probable class.
        same_top5: Number of images with the same set of the five most probable classes.
        max_difference: Largest difference between probabilities of the same class, over all images and classes.
        mean_difference: Mean over the images of the largest difference in an image.
        labeled: Number of images whose class is known.
        correct: Number of those whose most probable class is the known one.
        reference_correct: The same for the reference.
        failed: Name of each image that could not be classified -> reason.
    """

    images: int
    same_first: int
    same_top5: int
    max_difference: float
    mean_difference: float
    labeled: int = 0
    correct: int = 0
    reference_correct: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers and shares as JSON values. Accuracies are None without known classes."""
        return {
            "images": self.images,
            "failed": {to_unicode(name): reason for name, reason in self.failed.items()},
            "same_first_label": self.same_first / self.images,
            "same_top5_labels": self.same_top5 / self.images,
            "max_difference": self.max_difference,
            "mean_difference": self.mean_difference,
            "labeled_images": self.labeled,
            "accuracy": self.correct / self.labeled if self.labeled else None,
            "reference_accuracy": self.reference_correct / self.labeled if self.labeled else None,
        }


def with_precision(options: Mapping[str, Any], engine: str | None, precision: str) -> dict[str, Any]:
    """Return arguments of ``Classifier`` with another engine and precision."""
    kept = {name: value for name, value in options.items() if precision == "int8" or name not in INT8_OPTIONS}
    return {**kept, "engine": engine, "precision": precision}


def find_images(folder: str, classifier: Classifier) -> tuple[Sequence[Source], str]:
    """Find the images in a folder and, if it contains class folders, their classes.

    Args:
        folder: Path of a folder, with images at any depth.
        classifier: Its labels are the possible names of class folders.

    Returns:
        Sources, and why the names of class folders were ignored (or ``""``).
    """
    from densenet_cli.datasets.folders import ClassFolders
    from densenet_cli.images.sources import expand
    from densenet_cli.labels import ClassResolver

    unlabeled = expand([folder])
    if classifier.config.is_multi_label:
        return list(unlabeled), ""
    try:
        dataset = ClassFolders(folder)
    except UsageError:
        return list(unlabeled), ""
    try:
        positions = ClassResolver(classifier.labels).resolve_all(dataset.classes, dataset.description)
    except UsageError as error:
        return list(unlabeled), str(error)
    return list(dataset.sources(positions)), ""


def measure_agreement(
    classifier: Classifier,
    reference: Classifier,
    sources: Sequence[Source],
    progress: Callable[[], object] = lambda: None,
) -> Agreement:
    """Classify images with both classifiers and compare the probabilities.

    Args:
        classifier: The one to assess.
        reference: The one to compare with, of the same model.
        sources: Images. The class of a ``LabeledSource`` is known.
        progress: Called after each image.

    Raises:
        UsageError: No image can be classified.
    """
    import numpy as np

    images = same_first = same_top5 = labeled = correct = reference_correct = 0
    max_difference = sum_of_differences = 0.0
    failed: dict[str, str] = {}
    pairs = zip(classifier.stream(sources), reference.stream(sources), strict=True)
    for result, expected in pairs:
        progress()
        if error := result.error or expected.error:
            failed[result.source.name] = str(error)
            continue
        probabilities, reference_probabilities = result.outputs["probabilities"], expected.outputs["probabilities"]
        order, reference_order = (
            np.argsort(-row, kind="stable")[:TOP_K] for row in (probabilities, reference_probabilities)
        )
        difference = float(np.abs(probabilities - reference_probabilities).max())
        images += 1
        same_first += bool(order[0] == reference_order[0])
        same_top5 += set(order.tolist()) == set(reference_order.tolist())
        max_difference = max(max_difference, difference)
        sum_of_differences += difference
        if (target := getattr(result.source, "target", None)) is not None:
            labeled += 1
            correct += bool(order[0] == target)
            reference_correct += bool(reference_order[0] == target)
    if not images:
        reason = next(iter(failed.values()), "There are none.")
        raise UsageError(f"None of the images can be classified: {reason}")
    return Agreement(
        images,
        same_first,
        same_top5,
        max_difference,
        sum_of_differences / images,
        labeled,
        correct,
        reference_correct,
        failed,
    )
