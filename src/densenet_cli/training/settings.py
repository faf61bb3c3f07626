"""The settings of a run: one frozen dataclass that holds all of what a run computes from, its images aside."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from densenet_cli.errors import UsageError
from densenet_cli.images.preprocessing import MODES
from densenet_cli.topology import DenseNetConfig

SCHEDULES = ("cosine", "step")
AUGMENTATIONS = ("crop", "pad", "none")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
SCRATCH = "scratch"
EPOCHS = 30
"""Where neither epochs nor sizes are said."""

NETWORK = ("blocks", "growth_rate", "stem", "stem_width", "compression", "input_size")
"""The settings that a variant, or a checkpoint to start from, decides."""


class Phase(NamedTuple):
    """``epochs`` epochs on images of ``size`` pixels a side."""

    size: int
    epochs: int


@dataclass(frozen=True)
class Settings:
    """All that decides what a run computes. Raises ``UsageError`` for a value outside its range.

    Attributes:
        blocks, growth_rate, stem, stem_width, compression: the network, as in ``DenseNetConfig``.
        input_size: side in pixels of the images that the finished network is measured with and meant for.
        preprocess: how these are prepared, a key of ``images.preprocessing.WAYS``.
        sizes: the phases: ``(Phase(32, 5), Phase(48, 4))`` is 5 epochs at 32 pixels a side, then 4 at 48. Empty
            stands for ``EPOCHS`` at ``input_size``.
        batch_size: images a step, at least 2 (a batch norm needs them).
        learning_rate: its peak, above 0.
        schedule: ``cosine`` to zero, or ``step``: a tenth at 50 % and a hundredth from 75 %, the paper's.
        warmup: epochs of linear growth from zero to the peak; may be a fraction.
        momentum: Nesterov's, in [0, 1).
        weight_decay: the paper's L2 factor, on kernels alone.
        label_smoothing: share of a label that is spread over all classes, in [0, 1).
        augmentation: ``crop`` (random-resized), ``pad`` (shifted by up to an eighth, the paper's C10+) or ``none``.
        crop_area: least share of the area that a random-resized crop keeps, in (0, 1].
        flip: mirror every other image.
        averaging: steps over which the weights that are measured and kept are averaged (0: none).
        class_weights: weigh each class by how rare it is.
        start: ``scratch``, a variant's name, or a checkpoint's file.
        freeze: the last stage (``conv1`` to ``convN``) that stays as it was at the start; empty for none.
        unfreeze_after: epochs after which it learns too (0: never).
        validation: images a class to split off for validation.
        patience: epochs without a better validation accuracy after which a run stops (0: never).
        precision: Keras' dtype policy.
        seed: of the first weights, the split, the order and the augmentation, at least 0.
    """

    blocks: tuple[int, ...] = (6, 12, 24, 16)
    growth_rate: int = 32
    stem: str = "imagenet"
    stem_width: int = 64
    compression: float = 0.5
    input_size: int = 224
    preprocess: str = "crop"
    sizes: tuple[Phase, ...] = ()
    batch_size: int = 64
    learning_rate: float = 0.1
    schedule: str = "cosine"
    warmup: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    label_smoothing: float = 0.1
    augmentation: str = "crop"
    crop_area: float = 0.35
    flip: bool = True
    averaging: int = 500
    class_weights: bool = False
    start: str = SCRATCH
    freeze: str = ""
    unfreeze_after: int = 0
    validation: int = 10
    patience: int = 0
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        try:
            self.config(classes=2)
        except (TypeError, ValueError) as error:
            raise UsageError(f"There is no such network: {error}.") from None
        if not self.sizes:
            object.__setattr__(self, "sizes", (Phase(self.input_size, EPOCHS),))
        stages = [f"conv{stage}" for stage in range(1, len(self.blocks) + 2)]
        for name, allowed in (
            ("schedule", SCHEDULES),
            ("augmentation", AUGMENTATIONS),
            ("precision", PRECISIONS),
            ("preprocess", tuple(MODES)),
            ("freeze", ("", *stages)),
        ):
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name} is one of {', '.join(filter(None, allowed))}, not {getattr(self, name)!r}.")
        for name, least, limit in _RANGES:
            value = getattr(self, name)
            if not least <= value < limit:
                raise UsageError(f"{name} is at least {least:g} and less than {limit:g}, not {value}.")
        if not 0 < self.crop_area <= 1:
            raise UsageError(f"crop_area lies in (0, 1], not {self.crop_area}.")
        if self.freeze and self.start == SCRATCH:
            raise UsageError("Only weights that were trained are worth freezing: give --from with --freeze.")

    @property
    def epochs(self) -> int:
        """Of all phases together."""
        return sum(phase.epochs for phase in self.sizes)

    def size_at(self, epoch: int) -> int:
        """Side in pixels of the training images in ``epoch``, counted from 0."""
        for size, epochs in self.sizes:
            if epoch < epochs:
                return size
            epoch -= epochs
        raise IndexError("there is no such epoch")

    def is_frozen_at(self, epoch: int) -> bool:
        """Whether ``freeze`` holds in ``epoch``, counted from 0."""
        return bool(self.freeze) and (not self.unfreeze_after or epoch < self.unfreeze_after)

    def config(self, classes: int) -> DenseNetConfig:
        """The network to train."""
        return DenseNetConfig(
            self.blocks, self.growth_rate, self.stem, self.stem_width, self.compression, classes, self.input_size
        )

    def to_dict(self) -> dict[str, Any]:
        """As values that JSON and TOML have; ``from_dict`` reads it back."""
        return {**asdict(self), "blocks": list(self.blocks), "sizes": format_sizes(self.sizes)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """The inverse of ``to_dict``; what is left out keeps its default. Raises ``UsageError``."""
        for name, value in values.items():
            if name not in _TYPES:
                raise UsageError(f"There is no setting {name!r}; there are {', '.join(_TYPES)}.")
            if not _fits(value, _TYPES[name]):
                raise UsageError(f"The setting {name} is not to be {value!r}.")
        values = dict(values)
        if "blocks" in values:
            values["blocks"] = tuple(values["blocks"])
        if "sizes" in values:
            values["sizes"] = parse_sizes(values["sizes"])
        return cls(**values)

    def differences(self, other: Settings) -> list[str]:
        """Sentences' ends that say which settings are others in ``other``: ``seed is 1, not 0``."""
        mine, theirs = self.to_dict(), other.to_dict()
        return [f"{name} is {theirs[name]!r}, not {mine[name]!r}" for name in mine if mine[name] != theirs[name]]


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("batch_size", 2, 1e6),
    ("learning_rate", 1e-12, 1e3),
    ("warmup", 0, 1e6),
    ("momentum", 0, 1),
    ("weight_decay", 0, 1),
    ("label_smoothing", 0, 1),
    ("averaging", 0, 1e9),
    ("unfreeze_after", 0, 1e9),
    ("validation", 1, 1e9),
    ("patience", 0, 1e9),
    ("seed", 0, 2**32),
)
"""Setting, its least value, and what it is less than."""

_TYPES: dict[str, type] = {
    field.name: {"blocks": list, "sizes": str}.get(field.name, type(field.default)) for field in fields(Settings)
}


def _fits(value: Any, kind: type) -> bool:
    if kind is list:
        return isinstance(value, list) and all(type(part) is int for part in value)
    return type(value) is kind or (kind is float and type(value) is int)


def parse_sizes(text: str) -> tuple[Phase, ...]:
    """``32x5,48x4`` as phases. Raises ``UsageError`` for anything else."""
    try:
        phases = tuple(Phase(*map(int, part.split("x"))) for part in text.split(","))
    except (TypeError, ValueError):
        phases = ()
    if not phases or min(min(phase) for phase in phases) < 1:
        raise UsageError(f"Sizes are SIZExEPOCHS, joined by commas (32x5,48x4), not {text!r}.")
    return phases


def format_sizes(phases: tuple[Phase, ...]) -> str:
    """The inverse of ``parse_sizes``."""
    return ",".join(f"{size}x{epochs}" for size, epochs in phases)
