"""Inferring the configuration of a network from the layers of its checkpoint."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from densenet_cli import variants
from densenet_cli.errors import CheckpointError
from densenet_cli.layers import ArrayShapes
from densenet_cli.topology import STEMS, DenseNetConfig

BLOCK_LAYER = re.compile(r"conv([2-9]|[1-9]\d{1,2})_block([1-9]\d{0,3})_")

Transitions = list[tuple[int, ...]]
"""The number of feature maps before and after each transition."""


def infer_config(shapes: dict[str, ArrayShapes], stated: DenseNetConfig | None) -> DenseNetConfig:
    """Infer the configuration of a network from the shapes of its arrays.

    The shapes do not determine everything: 3x3 stems of stride 1 and 2 have the same arrays, and no array depends on
    the input size. Both are taken from ``stated``, else from the variant with the same layers, else from the only stem
    that matches.

    Args:
        shapes: The shape of every array. They are not yet validated one by one.
        stated: The configuration that the file states, or None.

    Raises:
        CheckpointError: An essential layer is missing, the stem is ambiguous, or the layers contradict ``stated``.
    """
    check_architecture(shapes)
    blocks = _blocks(shapes)
    kernel_size, _, _, stem_width = _kernel_shape(shapes, "conv1_conv", 4)
    has_norm = "conv1_bn" in shapes
    stems = [name for name, stem in STEMS.items() if (stem.kernel, stem.norm) == (kernel_size, has_norm)]
    if not stems:
        norm = "with" if has_norm else "without"
        raise CheckpointError(f"A {kernel_size}x{kernel_size} stem {norm} batch normalization is not supported.")
    inferred = DenseNetConfig(
        blocks,
        growth_rate=_kernel_shape(shapes, "conv2_block1_2_conv", 4)[3],
        stem=stems[0],
        stem_width=stem_width,
        classes=count_classes(shapes),
    )
    transitions = [_kernel_shape(shapes, f"pool{stage}_conv", 4)[2:] for stage in range(2, len(blocks) + 1)]
    if stated is not None:
        if not _matches(stated, inferred, stems, transitions):
            raise CheckpointError("The metadata describes another network than the layers.")
        return stated
    for variant in variants.VARIANTS.values():
        if _matches(variant.config.with_classes(inferred.classes), inferred, stems, transitions):
            return variant.config.with_classes(inferred.classes)
    if len(stems) > 1:
        raise CheckpointError(
            f"The layers fit several stems, which differ in stride ({', '.join(stems)}). Specify `variant`."
        )
    return replace(inferred, compression=_compression(transitions))


def find_variant(config: DenseNetConfig) -> str | None:
    """Return the name of the variant with this network, ignoring the number of classes and the input size."""
    for variant in variants.VARIANTS.values():
        if replace(variant.config, classes=config.classes, input_size=config.input_size) == config:
            return variant.name
    return None


def check_architecture(shapes: dict[str, ArrayShapes]) -> None:
    """Raise ``CheckpointError`` for another architecture, for which the name of one missing layer would not help."""
    if not any(BLOCK_LAYER.match(name) for name in shapes):
        names = f"The first layers are {', '.join(list(shapes)[:3])}." if shapes else "It contains no layers."
        raise CheckpointError(f"It is not a DenseNet. {names}")


def count_classes(shapes: dict[str, ArrayShapes]) -> int:
    """Return the number of classes. Raises ``CheckpointError`` if the network has no head."""
    if "predictions" not in shapes:
        raise CheckpointError(
            "Layer predictions is missing. A model that was saved without its head (include_top=False) cannot classify."
        )
    return _kernel_shape(shapes, "predictions", 2)[1]


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


def _matches(config: DenseNetConfig, inferred: DenseNetConfig, stems: list[str], transitions: Transitions) -> bool:
    """Return whether ``config`` has the arrays of ``inferred`` with one of ``stems`` and these transitions."""
    return (
        config.stem in stems
        and replace(config, stem=inferred.stem, compression=inferred.compression, input_size=inferred.input_size)
        == inferred
        and _fits(config.compression, transitions)
    )


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
