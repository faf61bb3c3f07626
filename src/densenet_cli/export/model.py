"""What is exported: the network, and what the file is to say of itself so that others prepare images alike."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from densenet_cli import labels
from densenet_cli.images.preprocessing import MEAN, PAD_COLOR, STD, Preprocessing
from densenet_cli.weights.contents import Arrays, ModelMetadata

if TYPE_CHECKING:
    from densenet_cli.labels import Labels
    from densenet_cli.topology import DenseNetConfig

PRODUCER = "densenet-cli"
INPUT = "pixels"
DESCRIPTION_FILE = "densenet.json"
LABELS_FILE = "labels.txt"
"""What the two are called in a format that holds files."""


@dataclass(frozen=True)
class ExportedModel:
    """A network on its way into a file.

    Attributes:
        name: the model's, such as ``densenet121``.
        arrays: its weights.
        config: its configuration.
        preprocessing: how its images are prepared.
        labels: what its outputs mean; None where nobody knows.
        metadata: what its checkpoint said of its training.
        with_preprocessing: whether the file normalizes pixels by itself.
    """

    name: str
    arrays: Arrays
    config: DenseNetConfig
    preprocessing: Preprocessing
    labels: Labels | None
    metadata: ModelMetadata
    with_preprocessing: bool

    @property
    def size(self) -> int:
        """Pixels a side of the square that it takes."""
        return self.preprocessing.input_size

    @property
    def dtype(self) -> str:
        """Of its input: 0 to 255, or normalized."""
        return "uint8" if self.with_preprocessing else "float32"

    @cached_property
    def description(self) -> dict[str, Any]:
        """What the file says of itself, as JSON values: the same keys in every format (``docs/export.md``)."""
        known = self.labels or ()
        said: dict[str, Any] = {
            "model": self.name,
            "config": self.config.to_dict(),
            "preprocessing": self._preparation(),
        }
        if known:
            said["labels"] = [label.name for label in known]
        if known and all(label.id for label in known):
            said["wordnet_ids"] = [label.id for label in known]
        return said

    @property
    def properties(self) -> dict[str, str]:
        """The description for a format that holds strings under names: each value but a string as JSON."""
        return {key: value if isinstance(value, str) else _json(value) for key, value in self.description.items()}

    @property
    def files(self) -> dict[str, bytes]:
        """The description for a format that holds files: name -> contents."""
        files = {DESCRIPTION_FILE: _json({"producer": producer(), **self.description}, indent=1).encode() + b"\n"}
        if self.labels:
            files[LABELS_FILE] = "".join(f"{label.name}\n" for label in self.labels).encode()
        return files

    def _preparation(self) -> dict[str, Any]:
        """What was done to an image before it reached the network, and which part of that the file does itself."""
        mode, size = self.preprocessing.mode, self.size
        resize: dict[str, Any] = {
            "crop": {"resize": "shorter side", "resize_size": self.preprocessing.shorter_side, "crop": "center"},
            "squash": {"resize": "both sides", "resize_size": size, "crop": None},
            "pad": {"resize": "longer side", "resize_size": size, "crop": None, "pad_color": list(PAD_COLOR)},
            "keras": {"resize": "both sides", "resize_size": size, "crop": None},
        }[mode]
        return {
            "mode": mode,
            "input_size": size,
            **resize,
            "interpolation": "nearest" if mode == "keras" else "bilinear",
            "antialias": mode != "keras",
            "exif_rotation": mode != "keras",
            "color": "RGB",
            "divide_by": 255,
            "mean": list(MEAN),
            "std": list(STD),
            "normalization_inside": self.with_preprocessing,
        }


def labels_of(chosen: Labels) -> Labels | None:
    """The labels that say something: None for the stand-ins of a model without any."""
    return None if chosen == labels.placeholders(len(chosen)) else chosen


def producer() -> str:
    """This package and its version."""
    try:
        return f"{PRODUCER} {version(PRODUCER)}"
    except PackageNotFoundError:  # run from a checkout that was never installed
        return PRODUCER


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
