"""The op set that computes nothing but shapes, parameters and multiply-adds.

``summary`` prints what it finds, and checkpoints are checked against it; it needs neither weights nor numpy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from densenet_cli.topology import DenseNetConfig, build

ArrayShapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Layer:
    """One layer: what it is, what comes out, what it holds and what it costs for one image.

    Attributes:
        name: as in Keras.
        kind: the Keras class's name.
        output: (height, width, channels), or (units,) behind the global pool.
        arrays: name -> shape, as Keras lays them out.
        trainable: parameters that training changes (a BN's moving statistics are not).
        multiply_adds: of convolutions and dense layers alone, as the published figures count.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    arrays: ArrayShapes = field(default_factory=dict)
    trainable: int = 0
    multiply_adds: int = 0

    @property
    def parameters(self) -> int:
        """All numbers it holds, a BN's moving statistics included."""
        return sum(_product(shape) for shape in self.arrays.values())


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for length in shape:
        total *= length
    return total


class ArithmeticOps:
    """A tensor is its shape, without the batch. ``layers`` collects every layer in order."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []

    def _add(
        self,
        name: str,
        kind: str,
        output: tuple[int, ...],
        arrays: ArrayShapes | None = None,
        trainable: int = 0,
        multiply_adds: int = 0,
    ) -> tuple[int, ...]:
        self.layers.append(Layer(name, kind, output, arrays or {}, trainable, multiply_adds))
        return output

    def channels(self, x: tuple[int, ...]) -> int:
        return x[-1]

    def zero_pad(self, x: tuple[int, ...], name: str, *, padding: int) -> tuple[int, ...]:
        height, width, maps = x
        return self._add(name, "ZeroPadding2D", (height + 2 * padding, width + 2 * padding, maps))

    def conv(self, x: tuple[int, ...], name: str, *, filters: int, kernel: int, stride: int = 1) -> tuple[int, ...]:
        height, width, maps = x
        if stride > 1:
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        shape = (kernel, kernel, maps, filters)
        weights = _product(shape)
        output = (height, width, filters)
        return self._add(name, "Conv2D", output, {"kernel": shape}, weights, weights * height * width)

    def batch_norm(self, x: tuple[int, ...], name: str) -> tuple[int, ...]:
        shape = (x[-1],)
        arrays: ArrayShapes = dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), shape)
        return self._add(name, "BatchNormalization", x, arrays, trainable=2 * x[-1])

    def relu(self, x: tuple[int, ...], name: str) -> tuple[int, ...]:
        return self._add(name, "Activation", x)

    def _pool(self, x: tuple[int, ...], name: str, kind: str, size: int, stride: int) -> tuple[int, ...]:
        height, width, maps = x
        return self._add(name, kind, ((height - size) // stride + 1, (width - size) // stride + 1, maps))

    def max_pool(self, x: tuple[int, ...], name: str, *, size: int, stride: int) -> tuple[int, ...]:
        return self._pool(x, name, "MaxPooling2D", size, stride)

    def avg_pool(self, x: tuple[int, ...], name: str, *, size: int, stride: int) -> tuple[int, ...]:
        return self._pool(x, name, "AveragePooling2D", size, stride)

    def concat(self, x: tuple[int, ...], new: tuple[int, ...], name: str) -> tuple[int, ...]:
        return self._add(name, "Concatenate", (*x[:2], x[2] + new[2]))

    def global_avg_pool(self, x: tuple[int, ...], name: str) -> tuple[int, ...]:
        return self._add(name, "GlobalAveragePooling2D", x[-1:])

    def dense(self, x: tuple[int, ...], name: str, *, units: int) -> tuple[int, ...]:
        arrays: ArrayShapes = {"kernel": (x[0], units), "bias": (units,)}
        weights = x[0] * units
        return self._add(name, "Dense", (units,), arrays, weights + units, weights)

    def softmax(self, x: tuple[int, ...], name: str) -> tuple[int, ...]:
        return self._add(name, "Activation", x)


def layers(config: DenseNetConfig, input_size: int | None = None) -> list[Layer]:
    """Every layer of ``config`` in order, for a square image of ``input_size`` pixels a side.

    ``input_size`` is the configuration's own where it is None. Raises ``ValueError`` where the image
    is so small that nothing would be left of it.
    """
    side = input_size or config.input_size
    ops = ArithmeticOps()
    build(ops, config, (side, side, 3))
    if min(min(layer.output) for layer in ops.layers) < 1:
        raise ValueError(f"an image of {side}x{side} is too small for this network")
    return ops.layers


def array_shapes(config: DenseNetConfig) -> dict[str, ArrayShapes]:
    """What a checkpoint of ``config`` has to hold: layer -> array -> shape, in order of creation."""
    return {layer.name: layer.arrays for layer in layers(config) if layer.arrays}
