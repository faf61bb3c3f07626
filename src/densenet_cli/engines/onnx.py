"""The default engine: ONNX Runtime with the graph of ``onnx_graph``, which is optimized once and cached."""

from __future__ import annotations

import threading
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from densenet_cli.engines import Normalization, available_cores, graph_cache
from densenet_cli.images.normalization import MEAN, STD, as_normalized
from densenet_cli.topology import DenseNetConfig

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray
    from densenet_cli.engines import Pixels
    from densenet_cli.weights.contents import Arrays

MODEL_FILE, DATA_FILE = "model.onnx", "model.data"


class OnnxEngine:
    """Implements ``engines.Engine``. If the graph is cached, creating the engine only reads the cache entry.

    All threads process a single image together, for the lowest latency. If there are more, each thread processes one at
    a time: no thread waits for another within an image, which increases the throughput by 10%.
    """

    concurrent = True

    def __init__(self, weights: Path, config: DenseNetConfig | None, threads: int, activation: str | None) -> None:
        self._graph = graph_cache.get_graph(weights, config, activation, GraphOptimizer())
        self.config, self.metadata = self._graph.config, self._graph.metadata
        self._checkpoint = (weights, config, activation, GraphOptimizer())
        self.normalization: Normalization = (MEAN, STD)
        self._threads = threads
        self._multi_threaded: Any = None
        self._single_threaded: Any = None
        self._lock = threading.Lock()
        # More calls at the same time than cores are not faster and need more memory.
        self._permits: SimpleQueue[None] = SimpleQueue()
        for _ in range(min(threads, available_cores())):
            self._permits.put(None)

    def load(self) -> None:
        """Create the session."""
        with self._lock:
            if self._multi_threaded is None:
                self._multi_threaded = self._create_session(self._threads)

    def _create_session(self, threads: int) -> Any:
        try:
            return _session(self._graph, threads)
        except Exception:  # ONNX Runtime has no specific class for a graph that another process has just removed
            if not self._graph.optimized:
                raise
            self._graph = graph_cache.create_graph(*self._checkpoint)
            return _session(self._graph, threads)

    def run(
        self, batch: Pixels, outputs: tuple[str, ...] = ("probabilities",), *, alone: bool = True
    ) -> dict[str, FloatArray]:
        """See ``engines.Engine.run``. An image gives the same bits in every batch and with any number of threads."""
        self.load()
        batch = as_normalized(batch, self.normalization)
        permit = self._permits.get()
        try:
            session = self._multi_threaded if alone or self._threads == 1 else self._get_single_threaded()
            rows = [_compute(session, batch[index : index + 1], outputs) for index in range(len(batch))]
        finally:
            self._permits.put(permit)
        return {name: np.concatenate(column) for name, column in zip(outputs, zip(*rows, strict=True), strict=True)}

    def _get_single_threaded(self) -> Any:
        with self._lock:
            if self._single_threaded is None:
                self._single_threaded = self._create_session(1)
            return self._single_threaded

    def head(self) -> Arrays:
        """See ``engines.Engine.head``."""
        return graph_cache.read_head(self._graph, *self._checkpoint)


def _compute(session: Any, batch: FloatArray, outputs: tuple[str, ...]) -> tuple[FloatArray, ...]:
    pixels = np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
    results: list[FloatArray] = session.run(list(outputs), {"pixels": pixels})
    # Features have their channels first. The memory layout must be the same for every batch size, because the order in
    # which numpy adds, and so the last bits of a sum, depend on it.
    return tuple(np.ascontiguousarray(np.moveaxis(result, 1, -1)) for result in results)


def _session(graph: graph_cache.CachedGraph, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Threads that spin while they wait would take the cores from the decoding threads.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if graph.optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(graph.model, options, providers=["CPUExecutionProvider"])


class GraphOptimizer:
    """Implements ``graph_cache.GraphMaker``: lets ONNX Runtime optimize a graph once."""

    dense_as_conv = False

    @property
    def name(self) -> str:
        """See ``graph_cache.GraphMaker``."""
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"

    def write(self, model: str | bytes, folder: Path) -> tuple[str, ...]:
        """See ``graph_cache.GraphMaker.write``."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(folder / MODEL_FILE)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", DATA_FILE)
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        try:
            onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has no specific class for a full disk
            raise OSError(str(error)) from error
        return MODEL_FILE, DATA_FILE
