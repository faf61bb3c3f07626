"""The Keras model that three formats are made of. TensorFlow computes it; importing that takes seconds."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from densenet_cli.engines import backend
from densenet_cli.errors import UsageError
from densenet_cli.images.preprocessing import MEAN, STD

if TYPE_CHECKING:
    from densenet_cli.export.model import ExportedModel


def keras_model(model: ExportedModel, *, named: bool = False) -> Any:
    """The network with its arrays: ``pixels`` (batch, size, size, 3) to probabilities (batch, classes).

    Args:
        model: the network.
        named: whether the output is a mapping, ``{"probabilities": ...}``.

    Raises ``UsageError`` where Keras already runs on something else in this process.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    backend.load()
    import keras

    from densenet_cli.engines import keras_ops
    from densenet_cli.export.model import INPUT
    from densenet_cli.topology import build

    if keras.backend.backend() != "tensorflow":
        raise UsageError(
            f"This format is written with TensorFlow, but Keras already runs on {keras.backend.backend()} in this "
            "process: export in another."
        )
    pixels = x = keras.Input((model.size, model.size, 3), dtype=model.dtype, name=INPUT)
    if model.with_preprocessing:
        x = keras.layers.Rescaling(1 / 255, name="to_unit")(x)
        x = keras.layers.Normalization(mean=MEAN, variance=[std**2 for std in STD], name="normalize")(x)
    probabilities = build(keras_ops.KerasOps(), model.config, x).probabilities
    network = keras.Model(pixels, {"probabilities": probabilities} if named else probabilities, name="densenet")
    keras_ops.set_arrays(network, model.arrays)
    return network
