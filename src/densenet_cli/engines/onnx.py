"""The default engine: ONNX Runtime with the graph of ``onnx_graph``, which is optimized once and cached."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from densenet_cli.engines import graph_cache
from densenet_cli.topology import DenseNetConfig

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray
    from densenet_cli.weights.contents import Arrays


class OnnxEngine:
    """Implements ``engines.Engine``. If the graph is cached, creating the engine only reads the cache entry.

    All threads compute a single image together, for the lowest latency. If a batch has several images, each thread
    computes one at a time: no thread waits for another within an image, which increases the throughput by 10%.
    """

    def __init__(self, weights: Path, config: DenseNetConfig | None, threads: int, activation: str | None) -> None:
        self._graph = graph_cache.get_graph(weights, config, activation)
        self.config, self.metadata = self._graph.config, self._graph.metadata
        self._checkpoint = (weights, config, activation)
        self._threads = threads
        self._multi_threaded: Any = None
        self._single_threaded: Any = None

    def load(self) -> None:
        """Create the session."""
        if self._multi_threaded is not None:
            return
        try:
            self._multi_threaded = _session(self._graph, self._threads)
        except Exception:  # ONNX Runtime has no specific class for a graph that another process has just removed
            if not self._graph.optimized:
                raise
            self._graph = graph_cache.create_graph(*self._checkpoint)
            self._multi_threaded = _session(self._graph, self._threads)

    def run(self, batch: FloatArray, outputs: tuple[str, ...] = ("probabilities",)) -> dict[str, FloatArray]:
        """See ``engines.Engine.run``. An image gives the same bits in every batch and with any number of threads."""
        self.load()
        threads = min(self._threads, len(batch))
        if threads == 1:
            return dict(zip(outputs, _compute(self._multi_threaded, batch, outputs), strict=True))
        if self._single_threaded is None:
            self._single_threaded = _session(self._graph, 1)
        rows: list[tuple[FloatArray, ...]] = [()] * len(batch)
        indices = iter(range(len(batch)))  # shared by the threads: next() on it is atomic
        errors: list[BaseException] = []

        def work() -> None:
            try:
                for index in indices:
                    rows[index] = _compute(self._single_threaded, batch[index : index + 1], outputs)
            except BaseException as error:  # raised again in the calling thread
                errors.append(error)

        helpers = [threading.Thread(target=work, daemon=True) for _ in range(threads - 1)]
        try:
            for helper in helpers:
                helper.start()
            work()
        finally:
            for _ in indices:  # after an error, the helpers must not start another image
                pass
            _join(helpers)
        if errors:
            raise errors[0]
        return {name: np.concatenate(column) for name, column in zip(outputs, zip(*rows, strict=True), strict=True)}

    def head(self) -> Arrays:
        """See ``engines.Engine.head``."""
        try:
            return self._graph.load_head()
        except (OSError, ValueError):  # another process has just removed the cached graph
            return graph_cache.create_graph(*self._checkpoint).load_head()


def _join(threads: list[threading.Thread]) -> None:
    """Wait for threads, even after Ctrl-C: a thread inside ONNX Runtime would crash the interpreter at exit."""
    interrupt: KeyboardInterrupt | None = None
    for thread in threads:
        while thread.is_alive():
            try:
                thread.join()
            except KeyboardInterrupt as error:
                interrupt = error
    if interrupt:
        raise interrupt


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
