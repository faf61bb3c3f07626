"""The reference engine: the Keras model on TensorFlow.

It starts slowly. Its purpose is comparison with the default engine. Training and export import Keras from here as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from densenet_cli.engines import Normalization, available_outputs
from densenet_cli.images.normalization import MEAN, STD, as_normalized
from densenet_cli.topology import DenseNetConfig
from densenet_cli.weights import checkpoint

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray
    from densenet_cli.engines import Pixels
    from densenet_cli.weights.contents import Arrays


def import_keras() -> None:
    """Import Keras without log messages, on the backend named by ``KERAS_BACKEND``, else TensorFlow.

    This takes seconds.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with silenced():
        import keras  # noqa: F401


@contextmanager
def silenced() -> Iterator[None]:
    """Discard everything that this process writes to standard error, including output of C++ code.

    TensorFlow writes some lines regardless of its log level.
    """
    stderr = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


class TensorFlowEngine:
    """Implements ``engines.Engine``."""

    concurrent = False  # TensorFlow is fastest with batches

    def __init__(self, weights: Path, config: DenseNetConfig | None, threads: int, activation: str | None) -> None:
        loaded = checkpoint.read(weights, config, activation, allow_unsupported_head=True)
        self.config, self.metadata = loaded.config, loaded.metadata
        self._arrays = loaded.arrays
        self.normalization: Normalization = (MEAN, STD)
        self._threads = threads
        self._model: Any = None

    def load(self) -> None:
        """Import TensorFlow and build the model."""
        if self._model is not None:
            return
        os.environ["KERAS_BACKEND"] = "tensorflow"
        import_keras()
        import tensorflow as tf

        try:
            tf.config.threading.set_intra_op_parallelism_threads(self._threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        except RuntimeError:
            pass  # TensorFlow already runs in this process, so its threads cannot be changed.
        from densenet_cli.engines import keras_ops

        self._model = keras_ops.build_model(self.config, available_outputs(self.config))
        keras_ops.set_arrays(self._model, self._arrays)

    def run(
        self, batch: Pixels, outputs: tuple[str, ...] = ("probabilities",), *, alone: bool = True
    ) -> dict[str, FloatArray]:
        """See ``engines.Engine.run``."""
        self.load()
        results = self._model.predict_on_batch(as_normalized(batch, self.normalization))
        return {output: np.asarray(results[output], dtype=np.float32) for output in outputs}

    def head(self) -> Arrays:
        """See ``engines.Engine.head``."""
        return {name: self._arrays[name] for name in self.config.head_layers if name in self._arrays}
