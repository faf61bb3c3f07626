"""The table of variants: the name, configuration, and weights of each network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from densenet_cli.errors import UsageError
from densenet_cli.topology import DenseNetConfig


class WeightsFile(NamedTuple):
    """A published checkpoint: its file name, and its MD5 as 32 hexadecimal digits."""

    name: str
    md5: str


@dataclass(frozen=True)
class Variant:
    """A named network.

    Attributes:
        name: The value of the parameter ``variant``.
        config: The configuration of the network.
        weights: The checkpoint that Keras publishes, or None.
        packaged: The file name of a checkpoint in the folder ``data`` of this package, or None.
        repository: The repository on the Hugging Face Hub that contains a checkpoint, or None.
    """

    name: str
    config: DenseNetConfig
    weights: WeightsFile | None = None
    packaged: str | None = None
    repository: str | None = None

    @property
    def model(self) -> str:
        """The name in results: that of the packaged checkpoint, else ``densenet121`` for the variant ``121``."""
        return self.packaged.removesuffix(".safetensors") if self.packaged else f"densenet{self.name}"


def _published(name: str, blocks: tuple[int, ...], md5: str) -> Variant:
    file = WeightsFile(f"densenet{name}_weights_tf_dim_ordering_tf_kernels.h5", md5)
    return Variant(name, DenseNetConfig(blocks), file)


def _bc(depth: int, growth_rate: int) -> Variant:
    """Return a DenseNet-BC for 32x32 images: 3 blocks of (depth - 4) / 6 layers, 2 * growth_rate maps in the stem."""
    config = DenseNetConfig(((depth - 4) // 6,) * 3, growth_rate, "cifar", 2 * growth_rate, classes=10, input_size=32)
    return Variant(f"bc-{depth}-{growth_rate}", config)


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        _published("121", (6, 12, 24, 16), "9d60b8095a5708f2dcce2bca79d332c7"),
        _published("169", (6, 12, 32, 32), "d699b8f76981ab1b30698df4c175e90b"),
        _published("201", (6, 12, 48, 32), "1ceb130c1ea1b78c3bf6114dbdfd8807"),
        Variant(
            "161",
            DenseNetConfig((6, 12, 36, 24), growth_rate=48, stem_width=96),
            repository="timm/densenet161.tv_in1k",
        ),
        Variant(
            "blur121d",
            DenseNetConfig((6, 12, 24, 16), stem="deep-blur"),
            repository="timm/densenetblur121d.ra_in1k",
        ),
        Variant("264", DenseNetConfig((6, 12, 64, 48))),
        Variant("264d", DenseNetConfig((6, 12, 64, 48), growth_rate=48, stem="deep", stem_width=96)),
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
    """Return the variant ``name``. Raises ``UsageError`` if it does not exist."""
    try:
        return VARIANTS[name]
    except KeyError:
        raise UsageError(f"Unknown variant {name!r}. Choose from {', '.join(VARIANTS)}.") from None


def check_activation(variant: Variant, activation: str | None) -> Variant:
    """Return ``variant``. Raises ``UsageError`` if ``activation`` is another one than that of its weights."""
    if activation not in (None, variant.config.activation):
        raise UsageError(
            f"`activation` is {activation}, but {variant.name} states {variant.config.activation}. Omit `activation`."
        )
    return variant


def downloadable() -> list[str]:
    """Return the names of the variants whose weights are published, those of Keras first."""
    keras = [name for name, variant in VARIANTS.items() if variant.weights]
    return keras + [name for name, variant in VARIANTS.items() if variant.repository]


@contextmanager
def register(variant: Variant) -> Iterator[Variant]:
    """Add or replace a variant during a ``with`` block."""
    original = dict(VARIANTS)
    VARIANTS[variant.name] = variant
    try:
        yield variant
    finally:
        VARIANTS.clear()
        VARIANTS.update(original)
