"""Keras and SavedModel export, and the Keras model that TensorFlow formats are made from."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densenet_cli.engines.tensorflow import import_keras
from densenet_cli.errors import UsageError
from densenet_cli.export.model import DESCRIPTION_FILE, INPUT, LABELS_FILE

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray, UInt8Array
    from densenet_cli.export.exporter import Predict
    from densenet_cli.export.model import ExportedModel


def build_keras_model(model: ExportedModel, *, named_output: bool = False) -> Any:
    """Build a ``keras.Model`` with the weights: ``pixels`` (batch, size, size, channels) to (batch, classes).

    Args:
        model: The model.
        named_output: Return ``{"probabilities": ...}`` instead of an array.

    Raises:
        UsageError: Keras already uses another backend in this process.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import_keras()
    import keras

    from densenet_cli.engines import keras_ops
    from densenet_cli.topology import build

    if keras.backend.backend() != "tensorflow":
        raise UsageError(
            f"This format needs Keras on TensorFlow, but Keras already runs on {keras.backend.backend()} in this "
            "process. Export in a new process."
        )
    mean, std = model.preprocessing.mean, model.preprocessing.std
    pixels = x = keras.Input((model.size, model.size, len(mean)), dtype=model.dtype, name=INPUT)
    if model.with_preprocessing:
        x = keras.layers.Rescaling(1 / 255, name="to_unit")(x)
        x = _normalize(x, mean, std)
    probabilities = build(keras_ops.KerasOps(), model.checkpoint.config, x).probabilities
    outputs = {"probabilities": probabilities} if named_output else probabilities
    network = keras.Model(pixels, outputs, name="densenet")
    keras_ops.set_arrays(network, model.checkpoint.arrays)
    return network


def _normalize(x: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> Any:
    import keras

    if min(std) > 0:
        return keras.layers.Normalization(mean=mean, variance=[value**2 for value in std], name="normalize")(x)
    scale, offset = [1 / value for value in std], [-m / s for m, s in zip(mean, std, strict=True)]
    return keras.layers.Rescaling(scale, offset, name="normalize")(x)


class KerasExporter:
    """Exporter for ``.keras``. See ``exporter.Exporter``.

    The format has no place for metadata, so the description is an additional file in the archive, which Keras ignores.
    """

    def write(self, model: ExportedModel, path: Path) -> None:
        """Write the Keras file."""
        build_keras_model(model).save(path)
        model.append_files(path)

    def load(self, model: ExportedModel, path: Path) -> Predict:
        """Load the file with Keras."""
        import keras

        network = keras.saving.load_model(path)

        def predict(batch: FloatArray | UInt8Array) -> FloatArray:
            probabilities: FloatArray = keras.ops.convert_to_numpy(network(batch, training=False))
            return probabilities

        return predict


class SavedModelExporter:
    """Exporter for SavedModel folders, with the description among the assets. See ``exporter.Exporter``.

    The signature ``serving_default`` maps ``pixels`` (batch, size, size, channels) to ``probabilities`` (batch,
    classes). The loaded object can also be called. Its attributes ``description`` and ``labels`` are the description's
    assets.
    """

    def write(self, model: ExportedModel, path: Path) -> None:
        """Write the folder."""
        network = build_keras_model(model, named_output=True)
        import tensorflow as tf

        spec = tf.TensorSpec((None, model.size, model.size, model.preprocessing.channels), model.dtype, INPUT)
        serve = tf.function(lambda pixels: network(pixels, training=False), input_signature=[spec])
        root = tf.Module()
        root.network, root.__call__ = network, serve
        with tempfile.TemporaryDirectory() as folder:
            for name, content in model.files.items():
                file = Path(folder, name)
                file.write_bytes(content)
                attribute = {DESCRIPTION_FILE: "description", LABELS_FILE: "labels"}[name]
                setattr(root, attribute, tf.saved_model.Asset(str(file)))
            try:
                tf.saved_model.save(root, str(path), signatures={"serving_default": serve})
            except tf.errors.OpError as error:  # TensorFlow's file system does not raise OSError
                raise OSError(error.message.rpartition("; ")[2].partition(" [Op:")[0]) from error

    def load(self, model: ExportedModel, path: Path) -> Predict:
        """Load the folder with TensorFlow."""
        import tensorflow as tf

        loaded = tf.saved_model.load(str(path))

        def predict(batch: FloatArray | UInt8Array) -> FloatArray:
            outputs = loaded.signatures["serving_default"](pixels=tf.constant(batch))
            probabilities: FloatArray = outputs["probabilities"].numpy()
            return probabilities

        return predict
