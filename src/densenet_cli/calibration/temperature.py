"""Temperature scaling (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017), and thresholds of classes.

A temperature divides the logits before softmax or sigmoid. It changes neither the order of the classes of an image nor
the accuracy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from densenet_cli.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from densenet_cli._types import BoolArray, FloatArray, IntArray

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0
MIN_EXAMPLES = 10
"""Images with a class, and images without it, that a multi-label model needs for a temperature of the class."""
DEFAULT_THRESHOLD = 0.5
BINS = 15


def to_probabilities(logits: FloatArray, activation: str, temperature: float | NDArray[Any] = 1.0) -> FloatArray:
    """Return the probabilities of logits.

    Args:
        logits: Shape (..., classes).
        activation: ``softmax`` or ``sigmoid``.
        temperature: Above 0, one number or one per class.

    Returns:
        float32 of the same shape, computed in float64.
    """
    scaled = np.asarray(logits, np.float64) / temperature
    if activation == "softmax":
        exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
        probabilities = exponentials / exponentials.sum(axis=-1, keepdims=True)
    else:
        probabilities = _sigmoid(scaled)
    result: FloatArray = probabilities.astype(np.float32)
    return result


def softmax_loss(logits: FloatArray, targets: IntArray, temperature: float = 1.0) -> float:
    """Return the mean negative log-likelihood of the classes ``targets`` in nats, computed from logits (n, classes)."""
    scaled = np.asarray(logits, np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    losses = np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(scaled)), targets]
    return float(losses.mean())


def fit_temperature(logits: FloatArray, targets: IntArray) -> float:
    """Return the temperature that minimizes the negative log-likelihood of softmax(logits / temperature).

    If every image is classified correctly, there is no minimum (the temperature would be 0), and the result is 1.

    Args:
        logits: Shape (images, classes).
        targets: The class of each image.

    Raises:
        UsageError: The model is not better than chance: no temperature below ``MAX_TEMPERATURE`` is best.
    """
    values = np.asarray(logits, np.float64)
    values = values - values.max(axis=1, keepdims=True)
    true_values = values[np.arange(len(values)), targets]
    if not true_values.any():  # all of them are the maximum
        return 1.0

    def slope(inverse: float) -> float:
        """Return the derivative of the loss with respect to 1 / temperature, which increases."""
        weights = np.exp(values * inverse)
        return float(((weights * values).sum(axis=1) / weights.sum(axis=1) - true_values).mean())

    return _find_temperature(slope)


def fit_label_temperatures(logits: FloatArray, targets: IntArray) -> NDArray[np.float64]:
    """Return the temperature of each class of a multi-label model, which minimizes its binary cross-entropy.

    It is 1 for a class with fewer than ``MIN_EXAMPLES`` positive or negative images, that the logits separate, or for
    which the logits are not better than chance.

    Args:
        logits: Shape (images, classes).
        targets: 1 for a class of the image, 0 for another class, and -1 if it is unknown; shape (images, classes).

    Raises:
        UsageError: The logits are not better than chance for any of the other classes.
    """
    temperatures = np.ones(logits.shape[1])
    failure: UsageError | None = None
    for position in range(logits.shape[1]):
        is_known = targets[:, position] >= 0
        is_positive = targets[is_known, position] == 1
        values = np.asarray(logits[is_known, position], np.float64)
        if min(is_positive.sum(), (~is_positive).sum()) < MIN_EXAMPLES or ((values > 0) == is_positive).all():
            continue

        def slope(inverse: float, values: NDArray[Any] = values, is_positive: BoolArray = is_positive) -> float:
            return float(((_sigmoid(values * inverse) - is_positive) * values).mean())

        try:
            temperatures[position] = _find_temperature(slope)
        except UsageError as error:
            failure = error
    if failure and (temperatures == 1).all():
        raise failure
    return temperatures


def label_thresholds(probabilities: FloatArray, targets: IntArray) -> FloatArray:
    """Return for each class of a multi-label model the probability from which predicting it gives the highest F1.

    It is 0.5 for a class with fewer than ``MIN_EXAMPLES`` positive or negative images. See ``fit_label_temperatures``
    for the arguments.
    """
    thresholds = np.full(probabilities.shape[1], DEFAULT_THRESHOLD, np.float32)
    for position in range(probabilities.shape[1]):
        is_known = targets[:, position] >= 0
        is_positive = targets[is_known, position] == 1
        if min(is_positive.sum(), (~is_positive).sum()) < MIN_EXAMPLES:
            continue
        scores = probabilities[is_known, position]
        order = (-scores).argsort(kind="stable")
        scores, correct = scores[order], is_positive[order].cumsum()
        f1 = 2 * correct / (np.arange(1, len(scores) + 1) + correct[-1])
        is_last_of_equal = np.append(scores[1:] != scores[:-1], True)
        thresholds[position] = scores[np.where(is_last_of_equal, f1, -1).argmax()]
    return thresholds


def expected_calibration_error(confidences: FloatArray, is_correct: BoolArray) -> float:
    """Return the mean gap between confidence and accuracy over ``BINS`` bins (Guo et al., equation 3), in [0, 1]."""
    indices = np.ceil(np.asarray(confidences, np.float64) * BINS).astype(int).clip(1, BINS)
    gaps = np.bincount(indices, np.asarray(confidences, np.float64) - is_correct)
    return float(np.abs(gaps).sum() / len(indices))


def _find_temperature(slope: Any) -> float:
    """Return the temperature where the slope of a convex loss, as a function of 1 / temperature, is zero."""
    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    if slope(low) >= 0:
        raise UsageError(
            "The model is not better than chance on these images. Train it longer, or check the labels of the images."
        )
    for _ in range(100):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return float(1 / (low * high) ** 0.5)


def _sigmoid(values: NDArray[Any]) -> NDArray[Any]:
    exponentials = np.exp(-np.abs(values))
    probabilities: NDArray[Any] = np.where(values >= 0, 1, exponentials) / (1 + exponentials)
    return probabilities
