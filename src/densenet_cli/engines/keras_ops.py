"""The op set that builds a Keras model, for the TensorFlow engine, training, and export."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from densenet_cli.topology import BN_EPSILON, DenseNetConfig, Outputs, build

if TYPE_CHECKING:
    from densenet_cli.weights.contents import Arrays

Tensor = Any  # a KerasTensor, for which Keras has no type annotations


class KerasOps:
    """Implements ``topology.Ops`` with Keras layers, channels last."""

    def channels(self, x: Tensor) -> int:
        return int(x.shape[-1])

    def zero_pad(self, x: Tensor, name: str, *, padding: int) -> Tensor:
        return keras.layers.ZeroPadding2D(padding, name=name)(x)

    def conv(self, x: Tensor, name: str, *, filters: int, kernel: int, stride: int = 1) -> Tensor:
        return keras.layers.Conv2D(
            filters,
            kernel,
            strides=stride,
            padding="same" if stride == 1 else "valid",
            use_bias=False,
            kernel_initializer="he_normal",
            name=name,
        )(x)

    def batch_norm(self, x: Tensor, name: str) -> Tensor:
        return keras.layers.BatchNormalization(epsilon=BN_EPSILON, name=name)(x)

    def relu(self, x: Tensor, name: str) -> Tensor:
        return keras.layers.Activation("relu", name=name)(x)

    def max_pool(self, x: Tensor, name: str, *, size: int, stride: int) -> Tensor:
        return keras.layers.MaxPooling2D(size, strides=stride, name=name)(x)

    def avg_pool(self, x: Tensor, name: str, *, size: int, stride: int) -> Tensor:
        return keras.layers.AveragePooling2D(size, strides=stride, name=name)(x)

    def concat(self, x: Tensor, new: Tensor, name: str) -> Tensor:
        return keras.layers.Concatenate(name=name)([x, new])

    def global_avg_pool(self, x: Tensor, name: str) -> Tensor:
        return keras.layers.GlobalAveragePooling2D(name=name)(x)

    def dense(self, x: Tensor, name: str, *, units: int) -> Tensor:
        # float32 even with a mixed-precision policy, because the loss is computed from the logits.
        return keras.layers.Dense(units, dtype="float32", name=name)(x)

    def softmax(self, x: Tensor, name: str) -> Tensor:
        return keras.layers.Activation("softmax", dtype="float32", name=name)(x)


def build_model(config: DenseNetConfig, output: str = "probabilities") -> keras.Model:
    """Build a Keras model for normalized RGB pixels ``(batch, height, width, 3)`` of any size.

    Args:
        config: The configuration of the network.
        output: A field of ``topology.Outputs``: ``probabilities``, ``logits``, ``pooled``, or ``features``.
    """
    x = keras.Input((None, None, 3), name="pixels")
    outputs: Outputs[Tensor] = build(KerasOps(), config, x)
    return keras.Model(x, getattr(outputs, output), name="densenet")


def set_arrays(model: keras.Model, arrays: Arrays) -> None:
    """Set the weights of a model. ``arrays`` must have the names and shapes of ``layers.array_shapes``."""
    for layer in model.layers:
        if layer.weights:
            layer.set_weights([arrays[layer.name][weight.name] for weight in layer.weights])


def get_arrays(model: keras.Model) -> Arrays:
    """Return the weights of a model as float32, by layer and array name."""
    return {
        layer.name: {
            weight.name: np.asarray(value, dtype=np.float32)
            for weight, value in zip(layer.weights, layer.get_weights(), strict=True)
        }
        for layer in model.layers
        if layer.weights
    }
