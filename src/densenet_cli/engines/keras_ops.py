"""The op set that builds a Keras model, for the TensorFlow engine, training, and export."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from densenet_cli.topology import BN_EPSILON, OUTPUT_ACTIVATIONS, DenseNetConfig, Outputs, Resize, build

if TYPE_CHECKING:
    from densenet_cli.weights.contents import Arrays

Tensor = Any  # a KerasTensor, for which Keras has no type annotations


class KerasOps:
    """Implements ``topology.Ops`` with Keras layers, channels last."""

    def channels(self, x: Tensor) -> int:
        return int(x.shape[-1])

    def resize(self, x: Tensor, name: str, *, input_size: int, resize: Resize) -> Tensor:
        return keras.layers.Resizing(resize.side, resize.side, interpolation=resize.interpolation, name=name)(x)

    def reflect_pad(self, x: Tensor, name: str, *, padding: int) -> Tensor:
        return keras.ops.pad(x, [[0, 0], [padding] * 2, [padding] * 2, [0, 0]], mode="reflect")

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

    def activation(self, x: Tensor, name: str, *, function: str, alpha: float = 0.0) -> Tensor:
        if function == "leaky_relu":
            return keras.layers.LeakyReLU(alpha, name=name)(x)
        if function == "elu":
            return keras.layers.ELU(alpha, name=name)(x)
        # float32 even with a mixed-precision policy, because the loss is computed from the probabilities.
        dtype = "float32" if name in OUTPUT_ACTIVATIONS else None
        return keras.layers.Activation(function, dtype=dtype, name=name)(x)

    def max_pool(self, x: Tensor, name: str, *, size: int, stride: int) -> Tensor:
        return keras.layers.MaxPooling2D(size, strides=stride, name=name)(x)

    def avg_pool(self, x: Tensor, name: str, *, size: int, stride: int) -> Tensor:
        return keras.layers.AveragePooling2D(size, strides=stride, name=name)(x)

    def concat(self, x: Tensor, new: Tensor, name: str) -> Tensor:
        return keras.layers.Concatenate(name=name)([x, new])

    def global_avg_pool(self, x: Tensor, name: str) -> Tensor:
        return keras.layers.GlobalAveragePooling2D(name=name)(x)

    def global_max_pool(self, x: Tensor, name: str) -> Tensor:
        return keras.layers.GlobalMaxPooling2D(name=name)(x)

    def flatten(self, x: Tensor, name: str) -> Tensor:
        return keras.layers.Flatten(name=name)(x)

    def dense(self, x: Tensor, name: str, *, units: int) -> Tensor:
        # float32 even with a mixed-precision policy, because the loss is computed from the logits.
        return keras.layers.Dense(units, dtype="float32", name=name)(x)


def build_model(
    config: DenseNetConfig, output: str | Sequence[str] = "probabilities", ops: KerasOps | None = None
) -> keras.Model:
    """Build a Keras model for normalized pixels ``(batch, height, width, channels)``.

    Height and width can be anything, unless the head or a resizing depends on them.

    Args:
        config: The configuration of the network.
        output: A field of ``topology.Outputs`` (``probabilities``, ``logits``, ``pooled``, or ``features``), or several
            for a model with a dict of outputs.
        ops: The op set, by default ``KerasOps``.
    """
    side = config.input_size if config.resize or config.pooling == "flatten" else None
    x = keras.Input((side, side, config.channels), name="pixels")
    outputs: Outputs[Tensor] = build(ops or KerasOps(), config, x)
    if isinstance(output, str):
        return keras.Model(x, getattr(outputs, output), name="densenet")
    return keras.Model(x, {name: getattr(outputs, name) for name in output}, name="densenet")


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
