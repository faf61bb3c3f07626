"""``.tflite``: LiteRT's (TensorFlow Lite's) file, with TFLite Metadata, which Android's and MediaPipe's tools read.

Input ``pixels`` (1, size, size, 3), output ``probabilities`` (1, classes); for other batches the input is resized.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densenet_cli.engines import backend
from densenet_cli.errors import OutputError
from densenet_cli.export import tflite_metadata

if TYPE_CHECKING:
    import numpy as np

    from densenet_cli.export.formats import FloatArray, Run
    from densenet_cli.export.model import ExportedModel


def write(model: ExportedModel, path: Path) -> None:
    """See ``formats.Writer``."""
    from densenet_cli.export.tensorflow import keras_model

    network = keras_model(model, named=True)
    import tensorflow as tf

    # The converter tells both streams of its progress.
    try:
        with backend.silence(), contextlib.redirect_stdout(io.StringIO()):
            converted: bytes = tf.lite.TFLiteConverter.from_keras_model(network).convert()
    except Exception as error:  # whatever its parts raise; it keeps a copy of the network among temporary files
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise OutputError(
            f"TensorFlow couldn't convert the network ({reason}): is there room for a copy of it in "
            f"{tempfile.gettempdir()}?"
        ) from error
    path.write_bytes(tflite_metadata.added(converted, model))
    tflite_metadata.append_files(path, model.files)


def load(model: ExportedModel, path: Path) -> Run:
    """See ``formats.Writer``."""
    with backend.silence():
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=str(path))
        runner = interpreter.get_signature_runner()

    def run(batch: np.ndarray[Any, Any]) -> FloatArray:
        with backend.silence():
            probabilities: FloatArray = runner(pixels=batch)["probabilities"]
        return probabilities

    return run
