"""Multinomial logistic regression with L2 regularization, fitted with L-BFGS and cross-validated."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from densenet_cli.training.regularization import LinearModel, fit_regularized, standardize

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray, IntArray
    from densenet_cli.training.regularization import Float64Array, Weights

    Objective = Callable[[Float64Array], tuple[float, Float64Array]]

MAX_ITERATIONS = 300
HISTORY = 10
"""Parameters of L-BFGS: a limit of the iterations, and the number of updates that it remembers."""


def fit(
    features: FloatArray, targets: IntArray, classes: int, class_weights: FloatArray | None = None, seed: int = 0
) -> LinearModel:
    """Fit a model to images, each with one or more views.

    The features are standardized for the fit. The objective is the mean of the negative log-likelihood over all views
    plus half of the regularization times the squared norm of the kernel. The regularization is that with the lowest
    negative log-likelihood of the first views in a cross-validation, weighted in the same way.

    Args:
        features: float32 (images, views, features).
        targets: int64 (images,).
        classes: Number of classes.
        class_weights: Weight of each class in the objective, or None for equal weights.
        seed: Seed of the folds.
    """
    standardized, mean, scale = standardize(features)
    return fit_regularized(MultinomialRegression(standardized, targets, classes, class_weights), mean, scale, seed)


class MultinomialRegression:
    """A multinomial logistic regression of standardized features, see ``Regression`` and ``fit``."""

    def __init__(
        self, features: FloatArray, targets: IntArray, classes: int, class_weights: FloatArray | None = None
    ) -> None:
        weights: Weights = np.ones(len(targets)) if class_weights is None else class_weights[targets]
        self.weights = weights[:, None]
        self.classes = classes
        self.strata = targets
        self._features = features
        self._targets = targets

    def fit(
        self, members: IntArray, strengths: Float64Array, start: Float64Array | None, tolerance: float
    ) -> Float64Array:
        """Fit the model to some images."""
        features, targets, weights = self._features[members], self._targets[members], self.weights[members, 0]
        strength = float(strengths[0])
        _, views, width = features.shape
        rows = features.reshape(-1, width)
        row_weights = np.repeat(weights / (weights.sum() * views), views).astype(np.float32)[:, None]
        one_hot = np.zeros((len(rows), self.classes), np.float32)
        one_hot[np.arange(len(rows)), np.repeat(targets, views)] = 1

        def objective(parameters: Float64Array) -> tuple[float, Float64Array]:
            kernel, bias = parameters[:-1], parameters[-1]
            logits = rows @ kernel.astype(np.float32) + bias.astype(np.float32)
            logits -= logits.max(axis=1, keepdims=True)
            target_logits = (logits * one_hot).sum(axis=1, keepdims=True)
            np.exp(logits, out=logits)
            sums = logits.sum(axis=1, keepdims=True)
            value = float(((np.log(sums) - target_logits) * row_weights).sum(dtype=np.float64))
            residuals = (logits / sums - one_hot) * row_weights
            gradient = np.empty_like(parameters)
            gradient[:-1] = rows.T @ residuals + strength * kernel
            gradient[-1] = residuals.sum(axis=0)
            return value + strength / 2 * float((kernel**2).sum()), gradient

        return minimize(objective, np.zeros((width + 1, self.classes)) if start is None else start, tolerance)

    def losses(self, parameters: Float64Array, members: IntArray) -> Float64Array:
        """Return the negative log-likelihood of the first view of some images, in nats, (images, 1)."""
        logits = self._features[members, 0] @ parameters[:-1] + parameters[-1]
        shifted = logits - logits.max(axis=1, keepdims=True)
        losses: Float64Array = (
            np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(members)), self._targets[members]]
        )
        return losses[:, None]


def minimize(objective: Objective, start: Float64Array, tolerance: float) -> Float64Array:
    """Minimize a smooth convex function with L-BFGS (Nocedal and Wright, "Numerical Optimization", algorithm 7.5).

    Args:
        objective: Returns the value and the gradient at a point, an array of any shape.
        start: The first point.
        tolerance: The largest component of the gradient at the end.

    Returns:
        The point at which no component of the gradient exceeds ``tolerance``, or the last one if there is no progress.
    """
    point = start.astype(np.float64)
    value, gradient = objective(point)
    updates: deque[tuple[Any, Any, float]] = deque(maxlen=HISTORY)
    for _ in range(MAX_ITERATIONS):
        if np.abs(gradient).max() <= tolerance:
            break
        direction = -_apply_inverse_hessian(updates, gradient)
        slope = float((direction * gradient).sum())
        for step in _step_sizes(1.0 if updates else 1 / max(1.0, float(np.sqrt((gradient**2).sum())))):
            new_point = point + step * direction
            new_value, new_gradient = objective(new_point)
            if new_value <= value + 1e-4 * step * slope:
                break
        else:
            break  # no progress at the precision of the objective
        change, gradient_change = new_point - point, new_gradient - gradient
        curvature = float((change * gradient_change).sum())
        if curvature > 0:
            updates.append((change, gradient_change, curvature))
        point, value, gradient = new_point, new_value, new_gradient
    return point


def _step_sizes(first: float) -> Iterator[float]:
    return (first / 2**halving for halving in range(20))


def _apply_inverse_hessian(updates: deque[tuple[Any, Any, float]], gradient: Float64Array) -> Float64Array:
    """Return the product of the estimated inverse Hessian and a gradient (the two-loop recursion)."""
    result = gradient.copy()
    factors = []
    for change, gradient_change, curvature in reversed(updates):
        factor = float((change * result).sum()) / curvature
        factors.append(factor)
        result -= factor * gradient_change
    if updates:
        _, gradient_change, curvature = updates[-1]
        result *= curvature / float((gradient_change**2).sum())
    for (change, gradient_change, curvature), factor in zip(updates, reversed(factors), strict=True):
        result += (factor - float((gradient_change * result).sum()) / curvature) * change
    return result
