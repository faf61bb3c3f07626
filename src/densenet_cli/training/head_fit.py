"""Fitting a new head to the features of a frozen backbone."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from densenet_cli import variants
from densenet_cli.calibration.record import today
from densenet_cli.classifier import Classifier
from densenet_cli.engines.precision import choose as choose_precision
from densenet_cli.errors import UnreadableImageError, UsageError
from densenet_cli.labels import Labels
from densenet_cli.text import quote
from densenet_cli.training import binary_regression, initial_weights, logistic_regression
from densenet_cli.training.batches import Subset, class_weights
from densenet_cli.training.calibration import CalibrationResult, calibrate
from densenet_cli.training.features import compute_features
from densenet_cli.training.image_list import unreadable_images_message
from densenet_cli.training.multi_label import MultiLabelMetrics, balance_weights
from densenet_cli.training.options import RunOptions
from densenet_cli.training.run_files import ValidationMetrics
from densenet_cli.training.settings import Settings

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray, IntArray
    from densenet_cli.weights.contents import Arrays


@dataclass(frozen=True)
class FittedHead:
    """The result.

    Attributes:
        arrays: The arrays of the whole network.
        metrics: Metrics on the validation images.
        calibrated: Calibration on the validation images.
    """

    arrays: Arrays
    metrics: ValidationMetrics | MultiLabelMetrics
    calibrated: CalibrationResult


def fit_head(
    training: Subset,
    validation: Subset,
    labels: Labels,
    settings: Settings,
    options: RunOptions,
    cache: Path,
    offline: bool = False,
) -> FittedHead:
    """Compute the features of all images, fit the head to the training images, and validate it.

    Args:
        training, validation: The images.
        labels: The labels of the classes.
        settings: The settings of the run.
        options: The options of the run.
        cache: Folder of the cached features.
        offline: Do not download the weights.

    Raises:
        UnreadableImageError: An image cannot be decoded and ``options.skip_unreadable`` is false, or no training image
            of a class can be.
        WeightsError: The weights are unavailable.
        OutputError: The features cannot be cached.
    """
    arrays = initial_weights.load_arrays(settings.start, settings.config(len(labels)), labels, offline)
    variant, weights = (settings.start, None) if settings.start in variants.VARIANTS else (None, settings.start)
    subsets = (training, validation)
    total = sum(map(len, subsets))
    features: list[FloatArray] = []
    targets: list[IntArray] = []
    errors: list[str] = []
    # Validation is in float32, as predict computes by default, so that metrics and calibration hold for it.
    precisions = (_feature_precision(settings, options), "float32")
    with ExitStack() as stack:
        classifiers = {
            precision: stack.enter_context(
                Classifier(variant, weights=weights, precision=precision, threads=options.threads, offline=offline)
            )
            for precision in dict.fromkeys(precisions)
        }
        for subset, views, precision in zip(subsets, (settings.views, 0), precisions, strict=True):
            first = len(training) * bool(features)
            values, subset_errors = compute_features(
                subset,
                views,
                classifiers[precision],
                settings,
                cache,
                lambda done, _, first=first: options.on_features(first + done, total),  # type: ignore[misc]
            )
            readable = np.setdiff1d(np.arange(len(subset)), list(subset_errors))
            features.append(values[readable])
            targets.append(subset.targets[readable])
            errors += subset_errors.values()
    if errors and not options.skip_unreadable:
        raise UnreadableImageError(unreadable_images_message(errors, total))
    metrics: ValidationMetrics | MultiLabelMetrics
    if settings.multi_label:
        balance = balance_weights(targets[0]) if settings.class_weights else None
        models = binary_regression.fit(features[0], targets[0], balance, settings.seed)
        kernel, bias = models.kernel, models.bias
        logits = models.logits(features[1][:, 0])
        metrics = MultiLabelMetrics.of_logits(logits, targets[1])
    else:
        for target in sorted(set(training.targets.tolist()) - set(targets[0].tolist())):
            raise UnreadableImageError(f"No training image of the class {quote(labels[target].name)} can be decoded.")
        weights_by_class = class_weights(targets[0], len(labels)) if settings.class_weights else None
        model = logistic_regression.fit(features[0], targets[0], len(labels), weights_by_class, settings.seed)
        kernel, bias = model.kernel, model.bias
        logits = model.logits(features[1][:, 0])
        metrics = ValidationMetrics.of_logits(logits, targets[1])
    calibrated = calibrate(logits, targets[1], settings, today())
    if calibrated.note:
        options.on_message(calibrated.note)
    return FittedHead({**arrays, "predictions": {"kernel": kernel, "bias": bias}}, metrics, calibrated)


def _feature_precision(settings: Settings, options: RunOptions) -> str:
    """Return the precision for the features of the training images."""
    if settings.precision != "mixed_bfloat16":
        return "float32"
    try:
        return choose_precision("bfloat16", None)[1]
    except UsageError as error:
        options.on_message(f"The features are computed in float32. {error}")
        return "float32"
