"""``.keras``: Keras' own archive, which has no place for a description; a file of ours in it, which Keras passes over.

Input ``pixels`` (batch, size, size, 3), output probabilities (batch, classes).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

if TYPE_CHECKING:
    import numpy as np

    from densenet_cli.export.formats import FloatArray, Run
    from densenet_cli.export.model import ExportedModel


def write(model: ExportedModel, path: Path) -> None:
    """See ``formats.Writer``."""
    from densenet_cli.export.tensorflow import keras_model

    keras_model(model).save(path)
    with ZipFile(path, "a") as archive:
        for name, content in model.files.items():
            archive.writestr(name, content)


def load(model: ExportedModel, path: Path) -> Run:
    """See ``formats.Writer``."""
    import keras

    network = keras.saving.load_model(path)

    def run(batch: np.ndarray[Any, Any]) -> FloatArray:
        probabilities: FloatArray = keras.ops.convert_to_numpy(network(batch, training=False))
        return probabilities

    return run
