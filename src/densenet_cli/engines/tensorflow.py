"""The reference engine: the Keras model on TensorFlow. Slow to start; the other is held against its numbers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from densenet_cli.engines import backend
from densenet_cli.topology import DenseNetConfig
from densenet_cli.weights import checkpoint

if TYPE_CHECKING:
    from densenet_cli.engines import FloatArray


class TensorFlowEngine:
    """See ``engines.Engine``."""

    def __init__(self, weights: Path, config: DenseNetConfig | None, threads: int) -> None:
        read = checkpoint.read(weights, config)
        self.config, self.metadata = read.config, read.metadata
        self._arrays = read.arrays
        self._threads = threads
        self._model: Any = None

    def load(self) -> None:
        """Import TensorFlow and build the model."""
        if self._model is not None:
            return
        os.environ["KERAS_BACKEND"] = "tensorflow"
        backend.load()
        import tensorflow as tf

        try:
            tf.config.threading.set_intra_op_parallelism_threads(self._threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        except RuntimeError:
            pass  # TensorFlow already runs in this process; its threads can't be changed any more.
        import keras

        from densenet_cli.engines import keras_ops

        network = keras_ops.model(self.config)
        keras_ops.set_arrays(network, self._arrays)
        names = {"features": "relu", "logits": "predictions", "probabilities": "softmax"}
        outputs = {output: network.get_layer(layer).output for output, layer in names.items()}
        self._model = keras.Model(network.input, outputs)

    def run(self, batch: FloatArray, output: str = "probabilities") -> FloatArray:
        """See ``engines.Engine.run``."""
        return self.run_all(batch, (output,))[0]

    def run_all(self, batch: FloatArray, outputs: tuple[str, ...]) -> tuple[FloatArray, ...]:
        """See ``engines.Engine.run_all``."""
        self.load()
        results = self._model.predict_on_batch(batch)
        return tuple(np.asarray(results[output], dtype=np.float32) for output in outputs)

    def head(self) -> tuple[FloatArray, FloatArray]:
        """See ``engines.Engine.head``."""
        layer = self._arrays["predictions"]
        return np.asarray(layer["kernel"], np.float32), np.asarray(layer["bias"], np.float32)
