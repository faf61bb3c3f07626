"""Linear models on the features of images, with a regularization that a cross-validation chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray, IntArray

    Float64Array = np.ndarray[Any, np.dtype[np.float64]]
    Weights = np.ndarray[Any, np.dtype[np.floating[Any]]]

REGULARIZATIONS = tuple(10.0 ** (exponent / 2) for exponent in range(2, -11, -1))
"""Strengths of the regularization to choose from, the strongest first: from 10 to 1e-5."""

MIN_DEVIATION = 0.01
"""Smallest standard deviation that a feature is divided by, as a fraction of the root mean square of all features'.

Some features are almost always 0. Scaled up, their rare values and rounding errors would dominate the logits.
"""

DEFAULT_REGULARIZATION = 0.1
"""Used if there are too few images for a cross-validation."""

FOLDS = 5
MIN_CROSS_VALIDATED = 10
MAX_CROSS_VALIDATED = 10_000
"""Numbers of images for a cross-validation. A random part of more images determines the regularization as well."""

MAX_LOGITS = 1_000_000
"""Maximum number of images times number of classes for a cross-validation, which bounds its time."""

PATIENCE = 2
"""Weaker regularizations to try after the best one."""

TOLERANCE = 1e-5
"""Largest component of the gradient at the end of the fit."""

CROSS_VALIDATION_TOLERANCE = 1e-4


class Regression(Protocol):
    """One or more models to fit to standardized features.

    Attributes:
        weights: The weight of each image in the objective of each model, (images, models).
        classes: Number of classes.
        strata: int64 (images,). Images of equal value are distributed evenly among the folds.
    """

    weights: Weights
    classes: int
    strata: IntArray

    def fit(
        self, members: IntArray, strengths: Float64Array, start: Float64Array | None, tolerance: float
    ) -> Float64Array:
        """Fit the models to some images.

        Args:
            members: The numbers of the images.
            strengths: The strength of each model's L2 regularization.
            start: Parameters to start from.
            tolerance: The largest component of the gradient at the end.

        Returns:
            The parameters (features + 1, classes), whose last row is the bias.
        """

    def losses(self, parameters: Float64Array, members: IntArray) -> Float64Array:
        """Return the loss of the first view of some images for each model, without weights, (images, models)."""


@dataclass(frozen=True)
class LinearModel:
    """Fitted models. The logits of features ``x`` are ``x @ kernel + bias``.

    Attributes:
        kernel: float32 (features, classes).
        bias: float32 (classes,).
        regularizations: The strength of the L2 regularization of each model, for standardized features.
        losses: Strength -> mean loss of each model in the cross-validation, in nats; empty without one.
    """

    kernel: FloatArray
    bias: FloatArray
    regularizations: tuple[float, ...]
    losses: dict[float, Float64Array]

    def logits(self, features: FloatArray) -> FloatArray:
        """Return the logits (n, classes) of features (n, features)."""
        logits: FloatArray = features @ self.kernel + self.bias
        return logits


def fit_regularized(regression: Regression, mean: Float64Array, scale: Float64Array, seed: int) -> LinearModel:
    """Fit models to all images, each with the regularization that has the lowest loss in a cross-validation.

    That loss is the mean over the images, weighted as in the objective.

    Args:
        regression: The models.
        mean, scale: What the features were standardized with.
        seed: Seed of the folds.
    """
    count, models = regression.weights.shape
    losses = _cross_validate(regression, seed)
    strengths = np.full(models, DEFAULT_REGULARIZATION)
    if losses:
        strengths = np.array(list(losses))[np.argmin(list(losses.values()), axis=0)]
    parameters = regression.fit(np.arange(count), strengths, None, TOLERANCE)
    kernel = parameters[:-1] * scale[:, None]
    bias = parameters[-1] - mean @ kernel
    return LinearModel(kernel.astype(np.float32), bias.astype(np.float32), tuple(strengths.tolist()), losses)


def standardize(features: FloatArray) -> tuple[FloatArray, Float64Array, Float64Array]:
    """Return ``(features - mean) * scale``, float32 (images, views, features), and ``mean`` and ``scale`` (features,).

    The scale of a constant feature is 0. A feature that varies much less than the others keeps a smaller range than
    they have (see ``MIN_DEVIATION``).
    """
    rows = features.reshape(-1, features.shape[-1])
    mean, std = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
    smallest = max(1e-6, MIN_DEVIATION * float(np.sqrt(np.square(std).mean())))
    scale = np.where(std > 1e-6, 1 / np.maximum(std, smallest), 0)
    return ((features - mean.astype(np.float32)) * scale.astype(np.float32)).astype(np.float32), mean, scale


def _cross_validate(regression: Regression, seed: int) -> dict[float, Float64Array]:
    """Return regularization -> mean loss per model of images that were left out of the fit."""
    count, models = regression.weights.shape
    if count < MIN_CROSS_VALIDATED:
        return {}
    limit = max(2_000, min(MAX_CROSS_VALIDATED, MAX_LOGITS // regression.classes))
    chosen = np.random.default_rng(seed).permutation(count)[:limit]
    # Neighbors in the order of the strata are in different folds, so each fold has a part of each stratum.
    folds = np.empty(len(chosen), np.int64)
    folds[np.argsort(regression.strata[chosen], kind="stable")] = np.arange(len(chosen)) % FOLDS
    parts = [(chosen[folds != fold], chosen[folds == fold]) for fold in range(FOLDS)]
    starts: list[Float64Array | None] = [None] * FOLDS
    total_weights = np.maximum(regression.weights[chosen].sum(axis=0, dtype=np.float64), 1e-12)
    losses: dict[float, Float64Array] = {}
    for strength in REGULARIZATIONS:
        total = np.zeros(models)
        for fold, (training, validation) in enumerate(parts):
            parameters = regression.fit(training, np.full(models, strength), starts[fold], CROSS_VALIDATION_TOLERANCE)
            starts[fold] = parameters
            total += (regression.losses(parameters, validation) * regression.weights[validation]).sum(axis=0)
        losses[strength] = total / total_weights
        best = np.argmin(list(losses.values()), axis=0)
        if best.max() < len(losses) - PATIENCE:
            break
    return losses
