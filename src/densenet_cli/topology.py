"""The DenseNet architecture, defined once as functions over a small set of operations.

Huang et al., "Densely Connected Convolutional Networks", CVPR 2017 (https://arxiv.org/abs/1608.06993). The layer names
are those of ``keras.applications.densenet``, so its checkpoints load by name.

The head is the part after the last feature maps: a pooling, then dense layers, batch norms, and activations in any
order. Its default is that of the paper: the global average, one dense layer, and softmax.

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
    """The layers before the first dense block.

    Attributes:
        kernel: Size of the convolution's kernel.
        stride: Stride of the (first) convolution.
        norm: Whether batch norm and ReLU follow each convolution.
        pool: Whether a 3x3 max pool of stride 2 follows.
        deep: Three convolutions instead of one; the last two have stride 1 (He et al., CVPR 2019).
        blur: Pool with stride 1, then downsample with a binomial filter (Zhang, ICML 2019).
    """

    kernel: int
    stride: int
    norm: bool
    pool: bool
    deep: bool = False
    blur: bool = False


STEMS: dict[str, Stem] = {
    "imagenet": Stem(kernel=7, stride=2, norm=True, pool=True),
    "small": Stem(kernel=3, stride=2, norm=False, pool=False),
    "cifar": Stem(kernel=3, stride=1, norm=False, pool=False),
    "deep": Stem(kernel=3, stride=2, norm=True, pool=True, deep=True),
    "deep-blur": Stem(kernel=3, stride=2, norm=True, pool=True, deep=True, blur=True),
}
"""Stems by name. The first three are for input sizes of about 224, 64, and 32 pixels. The deep ones are timm's."""

POOLINGS = ("avg", "max", "flatten")
"""How feature maps become a vector: their mean, their maximum, or all their values (by row, column, and channel)."""

ACTIVATIONS = ("relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus", "softsign", "tanh", "sigmoid")
"""Activations of a head's hidden layers. The definitions are those of ``keras.activations`` with default arguments."""

OUTPUT_ACTIVATIONS = ("softmax", "sigmoid")
"""Activations that convert logits to probabilities: of mutually exclusive classes, or of independent classes."""


class HeadLayer(NamedTuple):
    """A layer of a head.

    Attributes:
        kind: ``dense`` (with bias), ``batch_norm``, or one of ``ACTIVATIONS``.
        units: The number of outputs of a dense layer (>= 1), else 0.
        alpha: The slope of ``leaky_relu`` or the scale of ``elu`` for negative values, else 0.
    """

    kind: str
    units: int = 0
    alpha: float = 0.0


class Resize(NamedTuple):
    """A resizing to a square inside the network, without antialiasing, as ``keras.layers.Resizing`` does.

    Attributes:
        side: Side length in pixels (>= 1).
        interpolation: ``bilinear`` or ``nearest``.
    """

    side: int
    interpolation: str = "bilinear"


@dataclass(frozen=True)
class DenseNetConfig:
    """The configuration of a DenseNet.

    Attributes:
        blocks: Number of layers in each dense block (at least one block, each >= 1).
        growth_rate: Feature maps that each layer adds, k in the paper (>= 1).
        stem: A key of ``STEMS``.
        stem_width: Feature maps of the stem (>= 1).
        compression: Fraction of the feature maps that a transition keeps, theta in the paper, in (0, 1].
        classes: Number of classes (>= 1), or 0 for a network without a head.
        input_size: Side length in pixels of the square input image (>= 1).
        channels: 3 for RGB images, 1 for grayscale images.
        pooling: One of ``POOLINGS``.
        head: The layers after the pooling. The last dense layer has ``classes`` units. Empty for this layer alone.
        activation: One of ``OUTPUT_ACTIVATIONS``.
        resize: A resizing of the input, or None.

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
    channels: int = 3
    pooling: str = "avg"
    head: tuple[HeadLayer, ...] = ()
    activation: str = "softmax"
    resize: Resize | None = None

    def __post_init__(self) -> None:
        if not self.blocks or min(self.blocks) < 1:
            raise ValueError(f"blocks must be one or more integers >= 1, not {self.blocks}")
        for name, choices in (("stem", tuple(STEMS)), ("pooling", POOLINGS), ("activation", OUTPUT_ACTIVATIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")
        if not 0 < self.compression <= 1:
            raise ValueError(f"compression must be in (0, 1], not {self.compression}")
        for name, low in (("growth_rate", 1), ("stem_width", 1), ("classes", 0), ("input_size", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, not {getattr(self, name)}")
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, not {self.channels}")
        units = [layer.units for layer in self.head if layer.kind == "dense"]
        if self.head and (not units or units[-1] != self.classes or min(units) < 1):
            raise ValueError(f"the last dense layer of the head must have {self.classes} units, not {units[-1:]}")
        if unknown := {layer.kind for layer in self.head} - {"dense", "batch_norm", *ACTIVATIONS}:
            raise ValueError(f"unknown head layers {sorted(unknown)}")
        if self.resize and (self.resize.side < 1 or self.resize.interpolation not in ("bilinear", "nearest")):
            raise ValueError(f"invalid resize {self.resize}")

    @property
    def head_layers(self) -> dict[str, HeadLayer]:
        """Layer name -> layer, in order. The last dense layer is ``predictions``, layer n of the others ``head_n``."""
        layers = self.head or ((HeadLayer("dense", self.classes),) if self.classes else ())
        last = max((n for n, layer in enumerate(layers) if layer.kind == "dense"), default=-1)
        return {"predictions" if n == last else f"head_{n + 1}": layer for n, layer in enumerate(layers)}

    @property
    def has_linear_head(self) -> bool:
        """Whether the logits are one dense layer on the mean feature maps. Class activation maps are then exact."""
        return self.pooling == "avg" and not self.head

    @property
    def is_multi_label(self) -> bool:
        """Whether the classes are independent, so that an image can have several."""
        return self.activation == "sigmoid"

    def with_classes(self, classes: int) -> DenseNetConfig:
        """Return the configuration with a new default head for another number of classes."""
        return replace(self, classes=classes, pooling="avg", head=(), activation="softmax")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as values for JSON."""
        return {**asdict(self), "blocks": list(self.blocks), "head": [layer._asdict() for layer in self.head]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DenseNetConfig:
        """Restore the result of ``to_dict``. Raises ``TypeError`` or ``ValueError`` for other values."""
        blocks = tuple(int(n) for n in values["blocks"])
        head = tuple(HeadLayer(**layer) for layer in values.get("head", ()))
        resize = values.get("resize")
        return cls(**{**values, "blocks": blocks, "head": head, "resize": Resize(*resize) if resize else None})


class Ops(Protocol[T]):
    """An op set. ``T`` is its tensor type.

    ``name`` is the name of the layer. Kernels and pooling windows are square.
    """

    def resize(self, x: T, name: str, *, input_size: int, resize: Resize) -> T:
        """Resize an image of ``input_size`` x ``input_size`` pixels."""
        ...

    def zero_pad(self, x: T, name: str, *, padding: int) -> T:
        """Pad all four sides with zeros."""
        ...

    def reflect_pad(self, x: T, name: str, *, padding: int) -> T:
        """Pad all four sides with the mirror image of what is next to the edge, without the edge itself."""
        ...

    def conv(self, x: T, name: str, *, filters: int, kernel: int, stride: int = 1) -> T:
        """Convolve without bias. The padding is "same" for stride 1, else "valid"."""
        ...

    def batch_norm(self, x: T, name: str) -> T:
        """Normalize with the statistics of the layer and ``BN_EPSILON``."""
        ...

    def activation(self, x: T, name: str, *, function: str, alpha: float = 0.0) -> T:
        """Apply one of ``ACTIVATIONS`` or ``OUTPUT_ACTIVATIONS``."""
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

    def global_max_pool(self, x: T, name: str) -> T:
        """Return the maximum of each channel."""
        ...

    def flatten(self, x: T, name: str) -> T:
        """Return all values as a vector, ordered by row, column, and channel."""
        ...

    def dense(self, x: T, name: str, *, units: int) -> T:
        """Apply a fully connected layer with bias."""
        ...

    def channels(self, x: T) -> int:
        """Return the number of channels of ``x``."""
        ...


@dataclass(frozen=True)
class Outputs(Generic[T_ops]):
    """The outputs of a network. A network without a head has only ``features``.

    Attributes:
        features: The last feature maps, after the final ReLU.
        pooled: The input of the head.
        logits: The output of the head.
        probabilities: The softmax or sigmoid of the logits.
    """

    features: T_ops
    pooled: T_ops | None = None
    logits: T_ops | None = None
    probabilities: T_ops | None = None


def conv_block(ops: Ops[T], x: T, name: str, growth_rate: int) -> T:
    """Add one layer of a dense block: a 1x1 convolution to 4k maps, a 3x3 to k maps, concatenated to the input."""
    y = ops.batch_norm(x, f"{name}_0_bn")
    y = ops.activation(y, f"{name}_0_relu", function="relu")
    y = ops.conv(y, f"{name}_1_conv", filters=BOTTLENECK * growth_rate, kernel=1)
    y = ops.batch_norm(y, f"{name}_1_bn")
    y = ops.activation(y, f"{name}_1_relu", function="relu")
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
    x = ops.activation(x, f"{name}_relu", function="relu")
    x = ops.conv(x, f"{name}_conv", filters=int(ops.channels(x) * compression), kernel=1)
    return ops.avg_pool(x, f"{name}_pool", size=2, stride=2)


def stem_block(ops: Ops[T], x: T, stem: Stem, width: int, growth_rate: int) -> T:
    """Add the stem. The first convolutions of a deep one have ``growth_rate`` feature maps, as in timm."""
    convs = {"conv1": growth_rate, "conv1_2": growth_rate, "conv1_3": width} if stem.deep else {"conv1": width}
    for name, filters in convs.items():
        stride = stem.stride if name == "conv1" else 1
        if stride > 1:
            x = ops.zero_pad(x, f"{name}_pad", padding=stem.kernel // 2)
        x = ops.conv(x, f"{name}_conv", filters=filters, kernel=stem.kernel, stride=stride)
        if stem.norm:
            x = ops.batch_norm(x, f"{name}_bn")
            x = ops.activation(x, f"{name}_relu", function="relu")
    if stem.pool:
        x = ops.zero_pad(x, "pool1_pad", padding=1)
        x = ops.max_pool(x, "pool1", size=3, stride=1 if stem.blur else 2)
    return blur_pool(ops, x, "pool1_blur") if stem.blur else x


def blur_pool(ops: Ops[T], x: T, name: str) -> T:
    """Smooth with the binomial filter [1, 2, 1] / 4 in both directions, with stride 2.

    A mean of two values, applied twice, is this filter: (x0 + 2 x1 + x2) / 4 = ((x0 + x1) / 2 + (x1 + x2) / 2) / 2.
    """
    x = ops.reflect_pad(x, f"{name}_pad", padding=1)
    x = ops.avg_pool(x, f"{name}_1", size=2, stride=1)
    return ops.avg_pool(x, f"{name}_2", size=2, stride=2)


def build_head(ops: Ops[T], pooled: T, config: DenseNetConfig) -> T:
    """Add the layers between the pooling and the logits."""
    x = pooled
    for name, layer in config.head_layers.items():
        if layer.kind == "dense":
            x = ops.dense(x, name, units=layer.units)
        elif layer.kind == "batch_norm":
            x = ops.batch_norm(x, name)
        else:
            x = ops.activation(x, name, function=layer.kind, alpha=layer.alpha)
    return x


def build(ops: Ops[T], config: DenseNetConfig, x: T) -> Outputs[T]:
    """Build the network on ``x``, a tensor of the op set for normalized pixels ``(batch, height, width, channels)``."""
    if config.resize:
        x = ops.resize(x, "resize", input_size=config.input_size, resize=config.resize)
    x = stem_block(ops, x, STEMS[config.stem], config.stem_width, config.growth_rate)
    last = len(config.blocks) + 1
    for stage, layers in enumerate(config.blocks, start=2):
        x = dense_block(ops, x, f"conv{stage}", layers, config.growth_rate)
        if stage < last:
            x = transition_block(ops, x, f"pool{stage}", config.compression)
    x = ops.batch_norm(x, "bn")
    features = ops.activation(x, "relu", function="relu")
    if not config.classes:
        return Outputs(features)
    pools = {"avg": ops.global_avg_pool, "max": ops.global_max_pool, "flatten": ops.flatten}
    pooled = pools[config.pooling](features, "flatten" if config.pooling == "flatten" else f"{config.pooling}_pool")
    logits = build_head(ops, pooled, config)
    return Outputs(features, pooled, logits, ops.activation(logits, config.activation, function=config.activation))
