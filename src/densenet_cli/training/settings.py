"""Training settings, which determine the result of a run, and run options, which do not."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from densenet_cli.errors import UsageError
from densenet_cli.images.normalization import MEAN, STD, check_normalization
from densenet_cli.images.preprocessing import INTERPOLATIONS, MODES, Preprocessing
from densenet_cli.layers import list_layers
from densenet_cli.topology import STEMS, DenseNetConfig
from densenet_cli.training.fields import Range, check_randaugment, check_type, check_values, setting
from densenet_cli.training.phases import Phase, format_sizes, parse_sizes

FROM_SCRATCH = "scratch"
FREEZE_ALL = "all"
BACKBONE_RATE = 0.1
"""The default of ``backbone_rate`` for a run that starts from a checkpoint."""

HEAD_ONLY_RATE = 0.01
"""The default of ``learning_rate`` if the run starts by fitting a head (``is_head_only``)."""

DEFAULT_EPOCHS = 30
"""Used if neither epochs nor sizes are given."""

ARCHITECTURE = ("blocks", "growth_rate", "stem", "stem_width", "compression")
"""Settings that a checkpoint to start from determines."""
PREPROCESSING = ("mean", "std", "interpolation", "crop_ratio")
"""Settings that a checkpoint to start from determines if it states them."""


@dataclass(frozen=True)
class Settings:
    """Everything that determines the result of a run, except its images.

    The metadata of a field describes it: ``help``; ``group``, a heading for related settings; and, where they apply,
    ``choices``, ``range`` (a ``Range``), ``metavar``, and ``shown_default`` (what to show instead of the default).

    Raises:
        UsageError: A value is not allowed.
    """

    blocks: tuple[int, ...] = setting(
        (6, 12, 24, 16), "Layers in each dense block, such as 6,12,24,16.", "Network", metavar="N,N,..."
    )
    growth_rate: int = setting(32, "Channels that each layer adds (k in the paper).", "Network", metavar="K")
    stem: str = setting("imagenet", "Layers before the first dense block.", "Network", choices=tuple(STEMS))
    stem_width: int = setting(64, "Output channels of the stem.", "Network", metavar="N")
    compression: float = setting(0.5, "Fraction of channels that a transition keeps.", "Network", metavar="FRACTION")
    input_size: int = setting(224, "Image size for validation and inference.", "Preprocessing", metavar="PIXELS")
    preprocess: str = setting(
        "crop",
        "How to fit images to the input size for validation and inference.",
        "Preprocessing",
        choices=MODES,
        shown_default="as --from states, or crop",
    )
    crop_ratio: float = setting(
        0.0,
        "Fraction of the resized image's shorter side that crop mode keeps.",
        "Preprocessing",
        metavar="RATIO",
        range=Range(0, 1, max_open=False),
    )
    mean: tuple[float, ...] = setting(
        MEAN, "Mean of each channel for pixels in [0, 1].", "Preprocessing", metavar="R,G,B"
    )
    std: tuple[float, ...] = setting(STD, "Standard deviation of each channel.", "Preprocessing", metavar="R,G,B")
    interpolation: str = setting("bilinear", "How to resize images.", "Preprocessing", choices=INTERPOLATIONS)
    sizes: tuple[Phase, ...] = setting(
        (),
        "Train on several image sizes in turn, such as 32x5,48x4: 5 epochs at 32 pixels, then 4 at 48.",
        "Schedule",
        metavar="SIZExEPOCHS,...",
    )
    batch_size: int = setting(64, "Images per step.", "Schedule", metavar="N", range=Range(2, 1e6))
    learning_rate: float = setting(
        0.1,
        "Peak learning rate.",
        "Schedule",
        metavar="RATE",
        range=Range(0, 1e3, min_open=True),
        shown_default=f"0.1, or {HEAD_ONLY_RATE} with --freeze all",
    )
    backbone_rate: float = setting(
        1.0,
        "Learning rate of the layers before the head, as a fraction of the head's.",
        "Optimizer",
        metavar="FRACTION",
        range=Range(0, 1, min_open=True, max_open=False),
        shown_default="0.1 with --from, otherwise 1",
    )
    clip_norm: float = setting(
        0.0,
        "Limit the global norm of the gradients.",
        "Optimizer",
        metavar="NORM",
        range=Range(0, 1e6),
        shown_default="no limit",
    )
    schedule: str = setting(
        "cosine", "Decay of the learning rate after the warmup.", "Schedule", choices=("cosine", "step")
    )
    warmup: float = setting(1.0, "Epochs of linear warmup.", "Schedule", metavar="EPOCHS", range=Range(0, 1e6))
    momentum: float = setting(0.9, "Nesterov momentum.", "Optimizer", metavar="M", range=Range(0, 1))
    weight_decay: float = setting(1e-4, "L2 penalty for kernels.", "Optimizer", metavar="DECAY", range=Range(0, 1))
    label_smoothing: float = setting(
        0.1,
        "Label smoothing.",
        "Labels and loss",
        metavar="FRACTION",
        range=Range(0, 1),
        shown_default="0.1, or 0 with --multi-label",
    )
    augmentation: str = setting(
        "crop",
        "Random resized crops, padded crops (as in the DenseNet paper), or none.",
        "Augmentation",
        choices=("crop", "pad", "none"),
    )
    crop_area: float = setting(
        0.35,
        "Minimum area of a random resized crop.",
        "Augmentation",
        metavar="FRACTION",
        range=Range(0, 1, min_open=True, max_open=False),
    )
    unresized: float = setting(
        0.0,
        "Cut this fraction of the crops from the decoded image, without resizing.",
        "Augmentation",
        metavar="FRACTION",
        range=Range(0, 1, max_open=False),
        shown_default="off",
    )
    flip: bool = setting(True, "Disable random horizontal flips.", "Augmentation")
    mixup: float = setting(
        0.0,
        "Average pairs of images (not with --multi-label), with shares from Beta(ALPHA, ALPHA), such as 0.2.",
        "Augmentation",
        metavar="ALPHA",
        range=Range(0, 100),
        shown_default="off",
    )
    cutmix: float = setting(
        0.0,
        "Paste a rectangle of another image (not with --multi-label), with areas from Beta(ALPHA, ALPHA), such as 1.",
        "Augmentation",
        metavar="ALPHA",
        range=Range(0, 100),
        shown_default="off",
    )
    erase: float = setting(
        0.0,
        "Fill a random rectangle in this fraction of the images.",
        "Augmentation",
        metavar="FRACTION",
        range=Range(0, 1, max_open=False),
        shown_default="off",
    )
    randaugment: tuple[int, ...] = setting(
        (),
        "Apply N random operations of magnitude M (0 to 30), such as 2,9.",
        "Augmentation",
        metavar="N,M",
        shown_default="off",
    )
    averaging: int = setting(
        500, "Average the weights over this many steps (0: off).", "Optimizer", metavar="STEPS", range=Range(0, 1e9)
    )
    class_weights: bool = setting(False, "Weight classes by inverse frequency.", "Labels and loss")
    multi_label: bool = setting(
        False,
        "Train a multi-label model, whose classes are not mutually exclusive. Requires --csv with labels such as "
        '"cat|dog", or with a column of 0 and 1 per class.',
        "Labels and loss",
    )
    start: str = setting(
        FROM_SCRATCH,
        "Start from the weights of a variant, a file, a folder, or hf://ORGANIZATION/NAME, with a new head unless "
        "the classes are the same.",
        "Initial weights",
        metavar="VARIANT|PATH",
    )
    freeze: str = setting(
        "",
        "Freeze the layers up to and including this stage (conv1, conv2, ...). With all, only fit a new head (fast).",
        "Initial weights",
        metavar="STAGE",
    )
    views: int = setting(
        0, "Augmented copies of each image to add.", "New head only (--freeze all)", metavar="N", range=Range(0, 1000)
    )
    then_unfreeze: bool = setting(
        False, "Continue by training all layers except batch normalization.", "New head only (--freeze all)"
    )
    unfreeze_after: int = setting(
        0,
        "Unfreeze all layers after this many epochs.",
        "Initial weights",
        metavar="EPOCHS",
        range=Range(0, 1e9),
        shown_default="never",
    )
    validation: int = setting(
        10,
        "Images per class to hold out, at most a fifth of a class (0: none).",
        "Validation",
        metavar="N",
        range=Range(0, 1e9),
    )
    calibrate: bool = setting(True, "Do not calibrate the model on the validation images.", "Validation")
    patience: int = setting(
        0,
        "Stop after this many epochs without improvement.",
        "Validation",
        metavar="EPOCHS",
        range=Range(0, 1e9),
        shown_default="never",
    )
    precision: str = setting(
        "float32",
        "Number format (Keras dtype policy). With --freeze all, mixed_bfloat16 computes the features in bfloat16.",
        "Performance",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
    )
    seed: int = setting(0, "Random seed.", "Optimizer", metavar="N", range=Range(0, 2**32))

    def __post_init__(self) -> None:
        try:
            self.config(classes=2)
        except (TypeError, ValueError) as error:
            raise UsageError(f"Invalid network: {error}.") from None
        if not self.sizes:
            object.__setattr__(self, "sizes", (Phase(self.input_size, DEFAULT_EPOCHS),))
        for name in ("mean", "std"):
            values = tuple(map(float, getattr(self, name)))
            object.__setattr__(self, name, values * 3 if len(values) == 1 else values)
        check_normalization(self.mean, self.std)
        _ = self.preprocessing  # checks the values together
        # Raises UsageError if an image is too small.
        list_layers(self.config(classes=2), min(self.input_size, *(phase.size for phase in self.sizes)))
        check_values(self)
        stages = [*(f"conv{stage}" for stage in range(1, len(self.blocks) + 2)), FREEZE_ALL]
        if self.freeze and self.freeze not in stages:
            raise UsageError(f"`freeze` must be one of {', '.join(stages)}, not {self.freeze!r}.")
        if self.freeze and self.start == FROM_SCRATCH:
            raise UsageError("`freeze` requires `start`: there are no trained weights to freeze.")
        check_randaugment(self.randaugment)
        requirements = {
            "unresized": (self.augmentation == "crop", "requires `augmentation` crop"),
            "unfreeze_after": (
                self.freeze not in ("", FREEZE_ALL),
                "requires a stage in `freeze`, such as conv4. With all, use `then_unfreeze`",
            ),
            **dict.fromkeys(("mixup", "cutmix"), (not self.multi_label, "does not support `multi_label`")),
            **dict.fromkeys(("views", "then_unfreeze"), (self.is_head_only, "requires `freeze` all")),
        }
        for name, (is_met, requirement) in requirements.items():
            if getattr(self, name) and not is_met:
                raise UsageError(f"`{name}` {requirement}.")

    @property
    def epochs(self) -> int:
        """The number of epochs of all phases."""
        return sum(phase.epochs for phase in self.sizes)

    def size_at(self, epoch: int) -> int:
        """Return the side of the training images in pixels in ``epoch``, counted from 0."""
        for size, epochs in self.sizes:
            if epoch < epochs:
                return size
            epoch -= epochs
        raise IndexError("epoch out of range")

    def is_frozen_at(self, epoch: int) -> bool:
        """Return whether the layers up to ``freeze`` are frozen in ``epoch``, counted from 0."""
        return self.freeze not in ("", FREEZE_ALL) and (not self.unfreeze_after or epoch < self.unfreeze_after)

    @property
    def is_head_only(self) -> bool:
        """Whether the run starts by fitting a new head to the features of a frozen backbone."""
        return self.freeze == FREEZE_ALL

    def stops_early(self, epoch: int, best_epoch: int) -> bool:
        """Return whether training stops after ``epoch`` epochs, since it has not improved after ``best_epoch``."""
        return 0 < self.patience <= epoch - best_epoch

    def learning_rate_at(self, progress: float) -> float:
        """Return the learning rate after ``progress`` epochs, which may be a fraction.

        After a linear warmup it follows a cosine to zero (Loshchilov and Hutter, "SGDR", ICLR 2017, without restarts)
        or the steps of the DenseNet paper: divided by 10 at 50% and again at 75% of the run.
        """
        if progress < self.warmup:
            return self.learning_rate * progress / self.warmup
        fraction = min(1.0, progress / self.epochs)
        if self.schedule == "step":
            return self.learning_rate * (0.01 if fraction >= 0.75 else 0.1 if fraction >= 0.5 else 1.0)
        decay = (progress - self.warmup) / max(1e-9, self.epochs - self.warmup)
        return self.learning_rate * (1 + math.cos(math.pi * min(1.0, decay))) / 2

    def config(self, classes: int) -> DenseNetConfig:
        """Return the configuration of the network for a number of classes."""
        activation = "sigmoid" if self.multi_label else "softmax"
        architecture = self.blocks, self.growth_rate, self.stem, self.stem_width, self.compression
        return DenseNetConfig(*architecture, classes, self.input_size, activation=activation)

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing for validation and inference."""
        return Preprocessing(
            self.preprocess,
            self.input_size,
            interpolation="nearest" if self.preprocess == "keras" else self.interpolation,
            crop_ratio=self.crop_ratio or None,
            mean=self.mean,
            std=self.std,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON and TOML types. ``from_dict`` is the inverse."""
        lists = {name: list(getattr(self, name)) for name in ("blocks", "mean", "std", "randaugment")}
        return {**asdict(self), **lists, "sizes": format_sizes(self.sizes)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """Return the settings that ``to_dict`` stored. Missing ones get their defaults.

        Raises:
            UsageError: A name is unknown or a value is not allowed.
        """
        types = {field.name: type(field.default) for field in fields(cls)}
        types |= {"blocks": list, "randaugment": list, "sizes": str}
        for name, value in values.items():
            if name not in types:
                raise UsageError(f"Unknown setting {name!r}. The settings are {', '.join(types)}.")
            check_type(name, value, types[name])
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        if "sizes" in values:
            values["sizes"] = parse_sizes(values["sizes"])
        return cls(**values)

    def differences(self, other: Settings) -> list[str]:
        """Return how ``other`` differs, such as ``["`seed` is 1, not 0"]`` if its seed is 1."""
        mine, theirs = self.to_dict(), other.to_dict()
        return [f"`{name}` is {theirs[name]!r}, not {mine[name]!r}" for name in mine if mine[name] != theirs[name]]
