"""The network, once: a DenseNet as plain functions over a small set of operations.

Huang et al., "Densely Connected Convolutional Networks", CVPR 2017 (https://arxiv.org/abs/1608.06993).
Layer names are those of ``keras.applications.densenet``, so that its checkpoints load by name.

Whoever wants a network hands ``build`` an op set: ``arithmetic`` counts shapes, parameters and
multiply-adds, ``engines.keras_layers`` makes a Keras model, ``engines.onnx_graph`` an ONNX graph.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

T = TypeVar("T")
T_ops = TypeVar("T_ops")

BOTTLENECK = 4
"""Width of a layer's 1x1 convolution, in growth rates (the B of DenseNet-BC)."""

BN_EPSILON = 1.001e-5
"""Added to every variance; ``keras.applications``' own value (torchvision's is 1e-5)."""


class Stem(NamedTuple):
    """What stands before the first dense block."""

    kernel: int
    stride: int
    norm: bool
    pool: bool


STEMS: dict[str, Stem] = {
    "imagenet": Stem(kernel=7, stride=2, norm=True, pool=True),
    "small": Stem(kernel=3, stride=2, norm=False, pool=False),
    "cifar": Stem(kernel=3, stride=1, norm=False, pool=False),
}
"""By name, the stems a configuration can have: for images of about 224, 64 and 32 pixels a side."""


@dataclass(frozen=True)
class DenseNetConfig:
    """All that makes one DenseNet another. Raises ``ValueError`` for a value outside its range.

    Attributes:
        blocks: layers in each dense block (each >= 1, at least one block).
        growth_rate: feature maps that a layer adds, the paper's k (>= 1).
        stem: a key of ``STEMS``.
        stem_width: feature maps out of the stem (>= 1).
        compression: share of the feature maps that a transition keeps, the paper's theta, in (0, 1].
        classes: outputs of the head (>= 1).
        input_size: side in pixels of the square image that it is meant for (>= 1).
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
            raise ValueError(f"blocks must be one or more numbers of layers of at least 1, not {self.blocks}")
        if self.stem not in STEMS:
            raise ValueError(f"stem must be one of {', '.join(STEMS)}, not {self.stem!r}")
        if not 0 < self.compression <= 1:
            raise ValueError(f"compression must lie in (0, 1], not {self.compression}")
        for name in ("growth_rate", "stem_width", "classes", "input_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    def with_classes(self, classes: int) -> DenseNetConfig:
        """The same network with another head."""
        return replace(self, classes=classes)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values; ``from_dict`` reads it back."""
        return {**asdict(self), "blocks": list(self.blocks)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DenseNetConfig:
        """The inverse of ``to_dict``. Raises ``TypeError`` or ``ValueError`` for anything else."""
        return cls(**{**values, "blocks": tuple(int(n) for n in values["blocks"])})


class Ops(Protocol[T]):
    """What an engine has to know how to do. ``T`` is a tensor, or whatever stands for one.

    ``name`` is the layer's; a kernel is square; pooling takes no padding of its own.
    """

    def zero_pad(self, x: T, name: str, *, padding: int) -> T:
        """Zeros on all four sides."""
        ...

    def conv(self, x: T, name: str, *, filters: int, kernel: int, stride: int = 1) -> T:
        """Without bias. Stride 1 keeps the size ("same" padding); any other stride takes no padding."""
        ...

    def batch_norm(self, x: T, name: str) -> T:
        """By the layer's own statistics, with ``BN_EPSILON``."""
        ...

    def relu(self, x: T, name: str) -> T:
        """Nothing below zero."""
        ...

    def max_pool(self, x: T, name: str, *, size: int, stride: int) -> T:
        """Largest of each window; no padding."""
        ...

    def avg_pool(self, x: T, name: str, *, size: int, stride: int) -> T:
        """Mean of each window; no padding."""
        ...

    def concat(self, x: T, new: T, name: str) -> T:
        """The maps of ``x``, then those of ``new``."""
        ...

    def global_avg_pool(self, x: T, name: str) -> T:
        """Mean of each map."""
        ...

    def dense(self, x: T, name: str, *, units: int) -> T:
        """With bias."""
        ...

    def softmax(self, x: T, name: str) -> T:
        """Over the classes."""
        ...

    def channels(self, x: T) -> int:
        """How many feature maps ``x`` holds."""
        ...


@dataclass(frozen=True)
class Outputs(Generic[T_ops]):
    """The tensors of a network that somebody may ask for."""

    features: T_ops
    """Last feature maps, after the final ReLU."""
    pooled: T_ops
    """Their averages: one vector an image."""
    logits: T_ops
    probabilities: T_ops


def conv_block(ops: Ops[T], x: T, name: str, growth_rate: int) -> T:
    """One layer of a dense block: 1x1 to 4k, 3x3 to k, joined to what came in."""
    y = ops.batch_norm(x, f"{name}_0_bn")
    y = ops.relu(y, f"{name}_0_relu")
    y = ops.conv(y, f"{name}_1_conv", filters=BOTTLENECK * growth_rate, kernel=1)
    y = ops.batch_norm(y, f"{name}_1_bn")
    y = ops.relu(y, f"{name}_1_relu")
    y = ops.conv(y, f"{name}_2_conv", filters=growth_rate, kernel=3)
    return ops.concat(x, y, f"{name}_concat")


def dense_block(ops: Ops[T], x: T, name: str, layers: int, growth_rate: int) -> T:
    """Layers that each see the outputs of all before them."""
    for layer in range(1, layers + 1):
        x = conv_block(ops, x, f"{name}_block{layer}", growth_rate)
    return x


def transition_block(ops: Ops[T], x: T, name: str, compression: float) -> T:
    """Between two dense blocks: fewer maps, half the size."""
    x = ops.batch_norm(x, f"{name}_bn")
    x = ops.relu(x, f"{name}_relu")
    x = ops.conv(x, f"{name}_conv", filters=int(ops.channels(x) * compression), kernel=1)
    return ops.avg_pool(x, f"{name}_pool", size=2, stride=2)


def stem_block(ops: Ops[T], x: T, stem: Stem, width: int) -> T:
    """From the image's three channels to the first feature maps."""
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
    """The whole network on ``x``: normalized RGB, ``(batch, height, width, 3)`` or what stands for it."""
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
