"""The op set of Keras layers: the reference engine's network, and the one that training uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from densenet_cli.topology import BN_EPSILON, DenseNetConfig, Outputs, build

if TYPE_CHECKING:
    from densenet_cli.weights.checkpoint import Arrays

Tensor = Any  # a KerasTensor; Keras has no public name for it that is typed


class KerasOps:
    """Channels last. Convolutions have no bias; every BN has the published epsilon."""

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
        # float32 even under a mixed policy: the loss is taken from these.
        return keras.layers.Dense(units, dtype="float32", name=name)(x)

    def softmax(self, x: Tensor, name: str) -> Tensor:
        return keras.layers.Activation("softmax", dtype="float32", name=name)(x)


def model(config: DenseNetConfig, output: str = "probabilities") -> keras.Model:
    """A Keras model of ``config`` on normalized float RGB ``(batch, height, width, 3)``, any size.

    ``output`` names a field of ``topology.Outputs``: ``probabilities``, ``logits``, ``pooled`` or ``features``.
    """
    x = keras.Input((None, None, 3), name="pixels")
    outputs: Outputs[Tensor] = build(KerasOps(), config, x)
    return keras.Model(x, getattr(outputs, output), name="densenet")


def set_arrays(network: keras.Model, arrays: Arrays) -> None:
    """Put a checkpoint's arrays into the layers of the same names (``array_shapes`` was checked before)."""
    for layer in network.layers:
        if layer.weights:
            layer.set_weights([arrays[layer.name][weight.name] for weight in layer.weights])


def get_arrays(network: keras.Model) -> Arrays:
    """The network's arrays as float32, by layer and name: what ``set_arrays`` takes."""
    import numpy as np

    return {
        layer.name: {
            weight.name: np.asarray(value, dtype=np.float32)
            for weight, value in zip(layer.weights, layer.get_weights(), strict=True)
        }
        for layer in network.layers
        if layer.weights
    }
