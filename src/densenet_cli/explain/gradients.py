"""Evidence for a class in each cell of the last feature maps, for every kind of head.

Class activation maps (CAM) are exact for a dense layer on the mean feature maps: both are linear, so their order can be
swapped, and the mean of a map plus the bias of the class is the logit. Zhou et al., "Learning Deep Features for
Discriminative Localization", CVPR 2016 (https://arxiv.org/abs/1512.04150).

For other heads, Grad-CAM weights each feature map by the mean gradient of the logit and keeps the positive sums.
Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017
(https://arxiv.org/abs/1610.02391). For a dense layer on the mean feature maps, it equals CAM up to a factor, the bias,
and the negative values. Heads are small, so the gradient is computed here, without an engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from densenet_cli.topology import BN_EPSILON, DenseNetConfig, HeadLayer

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray
    from densenet_cli.weights.contents import Arrays

Vector = np.ndarray[Any, np.dtype[Any]]
"""A float64 array."""

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Vector) -> Vector:
    return np.asarray(np.exp(-np.logaddexp(0, -x)))


def _gaussian_cdf(x: Vector) -> Vector:
    return np.asarray((1 + _erf(x / math.sqrt(2))) / 2)


def _elu(x: Vector, alpha: float) -> Vector:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _elu_slope(x: Vector, alpha: float) -> Vector:
    return np.where(x > 0, 1, alpha * np.exp(np.minimum(x, 0)))


FUNCTIONS: dict[str, tuple[Callable[[Vector, float], Vector], Callable[[Vector, float], Vector]]] = {
    "relu": (lambda x, _: np.maximum(x, 0), lambda x, _: (x > 0) * 1.0),
    "relu6": (lambda x, _: np.clip(x, 0, 6), lambda x, _: ((x > 0) & (x < 6)) * 1.0),
    "leaky_relu": (lambda x, alpha: np.where(x > 0, x, alpha * x), lambda x, alpha: np.where(x > 0, 1, alpha)),
    "elu": (_elu, _elu_slope),
    "selu": (
        lambda x, _: SELU_SCALE * _elu(x, SELU_ALPHA),
        lambda x, _: SELU_SCALE * _elu_slope(x, SELU_ALPHA),
    ),
    "gelu": (
        lambda x, _: x * _gaussian_cdf(x),
        lambda x, _: _gaussian_cdf(x) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi),
    ),
    "silu": (
        lambda x, _: x * _sigmoid(x),
        lambda x, _: _sigmoid(x) * (1 + x * (1 - _sigmoid(x))),
    ),
    "softplus": (lambda x, _: np.logaddexp(0, x), lambda x, _: _sigmoid(x)),
    "softsign": (lambda x, _: x / (1 + np.abs(x)), lambda x, _: 1 / (1 + np.abs(x)) ** 2),
    "tanh": (lambda x, _: np.tanh(x), lambda x, _: 1 - np.tanh(x) ** 2),
    "sigmoid": (lambda x, _: _sigmoid(x), lambda x, _: _sigmoid(x) * (1 - _sigmoid(x))),
}
"""Activation -> the function and its derivative. The second argument is ``HeadLayer.alpha``."""


def head_gradients(config: DenseNetConfig, head: Arrays, pooled: Vector) -> tuple[Vector, Vector]:
    """Return the logits of a head, and their gradients with respect to its input.

    Args:
        config: The configuration of the network.
        head: The arrays of the head's layers.
        pooled: The input of the head, of shape (n,).

    Returns:
        The logits of shape (classes,), and the gradients of shape (n, classes).
    """
    value = pooled.astype(np.float64)
    # The Jacobian from the input to the current layer. The first dense layer makes it narrow.
    jacobian: Vector | None = None
    slope = np.ones_like(value)
    for name, layer in config.head_layers.items():
        arrays = {array: values.astype(np.float64) for array, values in head.get(name, {}).items()}
        if layer.kind == "dense":
            kernel = arrays["kernel"]
            jacobian = slope[:, None] * kernel if jacobian is None else (jacobian * slope) @ kernel
            value = value @ kernel + arrays["bias"]
            slope = np.ones_like(value)
        else:
            value, layer_slope = _elementwise(layer, arrays, value)
            slope = slope * layer_slope
    assert jacobian is not None  # every head has a dense layer
    return value, jacobian * slope


def _elementwise(layer: HeadLayer, arrays: dict[str, Vector], value: Vector) -> tuple[Vector, Vector]:
    """Return the output of a batch norm or activation, and its derivative."""
    if layer.kind == "batch_norm":
        scale = arrays["gamma"] / np.sqrt(arrays["moving_variance"] + BN_EPSILON)
        return (value - arrays["moving_mean"]) * scale + arrays["beta"], scale
    function, derivative = FUNCTIONS[layer.kind]
    return function(value, layer.alpha), derivative(value, layer.alpha)


def evidence_maps(
    config: DenseNetConfig, head: Arrays, features: FloatArray
) -> Callable[[int], tuple[FloatArray, float]]:
    """Return a function from the position of a class to its map and its logit.

    Args:
        config: The configuration of the network.
        head: The arrays of the head's layers.
        features: The last feature maps of one image, of shape (rows, columns, channels).

    Returns:
        A function that returns a float32 array of shape (rows, columns), and the logit.
    """
    if config.has_linear_head:
        kernel, bias = head["predictions"]["kernel"], head["predictions"]["bias"]

        def exact(position: int) -> tuple[FloatArray, float]:
            values = features @ kernel[:, position]
            return values, float(values.mean(dtype="float64")) + float(bias[position])

        return exact
    pooled = {"avg": features.mean((0, 1)), "max": features.max((0, 1)), "flatten": features.ravel()}[config.pooling]
    logits, gradients = head_gradients(config, head, pooled)

    def grad_cam(position: int) -> tuple[FloatArray, float]:
        gradient = gradients[:, position]
        if config.pooling == "flatten":
            weights = gradient.reshape(features.shape).mean((0, 1))
        else:  # each mean, or the one cell with the maximum, has the gradient: its mean over the cells is the same
            weights = gradient / (features.shape[0] * features.shape[1])
        values = np.maximum(features @ weights.astype(np.float32), 0)
        return values, float(logits[position])

    return grad_cam
