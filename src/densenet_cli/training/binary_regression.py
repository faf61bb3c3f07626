"""Logistic regressions of independent classes on the same features, each cross-validated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from densenet_cli.training.logistic_regression import minimize
from densenet_cli.training.regularization import LinearModel, fit_regularized, standardize

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray, IntArray
    from densenet_cli.training.regularization import Float64Array, Weights


def fit(features: FloatArray, targets: IntArray, balance: FloatArray | None = None, seed: int = 0) -> LinearModel:
    """Fit a model per class to images, each with one or more views.

    The features are standardized for the fit. The objective of a class is its mean binary cross-entropy over all views
    of the images for which it is known, plus half of the regularization times the squared norm of its kernel. The
    regularization is that with the lowest cross-entropy of the first views in a cross-validation, weighted in the same
    way.

    Args:
        features: float32 (images, views, features).
        targets: int64 (images, classes): 1, 0, or negative if unknown.
        balance: float32 (2, classes), the weights of targets of 0 and 1, or None for equal weights.
        seed: Seed of the folds.
    """
    standardized, mean, scale = standardize(features)
    return fit_regularized(BinaryRegressions(standardized, targets, balance), mean, scale, seed)


class BinaryRegressions:
    """Logistic regressions of standardized features, see ``Regression`` and ``fit``."""

    def __init__(self, features: FloatArray, targets: IntArray, balance: FloatArray | None = None) -> None:
        self.weights: Weights = (targets >= 0).astype(np.float32)
        if balance is not None:
            self.weights *= np.where(targets == 1, balance[1], balance[0])
        self.classes = targets.shape[1]
        self.strata = np.zeros(len(targets), np.int64)
        self._features = features
        self._targets = targets

    def fit(
        self, members: IntArray, strengths: Float64Array, start: Float64Array | None, tolerance: float
    ) -> Float64Array:
        """Fit the models to some images."""
        features, targets, weights = self._features[members], self._targets[members], self.weights[members]
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

        return minimize(objective, np.zeros((width + 1, self.classes)) if start is None else start, tolerance)

    def losses(self, parameters: Float64Array, members: IntArray) -> Float64Array:
        """Return the binary cross-entropy of the first view of some images for each class, in nats."""
        return cross_entropies(self._features[members, 0] @ parameters[:-1] + parameters[-1], self._targets[members])


def cross_entropies(logits: Float64Array, targets: IntArray) -> Float64Array:
    """Return the binary cross-entropy of each class, in nats. Both arguments are (n, classes)."""
    values: Float64Array = np.logaddexp(0, np.where(targets == 1, -logits, logits))
    return values
