"""The variants by name: each network's configuration, where its weights come from, what its outputs mean.

A table. ``register`` adds to it (a test registers a tiny network there, and so can an application).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from densenet_cli.errors import UsageError
from densenet_cli.topology import DenseNetConfig


@dataclass(frozen=True)
class WeightsFile:
    """A published checkpoint: its name below a base URL, and the MD5 of its bytes (32 hexadecimal digits)."""

    name: str
    md5: str


@dataclass(frozen=True)
class Variant:
    """A network that has a name.

    Attributes:
        name: what ``--variant`` takes.
        config: the network.
        weights: its published checkpoint; None where there is none (``predict`` then needs ``--weights``).
        packaged: path of the checkpoint that ships inside the package, from ``data/``; None for all but the small one.
    """

    name: str
    config: DenseNetConfig
    weights: WeightsFile | None = None
    packaged: str | None = None

    @property
    def model(self) -> str:
        """The name that results carry."""
        return f"densenet{self.name}"


def _published(name: str, blocks: tuple[int, ...], md5: str) -> Variant:
    file = WeightsFile(f"densenet{name}_weights_tf_dim_ordering_tf_kernels.h5", md5)
    return Variant(name, DenseNetConfig(blocks), file)


def _bc(depth: int, growth_rate: int) -> Variant:
    """DenseNet-BC for 32x32 images: three blocks of (depth - 4) / 6 layers, 2k maps out of the stem."""
    config = DenseNetConfig(((depth - 4) // 6,) * 3, growth_rate, "cifar", 2 * growth_rate, classes=10, input_size=32)
    return Variant(f"bc-{depth}-{growth_rate}", config)


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        _published("121", (6, 12, 24, 16), "9d60b8095a5708f2dcce2bca79d332c7"),
        _published("169", (6, 12, 32, 32), "d699b8f76981ab1b30698df4c175e90b"),
        _published("201", (6, 12, 48, 32), "1ceb130c1ea1b78c3bf6114dbdfd8807"),
        Variant("161", DenseNetConfig((6, 12, 36, 24), growth_rate=48, stem_width=96)),
        Variant("264", DenseNetConfig((6, 12, 64, 48))),
        Variant(
            "tiny",
            DenseNetConfig((2, 4, 6, 4), growth_rate=48, stem="small", stem_width=96, classes=200, input_size=64),
            packaged="densenet-tiny.safetensors",
        ),
        _bc(100, 12),
        _bc(250, 24),
        _bc(190, 40),
    )
}

DEFAULT = "121"


def get(name: str) -> Variant:
    """The variant called ``name``. Raises ``UsageError`` naming those there are."""
    try:
        return VARIANTS[name]
    except KeyError:
        raise UsageError(f"There is no variant {name!r}; there are {', '.join(VARIANTS)}.") from None


def downloadable() -> list[str]:
    """Names of the variants whose weights are published."""
    return [name for name, variant in VARIANTS.items() if variant.weights]


@contextmanager
def register(variant: Variant) -> Iterator[Variant]:
    """Add a variant for the length of a ``with`` block, in place of any of its name."""
    before = dict(VARIANTS)
    VARIANTS[variant.name] = variant
    try:
        yield variant
    finally:
        VARIANTS.clear()
        VARIANTS.update(before)
