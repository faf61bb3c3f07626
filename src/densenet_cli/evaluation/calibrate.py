"""Calibration of a classifier on labeled images, and the checkpoint that contains it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from densenet_cli.calibration.record import Calibration, check_max_images, today
from densenet_cli.calibration.temperature import (
    expected_calibration_error,
    softmax_loss,
    to_probabilities,
)
from densenet_cli.errors import DensenetError, UsageError
from densenet_cli.evaluation.probability_fit import Fit
from densenet_cli.labels import placeholders
from densenet_cli.model_preprocessing import state_preprocessing
from densenet_cli.results import Failure
from densenet_cli.text import plural

if TYPE_CHECKING:
    from densenet_cli._types import BoolArray, FloatArray, IntArray
    from densenet_cli.classifier import Classifier
    from densenet_cli.datasets import LabeledSource, MultiLabelSource
    from densenet_cli.pipeline import Result


@dataclass(frozen=True)
class CalibrationReport:
    """The results of a calibration.

    Attributes:
        model: Name of the model.
        calibration: The calibration.
        failures: Name and error of each image that could not be classified.
        before, after: Fit of the uncalibrated and of the calibrated probabilities.
        settings: Settings that the results depend on, as JSON types.
    """

    model: str
    calibration: Calibration
    failures: tuple[tuple[str, Failure], ...]
    before: Fit
    after: Fit
    settings: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON types, without the scores."""
        calibration = self.calibration.to_dict()
        return {
            "model": self.model,
            "settings": dict(self.settings),
            **{name: calibration[name] for name in ("images", "date", "accuracy", "temperature")},
            **({"thresholds": calibration["thresholds"]} if self.calibration.is_multi_label else {}),
            "failed": len(self.failures),
            "before": vars(self.before),
            "after": vars(self.after),
        }


class LogitCollector:
    """Collects the logits of labeled images, 4 bytes per image and class.

    Args:
        classifier: The classifier.
    """

    outputs = ("logits",)
    """What ``Classifier.stream`` must compute."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._logits: list[FloatArray] = []
        self._targets: list[Any] = []
        self.failures: list[tuple[str, Failure]] = []

    def add(self, result: Result[Any]) -> None:
        """Add the result of one image. Raises ``UsageError`` if there are too many."""
        if result.error:
            self.failures.append((result.source.name, Failure.of(result.error)))
            return
        logits = result.outputs["logits"]
        source: Any = result.source
        if self._classifier.config.is_multi_label:
            self._targets.append(source.targets(len(logits)))
        else:
            self._targets.append(source.target)
        self._logits.append(logits.copy())  # The row may be a view of a batch.
        check_max_images(len(self._logits), len(logits), self._classifier.config.activation)

    def report(self) -> CalibrationReport:
        """Calibrate the classifier.

        Raises:
            DensenetError: No image could be classified.
            UsageError: There are too few images, or the model is not better than chance on them.
        """
        if not self._logits:
            failed = f": {plural(len(self.failures), 'image')} failed" if self.failures else ""
            raise DensenetError(f"No images to calibrate with{failed}.")
        classifier = self._classifier
        logits, targets = np.stack(self._logits), np.array(self._targets)
        preprocessing = classifier.preprocessing.to_dict()
        activation = classifier.config.activation
        calibration = Calibration.fit(logits, targets, activation, preprocessing, today(), classifier.precision)
        before, after = (
            _measure(logits, targets, activation, np.asarray(temperature))
            for temperature in (np.ones_like(calibration.temperature), calibration.temperature)
        )
        return CalibrationReport(classifier.model, calibration, tuple(self.failures), before, after, preprocessing)


def calibrate(classifier: Classifier, sources: Iterable[LabeledSource | MultiLabelSource]) -> CalibrationReport:
    """Calibrate a classifier on labeled images that were not used for training.

    Args:
        classifier: A classifier without ``ten_crop``.
        sources: The images and their classes. Iterated in a separate thread.

    Raises:
        DensenetError: No image could be classified.
        UsageError: There are too few or too many images, the model is not better than chance on them, or the classifier
            uses ``ten_crop``.
        CheckpointError: The network produced NaN or infinite values.
    """
    if classifier.preprocessing.ten_crop:
        raise UsageError("A model is calibrated for one crop per image. Use a classifier without `ten_crop`.")
    collector = LogitCollector(classifier)
    for result in classifier.stream(sources, collector.outputs):
        collector.add(result)
    return collector.report()


def serialize_calibrated(classifier: Classifier, calibration: Calibration) -> bytes:
    """Return the bytes of a ``.safetensors`` checkpoint with the classifier's weights, settings, and a calibration.

    The weights of a ``.safetensors`` file of this package are copied bit for bit. Those of other formats are converted
    as ``export`` does.

    Raises:
        CheckpointError: The checkpoint cannot be read any more.
    """
    from densenet_cli.weights import safetensors

    preprocessing = classifier.preprocessing
    labels = None if classifier.labels == placeholders(len(classifier.labels)) else classifier.labels
    metadata = replace(
        state_preprocessing(classifier.metadata, preprocessing), labels=labels, calibration=calibration.to_dict()
    )
    path = Path(classifier.weights)
    if path.suffix == ".safetensors":
        content = safetensors.replace_metadata(path, classifier.config, metadata)
        if content is not None:
            return content
    checkpoint = classifier.read_checkpoint()
    return safetensors.serialize(checkpoint.arrays, checkpoint.config, metadata)


def _measure(logits: FloatArray, targets: IntArray, activation: str, temperature: Any) -> Fit:
    probabilities = to_probabilities(logits, activation, temperature)
    if activation == "softmax":
        is_correct: BoolArray = probabilities.argmax(axis=1) == targets
        loss = softmax_loss(logits, targets, float(temperature))
        return Fit(loss, expected_calibration_error(probabilities.max(axis=1), is_correct))
    return Fit.of_labels(probabilities, targets)
