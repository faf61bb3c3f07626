"""Engines: implementations that run a network on batches of pixels. ``ENGINES`` is the table of them."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from densenet_cli.errors import UsageError

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray, UInt8Array
    from densenet_cli.topology import DenseNetConfig
    from densenet_cli.weights.contents import Arrays, ModelMetadata

    Pixels = FloatArray | UInt8Array

# ONNX Runtime 1.29 and later sends usage data unless this is set before its import. No data may leave the machine
# unasked, and the telemetry takes 20 ms of every start.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

BATCH_SIZE = 8
"""Default number of images per batch."""


Normalization = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, for pixels in [0, 1]."""


class Engine(Protocol):
    """A network with its weights. Creating one is fast; ``load`` does what is slow.

    Attributes:
        config: The configuration of the network in the checkpoint.
        metadata: What the checkpoint states besides it (labels, preprocessing, ...).
        normalization: The mean and standard deviation of each channel, with which ``run`` normalizes uint8 pixels.
        concurrent: Whether several threads may call ``run`` at the same time. This is then faster than batches.
    """

    concurrent: bool
    normalization: Normalization
    config: DenseNetConfig
    metadata: ModelMetadata

    def load(self) -> None:
        """Prepare for ``run``, which calls it if necessary."""
        ...

    def run(
        self, batch: Pixels, outputs: tuple[str, ...] = ("probabilities",), *, alone: bool = True
    ) -> dict[str, FloatArray]:
        """Run the network once and return the named outputs.

        Args:
            batch: Pixels as uint8, or normalized as float32, of shape (images, height, width, channels).
            outputs: Names from ``available_outputs(config)``.
            alone: No other thread calls ``run`` at the same time, so this call may use all threads.

        Returns:
            Name -> float32 array: ``probabilities`` and ``logits`` (images, classes), ``features`` (images, rows,
            columns, channels).
        """
        ...

    def head(self) -> Arrays:
        """Return the arrays of the head's layers, by the names of ``config.head_layers``."""
        ...


OUTPUTS = ("probabilities", "logits", "features")
"""The outputs of a network. ``features`` are the last feature maps, after batch norm and ReLU, which the head pools."""

EMITTER_VERSION = 4
"""Must be increased if ``onnx_graph`` or ``int8_graph`` makes a different graph of the same arrays. Cached graphs then
become stale."""

ENGINES = {
    "onnx": "densenet_cli.engines.onnx:OnnxEngine",
    "openvino": "densenet_cli.engines.openvino:OpenVinoEngine",
    "tensorflow": "densenet_cli.engines.tensorflow:TensorFlowEngine",
}
"""Name -> class, which is imported when it is needed. See ``create`` for the arguments."""

DEFAULT = "onnx"

PRECISIONS = ("float32", "bfloat16", "int8")
PRECISION_CHOICES = (*PRECISIONS, "auto")
"""``auto`` is the fastest precision on this processor that requires no images, so never int8."""


def available_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


CORES_PER_PROCESS = {"float32": 32, "bfloat16": 16, "int8": 24}
"""Precision -> number of cores that one process can use: the GIL allows no more. Measured with DenseNet-121 by
``benchmarks/many_cores.py``, and for int8 estimated from the time of an image."""


def choose_processes(threads: int, precision: str) -> int:
    """Return the number of processes that use all cores for a number of threads: 1 for fewer than 24 cores."""
    return max(1, round(min(threads, available_cores()) / CORES_PER_PROCESS[precision]))


def available_outputs(config: DenseNetConfig) -> tuple[str, ...]:
    """Return the outputs of a network: ``OUTPUTS``, or only ``features`` if it has no head."""
    return OUTPUTS if config.classes else ("features",)


def create(
    name: str,
    weights: Path,
    config: DenseNetConfig | None,
    threads: int,
    activation: str | None = None,
    precision: str = "float32",
) -> Engine:
    """Create an engine for a checkpoint.

    Args:
        name: A key of ``ENGINES``.
        weights: The path of the checkpoint.
        config: The network that the checkpoint must contain, with any head, or None to infer it.
        threads: The number of threads to compute with, at least 1.
        activation: See ``weights.checkpoint.read``.
        precision: ``float32``, or for OpenVINO another one of ``PRECISIONS``.

    Raises:
        UsageError: The engine does not exist, or ``activation`` contradicts the file.
        CheckpointError: The checkpoint cannot be used.
    """
    if name not in ENGINES:
        raise UsageError(f"Unknown engine {name!r}. Choose from {', '.join(ENGINES)}.")
    module, _, class_name = ENGINES[name].partition(":")
    arguments = (weights, config, threads, activation, *((precision,) if name == "openvino" else ()))
    engine: Engine = getattr(importlib.import_module(module), class_name)(*arguments)
    return engine
