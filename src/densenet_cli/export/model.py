"""The exported model: arrays, labels, and a description that lets other tools prepare images in the same way."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

from densenet_cli.errors import UsageError
from densenet_cli.images.normalization import pad_color
from densenet_cli.images.preprocessing import Preprocessing

if TYPE_CHECKING:
    from densenet_cli.calibration.record import Calibration
    from densenet_cli.labels import Labels
    from densenet_cli.weights.contents import Checkpoint

PRODUCER = "densenet-cli"
INPUT = "pixels"
DESCRIPTION_FILE = "densenet.json"
LABELS_FILE = "labels.txt"


@dataclass(frozen=True)
class ExportedModel:
    """A model to write to a file.

    Attributes:
        name: Model name, such as ``densenet121``.
        checkpoint: The network and its weights.
        preprocessing: How images are prepared.
        labels: One label per class; None if the model has none.
        with_preprocessing: Whether the file normalizes pixels itself.
    """

    name: str
    checkpoint: Checkpoint
    preprocessing: Preprocessing
    labels: Labels | None
    with_preprocessing: bool

    @property
    def size(self) -> int:
        """Height and width of the input in pixels."""
        return self.preprocessing.input_size

    @property
    def dtype(self) -> str:
        """Dtype of the input: uint8 from 0 to 255, or normalized float32."""
        return "uint8" if self.with_preprocessing else "float32"

    @cached_property
    def description(self) -> dict[str, Any]:
        """The description as JSON values, with the same keys in every format (see the reference of ``export``).

        ``model``, ``config``, and ``preprocessing`` always; ``labels``, ``indices``, and ``wordnet_ids`` (None for
        labels without one) if the model has them.
        ``preprocessing`` has ``mode``, ``input_size``, ``resize``, ``resize_size``, ``crop``, ``pad_color`` (mode
        ``pad`` only), ``interpolation``, ``antialias``, ``exif_rotation``, ``color``, ``color_profile``,
        ``divide_by``, ``mean``, ``std``, and ``normalization_included``.
        """
        description: dict[str, Any] = {
            "model": self.name,
            "config": self.checkpoint.config.to_dict(),
            "preprocessing": self._describe_preprocessing(),
        }
        if self.labels:
            description["labels"] = [label.name for label in self.labels]
            description["indices"] = [label.index for label in self.labels]
            if any(label.id for label in self.labels):
                description["wordnet_ids"] = [label.id for label in self.labels]
        return description

    @property
    def properties(self) -> dict[str, str]:
        """The description for formats with string metadata: strings as they are, other values as JSON."""
        return {key: value if isinstance(value, str) else _json(value) for key, value in self.description.items()}

    @property
    def files(self) -> dict[str, bytes]:
        """The description for formats that contain files: file name -> contents."""
        files = {DESCRIPTION_FILE: _json({"producer": producer(), **self.description}, indent=1).encode() + b"\n"}
        if self.labels:
            files[LABELS_FILE] = "".join(f"{label.name}\n" for label in self.labels).encode()
        return files

    def append_files(self, path: Path) -> None:
        """Append ``files`` to a zip archive, or to another file as a zip archive."""
        with ZipFile(path, "a") as archive:
            for name, content in self.files.items():
                archive.writestr(name, content)

    def _describe_preprocessing(self) -> dict[str, Any]:
        mode, size = self.preprocessing.mode, self.size
        resize: dict[str, Any] = {
            "crop": {"resize": "shorter side", "resize_size": self.preprocessing.resize_side, "crop": "center"},
            "squash": {"resize": "both sides", "resize_size": size, "crop": None},
            "pad": {
                "resize": "longer side",
                "resize_size": size,
                "crop": None,
                "pad_color": list(pad_color(self.preprocessing.mean)),
            },
            "keras": {"resize": "both sides", "resize_size": size, "crop": None},
        }[mode]
        return {
            "mode": mode,
            "input_size": size,
            **resize,
            "interpolation": self.preprocessing.interpolation,
            "antialias": self.preprocessing.interpolation != "nearest",
            "exif_rotation": mode != "keras",
            "color": "RGB" if self.preprocessing.channels == 3 else "grayscale",
            "color_profile": None if mode == "keras" else "sRGB",
            "divide_by": 255,
            "mean": list(self.preprocessing.mean),
            "std": list(self.preprocessing.std),
            "normalization_included": self.with_preprocessing,
        }


def apply_temperature(checkpoint: Checkpoint, calibration: Calibration) -> Checkpoint:
    """Return a checkpoint whose network itself computes calibrated probabilities.

    Other tools do not know temperatures, so the last dense layer is divided by them.

    Raises:
        UsageError: The last layer of the network is not dense.
    """
    import numpy as np

    layers = checkpoint.config.head_layers
    last, kind = list(layers)[-1], list(layers.values())[-1].kind
    if kind != "dense":
        raise UsageError(
            f"The network ends with a layer of the kind {kind}, which cannot include the calibration. "
            "Use `uncalibrated` to export the network's own probabilities."
        )
    temperature = np.asarray(calibration.temperature, np.float64)
    head = {name: (values / temperature).astype(np.float32) for name, values in checkpoint.arrays[last].items()}
    stored: Any = replace(
        calibration,
        temperature=(1.0,) * len(calibration.temperature) if isinstance(calibration.temperature, tuple) else 1.0,
    ).to_dict()
    metadata = replace(checkpoint.metadata, calibration=stored)
    return checkpoint._replace(arrays={**checkpoint.arrays, last: head}, metadata=metadata)


def producer() -> str:
    """Return the name and version of this package."""
    try:
        return f"{PRODUCER} {version(PRODUCER)}"
    except PackageNotFoundError:  # a checkout that is not installed
        return PRODUCER


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
