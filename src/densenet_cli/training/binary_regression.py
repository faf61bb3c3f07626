"""Logistic regressions of independent classes on the same features, each cross-validated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from densenet_cli.training.logistic_regression import (
    CROSS_VALIDATION_TOLERANCE,
    DEFAULT_REGULARIZATION,
    FOLDS,
    MAX_CROSS_VALIDATED,
    MAX_LOGITS,
    MIN_CROSS_VALIDATED,
    PATIENCE,
    REGULARIZATIONS,
    TOLERANCE,
    minimize,
    standardize,
)

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray, IntArray
    from densenet_cli.training.logistic_regression import Float64Array


@dataclass(frozen=True)
class BinaryRegressions:
    """Fitted models. The logits of features ``x`` are ``x @ kernel + bias``.

    Attributes:
        kernel: float32 (features, classes).
        bias: float32 (classes,).
        regularizations: The strength of the L2 regularization for each class.
        losses: Strength -> mean binary cross-entropy of each class in the cross-validation; empty without one.
    """

    kernel: FloatArray
    bias: FloatArray
    regularizations: tuple[float, ...]
    losses: dict[float, Float64Array]

    def logits(self, features: FloatArray) -> FloatArray:
        """Return the logits (n, classes) of features (n, features)."""
        logits: FloatArray = features @ self.kernel + self.bias
        return logits


def fit(features: FloatArray, targets: IntArray, balance: FloatArray | None = None, seed: int = 0) -> BinaryRegressions:
    """Fit a model per class to images, each with one or more views.

    The features are standardized for the fit. The objective of a class is its mean binary cross-entropy over all views
    of the images for which it is known, plus half of the regularization times the squared norm of its kernel. The
    regularization is that with the lowest cross-entropy of the first views in a cross-validation.

    Args:
        features: float32 (images, views, features).
        targets: int64 (images, classes): 1, 0, or negative if unknown.
        balance: float32 (2, classes), the weights of targets of 0 and 1, or None for equal weights.
        seed: Seed of the folds.
    """
    standardized, mean, scale = standardize(features)
    weights = (targets >= 0).astype(np.float32)
    if balance is not None:
        weights *= np.where(targets == 1, balance[1], balance[0])
    losses = _cross_validate(standardized, targets, weights, seed)
    strengths = np.full(targets.shape[1], DEFAULT_REGULARIZATION)
    if losses:
        strengths = np.array(list(losses))[np.argmin(list(losses.values()), axis=0)]
    parameters = _fit(standardized, targets, weights, strengths)
    kernel = parameters[:-1] * scale[:, None]
    bias = parameters[-1] - mean @ kernel
    return BinaryRegressions(kernel.astype(np.float32), bias.astype(np.float32), tuple(strengths.tolist()), losses)


def _cross_validate(
    features: FloatArray, targets: IntArray, weights: FloatArray, seed: int
) -> dict[float, Float64Array]:
    """Return regularization -> mean cross-entropy per class of images that were left out of the fit."""
    count, classes = targets.shape
    if count < MIN_CROSS_VALIDATED:
        return {}
    limit = max(2_000, min(MAX_CROSS_VALIDATED, MAX_LOGITS // classes))
    chosen = np.random.default_rng(seed).permutation(count)[:limit]
    parts = [(np.delete(chosen, np.s_[fold::FOLDS]), chosen[fold::FOLDS]) for fold in range(FOLDS)]
    starts: list[Float64Array | None] = [None] * FOLDS
    total_weights = np.maximum(weights[chosen].sum(axis=0, dtype=np.float64), 1e-12)
    losses: dict[float, Float64Array] = {}
    for strength in REGULARIZATIONS:
        total = np.zeros(classes)
        for fold, (training, validation) in enumerate(parts):
            parameters = _fit(
                features[training],
                targets[training],
                weights[training],
                np.full(classes, strength),
                starts[fold],
                CROSS_VALIDATION_TOLERANCE,
            )
            starts[fold] = parameters
            logits = features[validation, 0] @ parameters[:-1] + parameters[-1]
            total += (cross_entropies(logits, targets[validation]) * weights[validation]).sum(axis=0)
        losses[strength] = total / total_weights
        best = np.argmin(list(losses.values()), axis=0)
        if best.max() < len(losses) - PATIENCE:
            break
    return losses


def cross_entropies(logits: Float64Array, targets: IntArray) -> Float64Array:
    """Return the binary cross-entropy of each class, in nats. Both arguments are (n, classes)."""
    values: Float64Array = np.logaddexp(0, np.where(targets == 1, -logits, logits))
    return values


def _fit(
    features: FloatArray,
    targets: IntArray,
    weights: FloatArray,
    strengths: Float64Array,
    start: Float64Array | None = None,
    tolerance: float = TOLERANCE,
) -> Float64Array:
    """Return the parameters (features + 1, classes), whose last row is the bias, for standardized features."""
    _, views, width = features.shape
    rows = features.reshape(-1, width)
    totals = np.maximum(weights.sum(axis=0), 1e-12) * views
    row_weights = np.repeat(weights / totals, views, axis=0).astype(np.float32)
    positive = np.repeat(targets == 1, views, axis=0).astype(np.float32)

    def objective(parameters: Float64Array) -> tuple[float, Float64Array]:
        kernel, bias = parameters[:-1], parameters[-1]
        logits = rows @ kernel.astype(np.float32) + bias.astype(np.float32)
        exponentials = np.exp(-np.abs(logits))
        values = np.maximum(logits, 0) - positive * logits + np.log1p(exponentials)
        value = float((values * row_weights).sum(dtype=np.float64))
        sigmoids = np.where(logits >= 0, 1, exponentials) / (1 + exponentials)
        residuals = (sigmoids - positive) * row_weights
        gradient = np.empty_like(parameters)
        gradient[:-1] = rows.T @ residuals + strengths * kernel
        gradient[-1] = residuals.sum(axis=0)
        return value + float((strengths * (kernel**2).sum(axis=0)).sum()) / 2, gradient

    return minimize(objective, np.zeros((width + 1, targets.shape[1])) if start is None else start, tolerance)
