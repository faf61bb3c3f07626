"""Inferring the configuration of a network from the layers of its checkpoint."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from densenet_cli import variants
from densenet_cli.errors import CheckpointError
from densenet_cli.layers import ArrayShapes
from densenet_cli.topology import STEMS, DenseNetConfig
from densenet_cli.weights.contents import CheckpointContents

BLOCK_LAYER = re.compile(r"conv([2-9]|[1-9]\d{1,2})_block([1-9]\d{0,3})_")

Transitions = list[tuple[int, ...]]
"""The number of feature maps before and after each transition."""


def infer_config(shapes: dict[str, ArrayShapes], contents: CheckpointContents | None = None) -> DenseNetConfig:
    """Infer the configuration of a network from the shapes of its arrays.

    The shapes do not determine everything: 3x3 stems of stride 1 and 2 have the same arrays, as have deep stems with
    and without a blur filter, and no array depends on the input size. They are taken from the configuration that the
    file states, else (except for deep stems) from the variant with the same layers, else from the only stem that
    matches.

    Args:
        shapes: The shape of every array. They are not yet validated one by one.
        contents: What else the file states.

    Raises:
        CheckpointError: An essential layer is missing, the stem is ambiguous, or the layers contradict the statements.
    """
    contents = contents or CheckpointContents({}, 0)
    check_architecture(shapes)
    blocks = _blocks(shapes)
    kernel_size, _, channels, _ = _kernel_shape(shapes, "conv1_conv", 4)
    has_norm, is_deep = "conv1_bn" in shapes, "conv1_2_conv" in shapes
    arrangement = (kernel_size, has_norm, is_deep)
    stems = [name for name, stem in STEMS.items() if (stem.kernel, stem.norm, stem.deep) == arrangement]
    if not stems:
        norm = "with" if has_norm else "without"
        raise CheckpointError(f"A {kernel_size}x{kernel_size} stem {norm} batch normalization is not supported.")
    if channels not in (1, 3):
        raise CheckpointError(f"The network takes images with {channels} channels. Only 1 and 3 are supported.")
    inferred = DenseNetConfig(
        blocks,
        growth_rate=_kernel_shape(shapes, "conv2_block1_2_conv", 4)[3],
        stem=stems[0],
        stem_width=_kernel_shape(shapes, "conv1_3_conv" if is_deep else "conv1_conv", 4)[3],
    )
    transitions = [_kernel_shape(shapes, f"pool{stage}_conv", 4)[2:] for stage in range(2, len(blocks) + 1)]
    if contents.config is not None:
        stated = with_head(contents.config, shapes, contents)
        if not _matches(stated, inferred, stems, transitions) or stated != contents.config:
            raise CheckpointError("The metadata describes another network than the layers.")
        return stated
    if contents.stem is not None:
        stems = [name for name in stems if name == contents.stem]
    if not is_deep or len(stems) == 1:
        for variant in variants.VARIANTS.values():
            if _matches(variant.config, inferred, stems, transitions):
                return with_head(variant.config, shapes, contents)
    if len(stems) != 1:
        raise CheckpointError(
            f"The layers fit several stems, which have the same arrays ({', '.join(stems)}). Specify `variant`."
        )
    return with_head(replace(inferred, stem=stems[0], compression=_compression(transitions)), shapes, contents)


def with_head(config: DenseNetConfig, shapes: dict[str, ArrayShapes], contents: CheckpointContents) -> DenseNetConfig:
    """Return ``config`` with the head, the channels, and the resizing that the file contains."""
    stated = contents.config
    channels = _kernel_shape(shapes, "conv1_conv", 4)[2]
    classes = count_classes(shapes)
    pooling = contents.pooling or (stated.pooling if stated else "avg")
    head = (stated.head if stated else ()) if contents.head is None else contents.head
    if len(head) == 1 and head[0].kind == "dense":
        if head[0].units != classes:
            raise CheckpointError(
                f"The configuration states {head[0].units:,} classes, but the weights have {classes:,}."
            )
        head = ()
    config = replace(
        config,
        channels=channels if channels in (1, 3) else config.channels,
        classes=classes,
        pooling=pooling if classes or pooling != "flatten" else "avg",  # without a head, it is that of embeddings
        head=head if classes else (),
        activation=(stated.activation if stated and classes else "softmax"),
        resize=contents.resize or (stated.resize if stated else None),
    )
    if stated is None:
        size = contents.metadata.input_size or _flattened_input_size(config, shapes) or config.input_size
        config = replace(config, input_size=size)
    return config


def _flattened_input_size(config: DenseNetConfig, shapes: dict[str, ArrayShapes]) -> int | None:
    """Return the input size that fits a head on flattened feature maps, a multiple of their stride, or None."""
    dense = [name for name, layer in config.head_layers.items() if layer.kind == "dense"]
    if config.pooling != "flatten" or not dense:
        return None
    rows, (channels,) = _kernel_shape(shapes, dense[0], 2)[0], shapes.get("bn", {}).get("gamma", (1,))
    stem = STEMS[config.stem]
    stride = stem.stride * (2 if stem.pool else 1) * 2 ** (len(config.blocks) - 1)
    return math.isqrt(rows // channels) * int(stride)


def find_variant(config: DenseNetConfig) -> str | None:
    """Return the name of the variant with this backbone, ignoring the head and the input."""
    for variant in variants.VARIANTS.values():
        if _backbone(variant.config) == _backbone(config):
            return variant.name
    return None


def check_architecture(shapes: dict[str, ArrayShapes]) -> None:
    """Raise ``CheckpointError`` for another architecture, for which the name of one missing layer would not help."""
    if not any(BLOCK_LAYER.match(name) for name in shapes):
        names = f"The first layers are {', '.join(list(shapes)[:3])}." if shapes else "It contains no layers."
        raise CheckpointError(f"It is not a DenseNet. {names}")


def count_classes(shapes: dict[str, ArrayShapes]) -> int:
    """Return the number of classes, 0 for a network without a head."""
    return _kernel_shape(shapes, "predictions", 2)[1] if "predictions" in shapes else 0


def is_head_layer(name: str) -> bool:
    """Return whether a layer of this name belongs to a head (see ``DenseNetConfig.head_layers``)."""
    return name == "predictions" or name.startswith("head_")


def _blocks(shapes: dict[str, ArrayShapes]) -> tuple[int, ...]:
    """Return the number of layers in each dense block."""
    blocks: dict[int, int] = {}
    for name in shapes:
        if match := BLOCK_LAYER.match(name):
            stage, layer = int(match[1]), int(match[2])
            blocks[stage] = max(layer, blocks.get(stage, 0))
    if sum(blocks.values()) > len(shapes):
        raise CheckpointError("Most layers of the dense blocks are missing.")
    for stage in range(2, max(blocks, default=2) + 1):
        if stage not in blocks:
            raise CheckpointError(f"Layer conv{stage}_block1_0_bn is missing.")
    return tuple(blocks[stage] for stage in sorted(blocks))


def _kernel_shape(shapes: dict[str, ArrayShapes], layer: str, axes: int) -> tuple[int, ...]:
    shape = shapes.get(layer, {}).get("kernel")
    if shape is None:
        raise CheckpointError(f"Layer {layer} is missing.")
    if len(shape) != axes or min(shape) < 1:
        raise CheckpointError(f"Layer {layer}: expected a kernel with {axes} axes, found shape {shape}.")
    return shape


def _backbone(config: DenseNetConfig) -> DenseNetConfig:
    """Return a configuration with default values for everything but the backbone."""
    return DenseNetConfig(config.blocks, config.growth_rate, config.stem, config.stem_width, config.compression)


def _matches(config: DenseNetConfig, inferred: DenseNetConfig, stems: list[str], transitions: Transitions) -> bool:
    """Return whether ``config`` has the arrays of ``inferred`` with one of ``stems`` and these transitions."""
    adapted = replace(config, stem=inferred.stem, compression=inferred.compression)
    same_layers = _backbone(adapted) == _backbone(inferred)
    return config.stem in stems and same_layers and _fits(config.compression, transitions)


def _fits(compression: float, transitions: Transitions) -> bool:
    return all(int(before * compression) == after for before, after in transitions)


def _compression(transitions: Transitions) -> float:
    """Return the compression of all transitions with the fewest decimals, or 0.5 if there are none."""
    lower_bound = max((after / before for before, after in transitions), default=0.5)
    for digits in range(1, 8):
        for compression in (round(lower_bound, digits), math.ceil(lower_bound * 10**digits) / 10**digits):
            if 0 < compression <= 1 and _fits(compression, transitions):
                return compression
    raise CheckpointError(f"The transitions have no common compression (feature maps before and after: {transitions}).")
