"""Multinomial logistic regression with L2 regularization, fitted with L-BFGS and cross-validated."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray, IntArray

    Float64Array = np.ndarray[Any, np.dtype[np.float64]]
    Objective = Callable[[Float64Array], tuple[float, Float64Array]]

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

MAX_ITERATIONS = 300
HISTORY = 10
"""Parameters of L-BFGS: a limit of the iterations, and the number of updates that it remembers."""


@dataclass(frozen=True)
class LogisticRegression:
    """A fitted model. The logits of features ``x`` are ``x @ kernel + bias``.

    Attributes:
        kernel: float32 (features, classes).
        bias: float32 (classes,).
        regularization: The strength of the L2 regularization of the kernel, for standardized features.
        losses: Strength -> mean negative log-likelihood in the cross-validation, in nats; empty without one.
    """

    kernel: FloatArray
    bias: FloatArray
    regularization: float
    losses: dict[float, float]

    def logits(self, features: FloatArray) -> FloatArray:
        """Return the logits (n, classes) of features (n, features)."""
        logits: FloatArray = features @ self.kernel + self.bias
        return logits


def fit(
    features: FloatArray, targets: IntArray, classes: int, class_weights: FloatArray | None = None, seed: int = 0
) -> LogisticRegression:
    """Fit a model to images, each with one or more views.

    The features are standardized for the fit. The objective is the mean of the negative log-likelihood over all views
    plus half of the regularization times the squared norm of the kernel. The regularization is that with the lowest
    negative log-likelihood of the first views in a cross-validation.

    Args:
        features: float32 (images, views, features).
        targets: int64 (images,).
        classes: Number of classes.
        class_weights: Weight of each class in the objective, or None for equal weights.
        seed: Seed of the folds.
    """
    standardized, mean, scale = standardize(features)
    losses = _cross_validate(standardized, targets, classes, class_weights, seed)
    strength = min(losses, key=lambda value: losses[value]) if losses else DEFAULT_REGULARIZATION
    parameters = _fit(standardized, targets, classes, class_weights, strength)
    kernel = parameters[:-1] * scale[:, None]
    bias = parameters[-1] - mean @ kernel
    return LogisticRegression(kernel.astype(np.float32), bias.astype(np.float32), strength, losses)


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


def negative_log_likelihood(logits: FloatArray, targets: IntArray) -> float:
    """Return the mean over the rows, in nats."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(targets)), targets]))


def _cross_validate(
    features: FloatArray, targets: IntArray, classes: int, class_weights: FloatArray | None, seed: int
) -> dict[float, float]:
    """Return regularization -> mean negative log-likelihood of images that were left out of the fit."""
    if len(targets) < MIN_CROSS_VALIDATED:
        return {}
    limit = max(2_000, min(MAX_CROSS_VALIDATED, MAX_LOGITS // classes))
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(len(targets))[:limit]
    # Neighbors in the order of the classes are in different folds, so each fold has a part of each class.
    folds = np.empty(len(chosen), np.int64)
    folds[np.argsort(targets[chosen], kind="stable")] = np.arange(len(chosen)) % FOLDS
    parts = [(chosen[folds != fold], chosen[folds == fold]) for fold in range(FOLDS)]
    starts: list[Float64Array | None] = [None] * FOLDS
    losses: dict[float, float] = {}
    for strength in REGULARIZATIONS:
        fold_losses = []
        for fold, (training, validation) in enumerate(parts):
            parameters = _fit(
                features[training],
                targets[training],
                classes,
                class_weights,
                strength,
                starts[fold],
                CROSS_VALIDATION_TOLERANCE,
            )
            starts[fold] = parameters
            logits = features[validation, 0] @ parameters[:-1] + parameters[-1]
            fold_losses.append(negative_log_likelihood(logits, targets[validation]) * len(validation))
        losses[strength] = sum(fold_losses) / len(chosen)
        if list(losses.values()).index(min(losses.values())) < len(losses) - PATIENCE:
            break
    return losses


def _fit(
    features: FloatArray,
    targets: IntArray,
    classes: int,
    class_weights: FloatArray | None,
    strength: float,
    start: Float64Array | None = None,
    tolerance: float = TOLERANCE,
) -> Float64Array:
    """Return the parameters (features + 1, classes), whose last row is the bias, for standardized features."""
    count, views, width = features.shape
    rows = features.reshape(-1, width)
    weights = np.ones(count) if class_weights is None else class_weights[targets]
    row_weights = np.repeat(weights / (weights.sum() * views), views).astype(np.float32)[:, None]
    one_hot = np.zeros((len(rows), classes), np.float32)
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

    return minimize(objective, np.zeros((width + 1, classes)) if start is None else start, tolerance)


def minimize(objective: Objective, start: Float64Array, tolerance: float = TOLERANCE) -> Float64Array:
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
