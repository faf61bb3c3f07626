"""The engines: each runs a checkpoint's network on batches of pixels. A table; a third one is one more row."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from densenet_cli.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from densenet_cli.topology import DenseNetConfig
    from densenet_cli.weights.checkpoint import ModelMetadata

    FloatArray = np.ndarray[Any, np.dtype[np.float32]]


# Since 1.29 ONNX Runtime reports what it runs to its makers unless it is told otherwise before it is imported: nothing
# may leave the machine that nobody asked for, and it takes 20 ms of every start.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


class Engine(Protocol):
    """One network with its weights. Made quickly; what is slow to load is loaded by ``load``.

    Attributes:
        config: the network that the checkpoint holds.
        metadata: what the checkpoint says of itself (labels, preprocessing, ...).
    """

    config: DenseNetConfig
    metadata: ModelMetadata

    def load(self) -> None:
        """Get ready to run. ``run`` calls it where nobody else has."""
        ...

    def run(self, batch: FloatArray, output: str = "probabilities") -> FloatArray:
        """One output of ``run_all``."""
        ...

    def run_all(self, batch: FloatArray, outputs: tuple[str, ...]) -> tuple[FloatArray, ...]:
        """Put pixels through the network, once for all outputs.

        Args:
            batch: normalized RGB, (images, height, width, 3).
            outputs: names among ``OUTPUTS``.

        Returns:
            float32 for each name: ``probabilities`` and ``logits`` (images, classes), ``features``
            (images, rows, columns, channels).
        """
        ...

    def head(self) -> tuple[FloatArray, FloatArray]:
        """The dense layer behind the average of ``features``: kernel (channels, classes), bias (classes,), float32.

        ``features.mean(axis=(1, 2)) @ kernel + bias`` are the logits.
        """
        ...


OUTPUTS = ("probabilities", "logits", "features")
"""What a network gives. ``features`` are the last maps (behind batch norm and ReLU), which the head averages."""

EMITTER_VERSION = 2
"""Goes up whenever ``onnx_graph`` emits another graph from the same arrays: cached graphs are then made anew."""

ENGINES = {
    "onnx": "densenet_cli.engines.onnx:OnnxEngine",
    "tensorflow": "densenet_cli.engines.tensorflow:TensorFlowEngine",
}
"""Name -> the class, imported when it is asked for: ``Class(weights, config, threads)``."""

DEFAULT = "onnx"


def create(name: str, weights: Path, config: DenseNetConfig | None, threads: int) -> Engine:
    """The engine called ``name`` on a checkpoint.

    Args:
        name: a key of ``ENGINES``; raises ``UsageError`` for any other.
        weights: the checkpoint's file; raises ``CheckpointError`` where it can't be used.
        config: the network it has to hold; None where the checkpoint itself tells.
        threads: how many to compute with, at least 1.
    """
    if name not in ENGINES:
        raise UsageError(f"There is no engine {name!r}; there are {', '.join(ENGINES)}.")
    module, _, attribute = ENGINES[name].partition(":")
    engine: Engine = getattr(importlib.import_module(module), attribute)(weights, config, threads)
    return engine
