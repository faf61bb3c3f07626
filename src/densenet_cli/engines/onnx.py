"""The default engine: ONNX Runtime on the graph that ``onnx_graph`` emits, optimized once and cached."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densenet_cli.engines import graph_cache
from densenet_cli.topology import DenseNetConfig

if TYPE_CHECKING:
    from densenet_cli.engines import FloatArray


class OnnxEngine:
    """See ``engines.Engine``. Made from the cached graph's record alone, where there is one.

    A single image is computed by all threads together, for the quickest answer. Of several, each thread computes
    its own: no thread waits for another within an image, which is a tenth faster.
    """

    def __init__(self, weights: Path, config: DenseNetConfig | None, threads: int) -> None:
        self._graph = graph_cache.obtain(weights, config)
        self.config, self.metadata = self._graph.config, self._graph.metadata
        self._made_from = (weights, config)
        self._threads = threads
        self._together: Any = None
        self._alone: Any = None

    def load(self) -> None:
        """Make the session."""
        if self._together is not None:
            return
        try:
            self._together = _session(self._graph, self._threads)
        except Exception:  # ONNX Runtime has no one class for a graph that another process has just removed
            if not self._graph.optimized:
                raise
            self._graph = graph_cache.without_cache(*self._made_from)
            self._together = _session(self._graph, self._threads)

    def run(self, batch: FloatArray, output: str = "probabilities") -> FloatArray:
        """See ``engines.Engine.run``."""
        return self.run_all(batch, (output,))[0]

    def run_all(self, batch: FloatArray, outputs: tuple[str, ...]) -> tuple[FloatArray, ...]:
        """See ``engines.Engine.run_all``. The same image gives the same bits in any batch, with any threads."""
        import numpy as np

        self.load()
        threads = min(self._threads, len(batch))
        if threads == 1:
            return _compute(self._together, batch, outputs)
        if self._alone is None:
            self._alone = _session(self._graph, 1)
        rows: list[tuple[FloatArray, ...]] = [()] * len(batch)
        images = iter(range(len(batch)))  # the next one is whoever's is done first: C code, so one at a time
        failures: list[BaseException] = []

        def work() -> None:
            try:
                for image in images:
                    rows[image] = _compute(self._alone, batch[image : image + 1], outputs)
            except BaseException as error:  # goes on in the caller's thread
                failures.append(error)

        helpers = [threading.Thread(target=work, daemon=True) for _ in range(threads - 1)]
        try:
            for helper in helpers:
                helper.start()
            work()
        finally:
            for _ in images:  # none is left to begin, however this ended
                pass
            _join(helpers)
        if failures:
            raise failures[0]
        return tuple(np.concatenate(column) for column in zip(*rows, strict=True))

    def head(self) -> tuple[FloatArray, FloatArray]:
        """See ``engines.Engine.head``: a few megabytes from the cached graph's folder."""
        try:
            array = self._graph.load_head()
        except (OSError, ValueError):  # another process has just removed it
            array = graph_cache.without_cache(*self._made_from).load_head()
        return array[:-1], array[-1]


def _join(helpers: list[threading.Thread]) -> None:
    """Wait for threads even through Ctrl-C: one left inside ONNX Runtime would abort the interpreter as it ends."""
    interrupted: KeyboardInterrupt | None = None
    for helper in helpers:
        while helper.is_alive():
            try:
                helper.join()
            except KeyboardInterrupt as error:
                interrupted = error
    if interrupted:
        raise interrupted


def _compute(session: Any, batch: FloatArray, outputs: tuple[str, ...]) -> tuple[FloatArray, ...]:
    import numpy as np

    pixels = np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
    results: list[FloatArray] = session.run(list(outputs), {"pixels": pixels})
    # Maps come channels first. One layout for all: how numpy adds up, and so the last bits of a sum, depend on it.
    return tuple(np.ascontiguousarray(np.moveaxis(result, 1, -1)) for result in results)


def _session(graph: graph_cache.CachedGraph, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Decoding threads need the cores that a spinning pool would hold.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if graph.optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(graph.model, options, providers=["CPUExecutionProvider"])
