"""The first layers of a Keras model: pixel operations, resizing, and augmentation.

Rescaling, Normalization, and arithmetic with constants (which ``preprocess_input`` consists of) are combined into one
scale and offset per channel. They commute with resizing, so their order does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from densenet_cli.errors import CheckpointError
from densenet_cli.images.preprocessing import MAX_INPUT_SIZE, crop_ratio
from densenet_cli.topology import Resize
from densenet_cli.weights.contents import damaged_file_error
from densenet_cli.weights.keras.graph import Graph, LayerCall, check_channels_last, is_identity
from densenet_cli.weights.keras.serialization import printable

ReadArray = Callable[[LayerCall, str], list[float]]
"""Returns the values of an array of a layer, given its name."""

ARITHMETIC = {
    **dict.fromkeys(("ops.Add", "tf.math.add", "tf.__operators__.add", "tf.nn.bias_add"), "add"),
    **dict.fromkeys(("ops.Subtract", "tf.math.subtract", "tf.__operators__.sub"), "subtract"),
    **dict.fromkeys(("ops.Multiply", "tf.math.multiply", "tf.__operators__.mul"), "multiply"),
    **dict.fromkeys(("ops.TrueDivide", "ops.Divide", "tf.math.truediv", "tf.math.divide"), "divide"),
}
"""Operation -> its kind."""

MIN_STD = 1e-7
"""Lower limit of the standard deviation in Normalization, Keras' ``epsilon``."""

MAX_STATISTIC = 1e6
"""Limit of means and standard deviations."""

Vector = list[float]
"""One value for all channels, or one per channel."""


class InputStage(NamedTuple):
    """What the layers before the backbone do. None if the file does not state it.

    Attributes:
        size: Side length of the input in pixels.
        channels: The number of channels.
        resize: A resizing in the network.
        mean: The mean of each channel, for pixels in [0, 1].
        std: The standard deviation of each channel, for pixels in [0, 1].
        crop_ratio: The fraction of the shorter side that is used.
        notes: What was assumed, a sentence each.
        last: The last layer of the stage.
    """

    size: int | None
    channels: int | None
    resize: Resize | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    crop_ratio: float | None
    notes: tuple[str, ...]
    last: LayerCall


def chain(graph: Graph, call: LayerCall) -> Iterator[LayerCall]:
    """Yield the calls after ``call``, each of which must have one input and be the only consumer of it."""
    while call is not graph.output:
        consumers = graph.consumers[call]
        if len(consumers) != 1 or len(consumers[0].inputs) != 1:
            names = ", ".join(map(str, consumers[:3]))
            raise CheckpointError(
                f"The model branches after the layer {call}: {names}. Only a sequence of layers is supported there."
            )
        call = consumers[0]
        if len(call.operands) > 1 and call.class_name not in ARITHMETIC:
            raise CheckpointError(f"The layer {call} is called with arguments that are not supported.")
        yield call


def read_input_stage(graph: Graph, read_array: ReadArray, white: float | None = None) -> InputStage:
    """Read the layers up to the first convolution or padding. See ``config.read`` for ``white``."""
    stage = _Stage(read_array, white)
    last = graph.input
    for call in chain(graph, graph.input):
        if call.class_name in ("Conv2D", "ZeroPadding2D"):
            break
        stage.add(call)
        last = call
    return stage.finish(last)


class _Stage:
    """Collects what the layers do: ``x`` becomes ``x * scale + offset``."""

    def __init__(self, read_array: ReadArray, white: float | None) -> None:
        self.read_array = read_array
        self.white = white
        self.scale: Vector = [1.0]
        self.offset: Vector = [0.0]
        self.size: int | None = None
        self.channels: int | None = None
        self.resize: Resize | None = None
        self.crop_ratio: float | None = None
        self.notes: list[str] = []

    @property
    def current_size(self) -> int | None:
        return self.resize.side if self.resize else self.size

    def add(self, call: LayerCall) -> None:
        if call.class_name == "InputLayer":
            self._add_shape(call)
        elif is_identity(call):
            pass
        elif call.class_name == "Resizing":
            self._add_resizing(call)
        elif call.class_name in ("CenterCrop", "RandomCrop"):
            self._add_crop(call)
        elif call.class_name == "Rescaling":
            self._multiply(_vector(call.config["scale"]))
            self._add(_vector(call.config.get("offset", 0.0)))
        elif call.class_name == "Normalization":
            self._normalize(call)
        elif call.class_name in ARITHMETIC:
            self._compute(call)
        elif call.class_name in ("ops.Negative", "tf.math.negative"):
            self._multiply([-1.0])
        else:
            raise CheckpointError(
                f"The layer {call} before the first convolution is not supported. Apply it to the images instead, and"
                " save the model without it."
            )

    def _add_shape(self, call: LayerCall) -> None:
        shape = call.config.get("batch_shape") or call.config.get("batch_input_shape")
        if shape is None:
            return
        _, height, width, channels = shape
        if height != width:
            raise CheckpointError(
                f"The input has {printable(width)}x{printable(height)} pixels. Only square inputs are supported."
            )
        if channels not in (1, 3):
            raise CheckpointError(f"The input has {printable(channels)} channels. Only 1 and 3 are supported.")
        self.channels = self.channels or channels
        if height is not None and self.current_size is None:
            self.size = _side(height)

    def _add_resizing(self, call: LayerCall) -> None:
        check_channels_last(call)
        side, interpolation = self._square_side(call), printable(call.config.get("interpolation", "bilinear"))
        if self.current_size == side:
            return
        if self.current_size is None:
            raise CheckpointError(
                f"The layer {call} resizes images of any size, which preprocessing does not reproduce exactly. Use an"
                f" input of fixed size: x = keras.Input(({side}, {side}, {self.channels or 3})), and save"
                " keras.Model(x, model(x))."
            )
        if self.resize or self.crop_ratio or interpolation not in ("bilinear", "nearest"):
            raise CheckpointError(f"The layer {call} resizes in a way that is not supported ({interpolation}).")
        if call.config.get("antialias"):
            raise CheckpointError(f"The layer {call} resizes with antialiasing, which is not supported.")
        self.resize = Resize(side, interpolation)

    def _add_crop(self, call: LayerCall) -> None:
        check_channels_last(call)
        side, size = self._square_side(call), self.current_size
        if side == size:
            return
        # Preprocessing rounds half an odd margin to even, and Keras rounds down.
        same_offset = size is not None and round((size - side) / 2) == (size - side) // 2
        is_crop = call.class_name == "CenterCrop" and not self.resize
        if size is None or side > size or not same_offset or not is_crop:
            raise CheckpointError(
                f"The layer {call} crops {size or 'images of any size'} to {side} pixels, which is not supported. Crop"
                " the images instead, and save the model without it."
            )
        self.size, self.crop_ratio = side, crop_ratio(side, round(size / (self.crop_ratio or 1.0)))

    def _square_side(self, call: LayerCall) -> int:
        height, width = call.config["height"], call.config["width"]
        if height != width:
            raise CheckpointError(
                f"The layer {call} produces {printable(width)}x{printable(height)} pixels. Only squares are supported."
            )
        return _side(height)

    def _normalize(self, call: LayerCall) -> None:
        if call.config.get("axis", -1) not in (-1, 3, [-1], [3], None, []):
            raise CheckpointError(f"The layer {call} normalizes along other axes than the channels.")
        mean, variance = call.config.get("mean"), call.config.get("variance")
        adapted = mean is None or variance is None
        means = _vector(self.read_array(call, "mean") if adapted else mean)
        variances = _vector(self.read_array(call, "variance") if adapted else variance)
        if min(variances) < 0:
            raise CheckpointError(f"The layer {call} has a negative variance.")
        stds = [max(math.sqrt(value), MIN_STD) for value in variances]
        if call.config.get("invert"):
            self._multiply(stds)
            self._add(means)
        else:
            self._add([-value for value in means])
            self._multiply([1 / value for value in stds])

    def _compute(self, call: LayerCall) -> None:
        kind, operands = ARITHMETIC[call.class_name], call.operands
        if len(operands) != 2 or (kind == "divide" and operands[0] not in call.inputs):
            raise CheckpointError(f"The operation {call} before the first convolution is not supported.")
        is_reversed = isinstance(operands[1], LayerCall)
        constant = _vector(operands[0 if is_reversed else 1])
        if kind == "add":
            self._add(constant)
        elif kind == "multiply":
            self._multiply(constant)
        elif kind == "divide":
            self._multiply([1 / value for value in constant])
        elif is_reversed:
            self._multiply([-1.0])
            self._add(constant)
        else:
            self._add([-value for value in constant])

    def _multiply(self, factor: Vector) -> None:
        self.scale = _combine(self.scale, factor, lambda a, b: a * b)
        self.offset = _combine(self.offset, factor, lambda a, b: a * b)

    def _add(self, term: Vector) -> None:
        self.offset = _combine(self.offset, term, lambda a, b: a + b)

    def finish(self, last: LayerCall) -> InputStage:
        mean, std = self._statistics()
        return InputStage(
            self.size,
            self.channels,
            self.resize,
            mean,
            std,
            self.crop_ratio,
            tuple(self.notes),
            last,
        )

    def _statistics(self) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
        """Return the mean and standard deviation for pixels in [0, 1]."""
        if set(self.scale) == {1.0} and set(self.offset) == {0.0}:
            self.notes.append("The model contains no pixel operations, so the file does not state a mean.")
            return None, None
        if 0 in self.scale:
            raise CheckpointError("The layers before the first convolution multiply the pixels by 0.")
        white = self.white or self._infer_white()
        lengths = max(len(self.scale), len(self.offset))
        channels = self.channels or lengths
        if lengths > channels:  # Keras broadcasts, so that one channel becomes three.
            raise CheckpointError(
                f"The input has {channels} channels, but the pixel operations are for {lengths}. This is not supported."
            )
        scale, offset = (_combine(values, [0.0] * channels, lambda a, b: a + b) for values in (self.scale, self.offset))
        std = [1 / (white * factor) for factor in scale]
        mean = [-a * b for a, b in zip(offset, std, strict=True)]
        if not all(abs(value) < MAX_STATISTIC for value in (*mean, *std)):
            raise damaged_file_error("the pixel operations have extreme values")
        return tuple(map(_rounded, mean)), tuple(map(_rounded, std))

    def _infer_white(self) -> float:
        """Return the value of white in the input: 255, as Keras loads images, unless the operations are for 0 to 1."""
        if max(map(abs, self.scale)) > 1:
            # A network whose first layers enlarge the range of values does not take values from 0 to 255.
            self.notes.append("The model's pixel operations are for values from 0 to 1, so pixels are divided by 255.")
            return 1.0
        if set(map(abs, self.scale)) == {1.0}:
            means = _combine(self.offset, self.scale, lambda offset, factor: -offset / factor)
            if min(means) >= 0 and 0 < max(means) <= 1:
                # In values from 0 to 255, a difference of 1 or less would not matter.
                self.notes.append(
                    "The model changes the pixels by at most 1 without scaling them, so they are assumed to have values"
                    " from 0 to 1, and are divided by 255."
                )
                return 1.0
        return 255.0


def _rounded(value: float) -> float:
    """Round to 7 digits, with which 0.48500001430511475, a float32 in the file, becomes 0.485 again."""
    return float(f"{value:.7g}") + 0.0


def _combine(a: Vector, b: Vector, function: Callable[[float, float], float]) -> Vector:
    if len(a) != len(b) and 1 not in (len(a), len(b)):
        raise CheckpointError(f"The pixel operations are for {len(a)} and {len(b)} channels.")
    length = max(len(a), len(b))
    result = [function(a[i % len(a)], b[i % len(b)]) for i in range(length)]
    if not all(map(math.isfinite, result)):
        raise damaged_file_error("the pixel operations have infinite values")
    return result


def _vector(value: Any) -> Vector:
    """Return a constant as numbers: one, or one per channel, possibly with further axes of length 1 before."""
    if isinstance(value, dict):  # an array, as Keras 3 writes it
        value = value["config"]["value"]
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    values = value if isinstance(value, list) else [value]
    if not 1 <= len(values) <= 3 or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        raise CheckpointError("The pixel operations contain a constant that is neither a number nor one per channel.")
    return [float(v) for v in values]


def _side(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_INPUT_SIZE:
        raise damaged_file_error(f"the model configuration has an invalid size, {printable(value)}")
    return value
