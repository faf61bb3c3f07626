"""The default engine: ONNX Runtime on the graph that ``onnx_graph`` emits, optimised once and cached."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from densenet_cli.engines import graph_cache
from densenet_cli.topology import DenseNetConfig

if TYPE_CHECKING:
    from densenet_cli.engines import FloatArray


class OnnxEngine:
    """See ``engines.Engine``. Made from the cached graph's record alone, where there is one."""

    def __init__(self, weights: Path, config: DenseNetConfig | None, threads: int) -> None:
        self._graph = graph_cache.obtain(weights, config)
        self.config, self.metadata = self._graph.config, self._graph.metadata
        self._made_from = (weights, config)
        self._threads = threads
        self._session: Any = None

    def load(self) -> None:
        """Make the session."""
        if self._session is not None:
            return
        try:
            self._session = _session(self._graph, self._threads)
        except Exception:  # ONNX Runtime has no one class for a graph that another process has just removed
            if not self._graph.optimised:
                raise
            self._graph = graph_cache.without_cache(*self._made_from)
            self._session = _session(self._graph, self._threads)

    def run(self, batch: FloatArray, output: str = "probabilities") -> FloatArray:
        """See ``engines.Engine.run``. The same picture gives the same bits in any batch, with any threads."""
        import numpy as np

        self.load()
        pixels = np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
        result: FloatArray = self._session.run([output], {"pixels": pixels})[0]
        return result


def _session(graph: graph_cache.CachedGraph, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Decoding threads need the cores that a spinning pool would hold.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if graph.optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(graph.model, options, providers=["CPUExecutionProvider"])
