"""Shapes, parameters, and multiply-adds of every layer, computed without weights and without numpy.

``densenet summary`` prints them, and checkpoints are validated against them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from densenet_cli.errors import UsageError
from densenet_cli.topology import DenseNetConfig, Resize, build

Shape = tuple[int, ...]
ArrayShapes = dict[str, Shape]
"""Array name -> shape, in Keras' layout."""

BN_ARRAYS = ("gamma", "beta", "moving_mean", "moving_variance")
"""The arrays of a batch norm, in Keras' order."""


@dataclass(frozen=True)
class Layer:
    """One layer of a network.

    Attributes:
        name: The name in Keras.
        class_name: The name of the class in Keras.
        output_shape: (height, width, channels), or (units,) after global pooling.
        arrays: The shapes of its arrays.
        trainable_parameters: The number of parameters, without the moving statistics of batch normalization.
        multiply_adds: For one image, in convolutions and dense layers only, as in published figures.
    """

    name: str
    class_name: str
    output_shape: Shape
    arrays: ArrayShapes = field(default_factory=dict)
    trainable_parameters: int = 0
    multiply_adds: int = 0

    @property
    def parameters(self) -> int:
        """The number of parameters, including the moving statistics of batch normalization, as Keras counts them."""
        return sum(math.prod(shape) for shape in self.arrays.values())


class ShapeOps:
    """The op set (``topology.Ops``) whose tensors are shapes without the batch axis. Collects every layer in order."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []

    def _add(
        self,
        name: str,
        class_name: str,
        output_shape: Shape,
        arrays: ArrayShapes | None = None,
        trainable_parameters: int = 0,
        multiply_adds: int = 0,
    ) -> Shape:
        self.layers.append(Layer(name, class_name, output_shape, arrays or {}, trainable_parameters, multiply_adds))
        return output_shape

    def channels(self, x: Shape) -> int:
        return x[-1]

    def resize(self, x: Shape, name: str, *, input_size: int, resize: Resize) -> Shape:
        return self._add(name, "Resizing", (resize.side, resize.side, x[2]))

    def _pad(self, x: Shape, name: str, class_name: str, padding: int) -> Shape:
        height, width, channels = x
        return self._add(name, class_name, (height + 2 * padding, width + 2 * padding, channels))

    def zero_pad(self, x: Shape, name: str, *, padding: int) -> Shape:
        return self._pad(x, name, "ZeroPadding2D", padding)

    def reflect_pad(self, x: Shape, name: str, *, padding: int) -> Shape:
        return self._pad(x, name, "Pad", padding)

    def conv(self, x: Shape, name: str, *, filters: int, kernel: int, stride: int = 1) -> Shape:
        height, width, channels = x
        if stride > 1:
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        shape = (kernel, kernel, channels, filters)
        weights = math.prod(shape)
        return self._add(name, "Conv2D", (height, width, filters), {"kernel": shape}, weights, weights * height * width)

    def batch_norm(self, x: Shape, name: str) -> Shape:
        shape = (x[-1],)
        arrays: ArrayShapes = dict.fromkeys(BN_ARRAYS, shape)
        return self._add(name, "BatchNormalization", x, arrays, trainable_parameters=2 * x[-1])

    def activation(self, x: Shape, name: str, *, function: str, alpha: float = 0.0) -> Shape:
        return self._add(name, "Activation", x)

    def _pool(self, x: Shape, name: str, class_name: str, size: int, stride: int) -> Shape:
        height, width, channels = x
        return self._add(name, class_name, ((height - size) // stride + 1, (width - size) // stride + 1, channels))

    def max_pool(self, x: Shape, name: str, *, size: int, stride: int) -> Shape:
        return self._pool(x, name, "MaxPooling2D", size, stride)

    def avg_pool(self, x: Shape, name: str, *, size: int, stride: int) -> Shape:
        return self._pool(x, name, "AveragePooling2D", size, stride)

    def concat(self, x: Shape, new: Shape, name: str) -> Shape:
        return self._add(name, "Concatenate", (*x[:2], x[2] + new[2]))

    def global_avg_pool(self, x: Shape, name: str) -> Shape:
        return self._add(name, "GlobalAveragePooling2D", x[-1:])

    def global_max_pool(self, x: Shape, name: str) -> Shape:
        return self._add(name, "GlobalMaxPooling2D", x[-1:])

    def flatten(self, x: Shape, name: str) -> Shape:
        return self._add(name, "Flatten", (math.prod(x),))

    def dense(self, x: Shape, name: str, *, units: int) -> Shape:
        arrays: ArrayShapes = {"kernel": (x[0], units), "bias": (units,)}
        weights = x[0] * units
        return self._add(name, "Dense", (units,), arrays, weights + units, weights)


def list_layers(config: DenseNetConfig, input_size: int | None = None) -> list[Layer]:
    """Return every layer of a network in order.

    Args:
        config: The configuration of the network.
        input_size: Side length of the square input image in pixels, or None for the configuration's.

    Raises:
        UsageError: The image is too small, so that a layer would have an empty output, or the network has a fixed input
            size.
    """
    size = input_size or config.input_size
    if size != config.input_size and (config.resize or config.pooling == "flatten"):
        reason = "resizes its input" if config.resize else "flattens its feature maps"
        raise UsageError(f"The network {reason}, so its input size is fixed: {config.input_size}x{config.input_size}.")
    ops = ShapeOps()
    build(ops, config, (size, size, config.channels))
    if min(min(layer.output_shape) for layer in ops.layers) < 1:
        raise UsageError(f"An input size of {size}x{size} pixels is too small for this network.")
    return ops.layers


def array_shapes(config: DenseNetConfig) -> dict[str, ArrayShapes]:
    """Return layer name -> array name -> shape for a checkpoint of ``config``, in the order of creation."""
    return {layer.name: layer.arrays for layer in list_layers(config) if layer.arrays}


def embedding_size(config: DenseNetConfig) -> int:
    """Return the length of an embedding, which is the number of feature maps before the head."""
    return array_shapes(config)["bn"]["gamma"][0]
