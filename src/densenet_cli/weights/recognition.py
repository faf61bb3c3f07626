"""Tell a network from the layers of its checkpoint."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from densenet_cli import variants
from densenet_cli.errors import CheckpointError
from densenet_cli.layers import ArrayShapes
from densenet_cli.topology import STEMS, DenseNetConfig

BLOCK_LAYER = re.compile(r"conv([2-9]|[1-9]\d{1,2})_block([1-9]\d{0,3})_")


def recognize(shapes: dict[str, ArrayShapes], said: DenseNetConfig | None) -> DenseNetConfig:
    """The network whose layers have these ``shapes``; its layers are still to be compared one by one.

    Layers don't tell everything: 3x3 stems of stride 1 and 2 hold the same arrays, and none depends on the image's
    size. Both come from ``said``, which is what the file itself says, else from the registered variant with the same
    layers, else from the one stem that fits. Raises ``CheckpointError`` where a layer is missing without which nothing
    can be told, where ``said`` is another network, and where the stem can't be told.
    """
    check_kind(shapes)
    blocks = _blocks(shapes)
    kernel, _, _, width = _kernel(shapes, "conv1_conv", 4)
    stems = [name for name, stem in STEMS.items() if (stem.kernel, stem.norm) == (kernel, "conv1_bn" in shapes)]
    if not stems:
        norm = "a" if "conv1_bn" in shapes else "no"
        raise CheckpointError(f"no DenseNet here has a first convolution of {kernel}x{kernel} with {norm} BN behind it")
    found = DenseNetConfig(
        blocks,
        growth_rate=_kernel(shapes, "conv2_block1_2_conv", 4)[3],
        stem=stems[0],
        stem_width=width,
        classes=head_width(shapes),
    )
    transitions = [_kernel(shapes, f"pool{stage}_conv", 4)[2:] for stage in range(2, len(blocks) + 1)]
    if said is not None:
        if not _same(said, found, stems, transitions):
            raise CheckpointError("its metadata describe another network than its layers")
        return said
    variant = _variant(found, stems, transitions)
    if variant is not None:
        return variant.config.with_classes(found.classes)
    if len(stems) > 1:
        raise CheckpointError(
            f"nothing tells if its first convolution has stride 1 or 2 ({' or '.join(stems)}): name it with --variant"
        )
    return replace(found, compression=_compression(transitions))


def variant_of(config: DenseNetConfig) -> str | None:
    """Name of the registered variant that ``config`` is, whatever its head and images; None if there is none."""
    for variant in variants.VARIANTS.values():
        if replace(variant.config, classes=config.classes, input_size=config.input_size) == config:
            return variant.name
    return None


def check_kind(shapes: dict[str, ArrayShapes]) -> None:
    """Raises ``CheckpointError`` for another architecture's layers, where to name one that is missing says little."""
    if not any(BLOCK_LAYER.match(name) for name in shapes):
        names = ", ".join(list(shapes)[:3])
        raise CheckpointError(
            f"none of its layers is a DenseNet's ({f'the first are {names}' if names else 'it has none'})"
        )


def head_width(shapes: dict[str, ArrayShapes]) -> int:
    """The number of classes. Raises ``CheckpointError`` where the network has no head."""
    if "predictions" not in shapes:
        raise CheckpointError(
            "layer predictions is missing: a network saved without its head (include_top=False) can't classify"
        )
    return _kernel(shapes, "predictions", 2)[1]


def _blocks(shapes: dict[str, ArrayShapes]) -> tuple[int, ...]:
    deepest: dict[int, int] = {}
    for name in shapes:
        if match := BLOCK_LAYER.match(name):
            stage, layer = int(match[1]), int(match[2])
            deepest[stage] = max(layer, deepest.get(stage, 0))
    if sum(deepest.values()) > len(shapes):
        raise CheckpointError("its layers have numbers that leave most of a DenseNet's layers out")
    for stage in range(2, max(deepest, default=2) + 1):
        if stage not in deepest:
            raise CheckpointError(f"layer conv{stage}_block1_0_bn is missing")
    return tuple(deepest[stage] for stage in sorted(deepest))


def _kernel(shapes: dict[str, ArrayShapes], layer: str, axes: int) -> tuple[int, ...]:
    shape = shapes.get(layer, {}).get("kernel")
    if shape is None:
        raise CheckpointError(f"layer {layer} is missing")
    if len(shape) != axes or min(shape) < 1:
        raise CheckpointError(f"layer {layer} has a kernel of shape {shape}, which has not {axes} axes")
    return shape


def _variant(found: DenseNetConfig, stems: list[str], transitions: list[tuple[int, ...]]) -> variants.Variant | None:
    for variant in variants.VARIANTS.values():
        if _same(variant.config.with_classes(found.classes), found, stems, transitions):
            return variant
    return None


def _same(a: DenseNetConfig, found: DenseNetConfig, stems: list[str], transitions: list[tuple[int, ...]]) -> bool:
    """Whether ``a`` has the arrays of ``found``, one of ``stems`` and these widths before and after transitions."""
    return (
        a.stem in stems
        and replace(a, stem=found.stem, compression=found.compression, input_size=found.input_size) == found
        and _fits(a.compression, transitions)
    )


def _fits(compression: float, transitions: list[tuple[int, ...]]) -> bool:
    return all(int(before * compression) == after for before, after in transitions)


def _compression(transitions: list[tuple[int, ...]]) -> float:
    """The share that all transitions keep, in as few decimals as can be (0.5 where there is no transition)."""
    least = max((after / before for before, after in transitions), default=0.5)
    for digits in range(1, 8):
        for share in (round(least, digits), math.ceil(least * 10**digits) / 10**digits):
            if 0 < share <= 1 and _fits(share, transitions):
                return share
    raise CheckpointError(f"its transitions from {transitions} feature maps keep no common share of them")
