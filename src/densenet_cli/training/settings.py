"""The settings of a run: one frozen dataclass, read from TOML and options, and left beside the result."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from densenet_cli.errors import UsageError
from densenet_cli.topology import DenseNetConfig


class Phase(NamedTuple):
    """``epochs`` epochs on pictures of ``size`` pixels a side."""

    size: int
    epochs: int


@dataclass(frozen=True)
class Settings:
    """All that decides what a run computes. Raises ``UsageError`` for a value outside its range.

    Attributes:
        blocks, growth_rate, stem, stem_width, compression: the network, as in ``DenseNetConfig``.
        input_size: side in pixels that the finished network is measured and used at.
        sizes: the phases, ``32x5,48x4``: 5 epochs at 32 pixels, then 4 at 48.
        batch_size: pictures a step.
        learning_rate: its peak.
        schedule: ``cosine`` to zero, or ``step``: a tenth at 50 % and a hundredth from 75 % (the paper's).
        warmup: epochs of linear growth from zero to the peak; may be a fraction.
        momentum: Nesterov's.
        weight_decay: the paper's L2 factor, on kernels alone.
        label_smoothing: share of a label that is spread over all classes, in [0, 1).
        augmentation: ``crop`` (random-resized), ``pad`` (the paper's C10+) or ``none``.
        crop_area: least share of the area that a random-resized crop keeps, in (0, 1].
        flip: mirror every second picture.
        averaging: steps over which the weights that count are averaged (0: none).
        class_weights: weigh classes by how rare they are.
        start: ``scratch``, a variant's name, or a checkpoint.
        freeze: name of the last block that stays as it was (``conv3``); empty for none.
        freeze_epochs: after how many epochs it is set free.
        validation: pictures a class that are split off where there is no folder of them.
        patience: epochs without a better validation accuracy after which a run stops (0: never).
        precision: Keras's dtype policy: ``float32``, ``mixed_bfloat16`` or ``mixed_float16``.
        seed: of the first weights, the order and the augmentation.
    """

    blocks: tuple[int, ...] = (6, 12, 24, 16)
    growth_rate: int = 32
    stem: str = "imagenet"
    stem_width: int = 64
    compression: float = 0.5
    input_size: int = 224
    sizes: tuple[Phase, ...] = (Phase(224, 30),)
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
    start: str = "scratch"
    freeze: str = ""
    freeze_epochs: int = 0
    validation: int = 10
    patience: int = 0
    precision: str = "float32"
    seed: int = 0

    @property
    def epochs(self) -> int:
        """Of all phases together."""
        return sum(phase.epochs for phase in self.sizes)

    def size_at(self, epoch: int) -> int:
        """Side in pixels of the training pictures in ``epoch``, counted from 0."""
        for size, epochs in self.sizes:
            if epoch < epochs:
                return size
            epoch -= epochs
        raise IndexError(epoch)

    def config(self, classes: int) -> DenseNetConfig:
        """The network to train."""
        return DenseNetConfig(
            self.blocks, self.growth_rate, self.stem, self.stem_width, self.compression, classes, self.input_size
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON and TOML values; ``from_dict`` reads it back."""
        return {**asdict(self), "blocks": list(self.blocks), "sizes": format_sizes(self.sizes)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """The inverse of ``to_dict``; what is left out keeps its default. Raises ``UsageError``."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise UsageError(f"There is no setting {unknown[0]!r}; there are {', '.join(sorted(known))}.")
        values = dict(values)
        if "blocks" in values:
            values["blocks"] = tuple(values["blocks"])
        if "sizes" in values:
            values["sizes"] = parse_sizes(values["sizes"])
        return cls(**values)


def parse_sizes(text: str) -> tuple[Phase, ...]:
    """``32x5,48x4`` as phases. Raises ``UsageError`` for anything else."""
    try:
        phases = tuple(Phase(*map(int, part.split("x"))) for part in text.split(","))
    except (TypeError, ValueError):
        phases = ()
    if not phases or min(min(phase) for phase in phases) < 1:
        raise UsageError(f"--sizes is SIZExEPOCHS, joined by commas (32x5,48x4), not {text!r}.")
    return phases


def format_sizes(phases: tuple[Phase, ...]) -> str:
    """The inverse of ``parse_sizes``."""
    return ",".join(f"{size}x{epochs}" for size, epochs in phases)


def read_toml(path: Path) -> dict[str, Any]:
    """The settings in a TOML file. Raises ``UsageError``."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"The settings {path} can't be read: {error}") from None


def write_toml(path: Path, settings: Settings) -> None:
    """Leave ``settings`` as a file that ``read_toml`` reads. Its values are all such that JSON's form is TOML's."""
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in settings.to_dict().items()]
    path.write_text("".join(lines), "utf-8")
