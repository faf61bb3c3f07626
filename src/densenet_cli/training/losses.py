"""The loss and the accuracy of multi-label models, for any Keras backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray

Tensor = Any
"""A tensor of the backend."""


def multi_label_loss(label_smoothing: float, weights: FloatArray | None) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a loss: the mean binary cross-entropy over the known classes of each image.

    Its arguments are targets (n, classes), which are 1, 0, or negative if unknown, and logits (n, classes).

    Args:
        label_smoothing: Fraction by which targets move towards 0.5.
        weights: (2, classes), the weights of targets of 0 and 1, or None.
    """

    def loss(targets: Tensor, logits: Tensor) -> Tensor:
        known = keras.ops.cast(targets >= 0, logits.dtype)
        positive = keras.ops.cast(targets > 0, logits.dtype)
        smoothed = positive * (1 - label_smoothing) + label_smoothing / 2
        # log(1 + exp(logits)) - smoothed * logits is the cross-entropy of the sigmoid.
        values = (keras.ops.softplus(logits) - smoothed * logits) * known
        if weights is not None:
            negative_weights, positive_weights = (keras.ops.convert_to_tensor(row) for row in weights)
            values = values * (negative_weights + (positive_weights - negative_weights) * positive)
        return keras.ops.sum(values, -1) / keras.ops.maximum(keras.ops.sum(known, -1), 1)

    return loss


def multi_label_accuracy(targets: Tensor, logits: Tensor) -> Tensor:
    """Return the fraction of correct decisions of each image, for the arguments of the loss."""
    known = keras.ops.cast(targets >= 0, logits.dtype)
    is_correct = keras.ops.cast(keras.ops.equal(logits > 0, targets > 0), logits.dtype)
    return keras.ops.sum(is_correct * known, -1) / keras.ops.maximum(keras.ops.sum(known, -1), 1)
