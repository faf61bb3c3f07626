"""The DenseNet architecture, defined once as functions over a small set of operations.

Huang et al., "Densely Connected Convolutional Networks", CVPR 2017 (https://arxiv.org/abs/1608.06993). The layer names
are those of ``keras.applications.densenet``, so its checkpoints load by name.

``build`` takes an op set. There are three: ``layers.ShapeOps`` computes shapes, parameters, and multiply-adds;
``engines.keras_ops.KerasOps`` builds a Keras model; ``engines.onnx_graph.OnnxOps`` builds an ONNX graph.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

T = TypeVar("T")
T_ops = TypeVar("T_ops")

BOTTLENECK = 4
"""Filters of the 1x1 convolution in a dense block, as a multiple of the growth rate (the B in DenseNet-BC)."""

BN_EPSILON = 1.001e-5
"""Added to every variance. The value of ``keras.applications``; torchvision uses 1e-5."""


class Stem(NamedTuple):
    """The layers before the first dense block: a convolution, then optional batch norm with ReLU and max pooling."""

    kernel: int
    stride: int
    norm: bool
    pool: bool


STEMS: dict[str, Stem] = {
    "imagenet": Stem(kernel=7, stride=2, norm=True, pool=True),
    "small": Stem(kernel=3, stride=2, norm=False, pool=False),
    "cifar": Stem(kernel=3, stride=1, norm=False, pool=False),
}
"""Stems by name, for input sizes of about 224, 64, and 32 pixels."""


@dataclass(frozen=True)
class DenseNetConfig:
    """The configuration of a DenseNet.

    Attributes:
        blocks: Number of layers in each dense block (at least one block, each >= 1).
        growth_rate: Feature maps that each layer adds, k in the paper (>= 1).
        stem: A key of ``STEMS``.
        stem_width: Feature maps of the stem (>= 1).
        compression: Fraction of the feature maps that a transition keeps, theta in the paper, in (0, 1].
        classes: Number of classes (>= 1).
        input_size: Side length in pixels of the square input image (>= 1).

    Raises:
        ValueError: A value is outside its range.
    """

    blocks: tuple[int, ...]
    growth_rate: int = 32
    stem: str = "imagenet"
    stem_width: int = 64
    compression: float = 0.5
    classes: int = 1000
    input_size: int = 224

    def __post_init__(self) -> None:
        if not self.blocks or min(self.blocks) < 1:
            raise ValueError(f"blocks must be one or more integers >= 1, not {self.blocks}")
        if self.stem not in STEMS:
            raise ValueError(f"stem must be one of {', '.join(STEMS)}, not {self.stem!r}")
        if not 0 < self.compression <= 1:
            raise ValueError(f"compression must be in (0, 1], not {self.compression}")
        for name in ("growth_rate", "stem_width", "classes", "input_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    def with_classes(self, classes: int) -> DenseNetConfig:
        """Return the configuration with another number of classes."""
        return replace(self, classes=classes)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as values for JSON."""
        return {**asdict(self), "blocks": list(self.blocks)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DenseNetConfig:
        """Restore the result of ``to_dict``. Raises ``TypeError`` or ``ValueError`` for other values."""
        return cls(**{**values, "blocks": tuple(int(n) for n in values["blocks"])})


class Ops(Protocol[T]):
    """An op set. ``T`` is its tensor type.

    ``name`` is the name of the layer. Kernels and pooling windows are square.
    """

    def zero_pad(self, x: T, name: str, *, padding: int) -> T:
        """Pad all four sides with zeros."""
        ...

    def conv(self, x: T, name: str, *, filters: int, kernel: int, stride: int = 1) -> T:
        """Convolve without bias. The padding is "same" for stride 1, else "valid"."""
        ...

    def batch_norm(self, x: T, name: str) -> T:
        """Normalize with the statistics of the layer and ``BN_EPSILON``."""
        ...

    def relu(self, x: T, name: str) -> T:
        """Apply max(x, 0)."""
        ...

    def max_pool(self, x: T, name: str, *, size: int, stride: int) -> T:
        """Return the maximum of each window, without padding."""
        ...

    def avg_pool(self, x: T, name: str, *, size: int, stride: int) -> T:
        """Return the mean of each window, without padding."""
        ...

    def concat(self, x: T, new: T, name: str) -> T:
        """Concatenate the channels of ``x`` and ``new``."""
        ...

    def global_avg_pool(self, x: T, name: str) -> T:
        """Return the mean of each channel."""
        ...

    def dense(self, x: T, name: str, *, units: int) -> T:
        """Apply a fully connected layer with bias."""
        ...

    def softmax(self, x: T, name: str) -> T:
        """Apply softmax over the classes."""
        ...

    def channels(self, x: T) -> int:
        """Return the number of channels of ``x``."""
        ...


@dataclass(frozen=True)
class Outputs(Generic[T_ops]):
    """The outputs of a network.

    Attributes:
        features: The last feature maps, after the final ReLU.
        pooled: The mean of each feature map.
        logits: The output of the head.
        probabilities: The softmax of the logits.
    """

    features: T_ops
    pooled: T_ops
    logits: T_ops
    probabilities: T_ops


def conv_block(ops: Ops[T], x: T, name: str, growth_rate: int) -> T:
    """Add one layer of a dense block: a 1x1 convolution to 4k maps, a 3x3 to k maps, concatenated to the input."""
    y = ops.batch_norm(x, f"{name}_0_bn")
    y = ops.relu(y, f"{name}_0_relu")
    y = ops.conv(y, f"{name}_1_conv", filters=BOTTLENECK * growth_rate, kernel=1)
    y = ops.batch_norm(y, f"{name}_1_bn")
    y = ops.relu(y, f"{name}_1_relu")
    y = ops.conv(y, f"{name}_2_conv", filters=growth_rate, kernel=3)
    return ops.concat(x, y, f"{name}_concat")


def dense_block(ops: Ops[T], x: T, name: str, layers: int, growth_rate: int) -> T:
    """Add a dense block, in which each layer receives the outputs of all previous layers."""
    for layer in range(1, layers + 1):
        x = conv_block(ops, x, f"{name}_block{layer}", growth_rate)
    return x


def transition_block(ops: Ops[T], x: T, name: str, compression: float) -> T:
    """Add a transition between two dense blocks, which reduces the number and halves the size of the feature maps."""
    x = ops.batch_norm(x, f"{name}_bn")
    x = ops.relu(x, f"{name}_relu")
    x = ops.conv(x, f"{name}_conv", filters=int(ops.channels(x) * compression), kernel=1)
    return ops.avg_pool(x, f"{name}_pool", size=2, stride=2)


def stem_block(ops: Ops[T], x: T, stem: Stem, width: int) -> T:
    """Add the stem."""
    if stem.stride > 1:
        x = ops.zero_pad(x, "conv1_pad", padding=stem.kernel // 2)
    x = ops.conv(x, "conv1_conv", filters=width, kernel=stem.kernel, stride=stem.stride)
    if stem.norm:
        x = ops.batch_norm(x, "conv1_bn")
        x = ops.relu(x, "conv1_relu")
    if stem.pool:
        x = ops.zero_pad(x, "pool1_pad", padding=1)
        x = ops.max_pool(x, "pool1", size=3, stride=2)
    return x


def build(ops: Ops[T], config: DenseNetConfig, x: T) -> Outputs[T]:
    """Build the network on ``x``, a tensor of the op set for normalized RGB pixels ``(batch, height, width, 3)``."""
    x = stem_block(ops, x, STEMS[config.stem], config.stem_width)
    last = len(config.blocks) + 1
    for stage, layers in enumerate(config.blocks, start=2):
        x = dense_block(ops, x, f"conv{stage}", layers, config.growth_rate)
        if stage < last:
            x = transition_block(ops, x, f"pool{stage}", config.compression)
    x = ops.batch_norm(x, "bn")
    features = ops.relu(x, "relu")
    pooled = ops.global_avg_pool(features, "avg_pool")
    logits = ops.dense(pooled, "predictions", units=config.classes)
    return Outputs(features, pooled, logits, ops.softmax(logits, "softmax"))
