"""What a run leaves: one file that ``predict`` and ``evaluate`` need nothing beside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from densenet_cli.labels import Labels
from densenet_cli.topology import DenseNetConfig
from densenet_cli.training.measuring import Measured
from densenet_cli.training.settings import Settings
from densenet_cli.weights import safetensors
from densenet_cli.weights.contents import ModelMetadata

if TYPE_CHECKING:
    from densenet_cli.weights.contents import Arrays

FILE = "model.safetensors"


def write(
    folder: Path,
    arrays: Arrays,
    config: DenseNetConfig,
    labels: Labels,
    settings: Settings,
    measured: Measured,
    epoch: int,
) -> None:
    """Put the model as it is after ``epoch`` epochs into ``folder``. Raises ``OutputError``."""
    metadata = ModelMetadata(
        labels,
        settings.preprocess,
        settings.input_size,
        training={**settings.to_dict(), "trained_epochs": epoch},
        accuracy={"validation": measured.to_dict()},
    )
    safetensors.write(folder / FILE, arrays, config, metadata)
