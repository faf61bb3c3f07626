"""A SavedModel: TensorFlow's folder, with the description among its assets.

Signature ``serving_default``: ``pixels`` (batch, size, size, 3) to ``probabilities`` (batch, classes). The loaded
object can be called too, and has the paths of its description as ``description`` and ``labels``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from densenet_cli.export.formats import FloatArray, Run
    from densenet_cli.export.model import ExportedModel


def write(model: ExportedModel, path: Path) -> None:
    """See ``formats.Writer``."""
    from densenet_cli.export.model import DESCRIPTION_FILE, INPUT, LABELS_FILE
    from densenet_cli.export.tensorflow import keras_model

    network = keras_model(model, named=True)
    import tensorflow as tf

    spec = tf.TensorSpec((None, model.size, model.size, 3), model.dtype, INPUT)
    serve = tf.function(lambda pixels: network(pixels, training=False), input_signature=[spec])
    root = tf.Module(name=model.name)
    root.network, root.__call__ = network, serve
    with tempfile.TemporaryDirectory() as folder:
        for name, content in model.files.items():
            file = Path(folder, name)
            file.write_bytes(content)
            attribute = {DESCRIPTION_FILE: "description", LABELS_FILE: "labels"}[name]
            setattr(root, attribute, tf.saved_model.Asset(str(file)))
        try:
            tf.saved_model.save(root, str(path), signatures={"serving_default": serve})
        except tf.errors.OpError as error:  # its file system's, which are no OSErrors
            raise OSError(error.message.rpartition("; ")[2].partition(" [Op:")[0]) from error


def load(model: ExportedModel, path: Path) -> Run:
    """See ``formats.Writer``."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))

    def run(batch: np.ndarray[Any, Any]) -> FloatArray:
        probabilities: FloatArray = loaded.signatures["serving_default"](pixels=tf.constant(batch))[
            "probabilities"
        ].numpy()
        return probabilities

    return run
