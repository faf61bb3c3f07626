"""The engine for reduced precision: OpenVINO with the graph of ``onnx_graph``, compiled once and cached.

Every precision gives the same bits for every number of threads, because each image is computed alone by one thread,
and the dense layers are emitted as convolutions (OpenVINO's matrix product depends on the batch).
"""

from __future__ import annotations

import io
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from densenet_cli import __version__
from densenet_cli.engines import Normalization, available_cores, graph_cache
from densenet_cli.images.normalization import MEAN, STD

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray
    from densenet_cli.engines import Pixels
    from densenet_cli.engines.int8_graph import Quantization
    from densenet_cli.weights.contents import Arrays

PRECISION_HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
"""Precision -> OpenVINO's name; for int8, that of what is not quantized. Without a hint, OpenVINO uses bfloat16 even
where the processor only emulates it."""


def import_openvino() -> Any:
    """Import OpenVINO without its converter, which sends usage data and takes half of the time.

    The converter imports ``openvino_telemetry``, which writes to the home folder and queues a message to a third party.
    """
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    converter = "openvino.tools.ovc"
    sys.modules[converter] = None  # type: ignore[assignment]  # lets its import fail, which OpenVINO handles
    try:
        import openvino
    finally:
        del sys.modules[converter]
    return openvino


_core_lock = threading.Lock()


def get_core() -> Any:
    """Return the process' only ``openvino.Core``, which is never deleted. Thread-safe.

    The CPU plugin of a core replaces the signal stack (``sigaltstack``) of the thread that loads it, and restores the
    previous one when it is unloaded. With two plugins, that can be the stack of the first one, which no longer exists:
    then the next signal, such as Ctrl-C, ends the process with SIGSEGV or overwrites other memory.
    """
    with _core_lock:
        return _create_core()


@cache
def _create_core() -> Any:
    return import_openvino().Core()


class OpenVinoEngine:
    """Implements ``engines.Engine``.

    A network is compiled for one input: its height, width, channels, and type. Others are compiled when they occur.

    Attributes:
        quantization: For int8, how the network is quantized. It must be set before ``run``.
    """

    concurrent = True

    def __init__(
        self, weights: Path, config: Any, threads: int, activation: str | None, precision: str = "float32"
    ) -> None:
        self._graph = graph_cache.get_graph(weights, config, activation, GraphWriter())
        self.config, self.metadata = self._graph.config, self._graph.metadata
        self.normalization: Normalization = (MEAN, STD)
        self._checkpoint = (weights, config, activation, GraphWriter())
        self._precision = precision
        self.quantization: Quantization | None = None
        # More inferences at the same time than cores are not faster and need more memory.
        self._threads = min(threads, available_cores())
        self._networks: dict[tuple[object, ...], _Network] = {}
        self._lock = threading.Lock()

    def load(self) -> None:
        """Import OpenVINO. Networks are compiled when the shape of the first image is known."""
        import_openvino()

    def run(
        self, batch: Pixels, outputs: tuple[str, ...] = ("probabilities",), *, alone: bool = True
    ) -> dict[str, FloatArray]:
        """See ``engines.Engine.run``. An image gives the same bits in every batch and with any number of threads."""
        network = self._network(batch)
        rows = [network.run(batch[index : index + 1], outputs) for index in range(len(batch))]
        return {name: np.concatenate(column) for name, column in zip(outputs, zip(*rows, strict=True), strict=True)}

    def head(self) -> Arrays:
        """See ``engines.Engine.head``."""
        return graph_cache.read_head(self._graph, *self._checkpoint)

    def _network(self, batch: Pixels) -> _Network:
        """Return the compiled network for images like those of a batch."""
        key = (batch.shape[1:], batch.dtype.str)
        if (network := self._networks.get(key)) is None:
            with self._lock:
                if (network := self._networks.get(key)) is None:
                    network = self._networks[key] = self._compile(batch)
        return network

    def _compile(self, batch: Pixels) -> _Network:
        assert (self._precision == "int8") == (self.quantization is not None)
        is_uint8 = batch.dtype == np.uint8
        compiler = Compiler(self._precision, batch.shape[1:], is_uint8, self.normalization, self.quantization)
        options = {
            **compiler.options,
            "NUM_STREAMS": self._threads,
            "INFERENCE_NUM_THREADS": self._threads,
            "ENABLE_CPU_PINNING": False,  # pinned threads would compete with those that decode
        }
        try:
            path = str(graph_cache.convert_graph(self._graph, compiler).model)
            compiled = get_core().import_model(io.BytesIO(Path(path).read_bytes()), "CPU", options)
        except (OSError, RuntimeError):  # the cache cannot be written, or another process has just changed it
            compiled = get_core().compile_model(compiler.build(self.get_model()), "CPU", options)
        return _Network(compiled, self._threads, batch[:1])

    def get_model(self) -> str | bytes:
        """Return the path or the content of the ONNX graph in float32, with dense layers as convolutions."""
        model = self._graph.model
        if isinstance(model, str) and not Path(model).exists():  # another process has just removed it
            return graph_cache.create_graph(*self._checkpoint).model
        return model

    def find_quantization(self, key: str) -> Quantization | None:
        """Return the last quantization in the cache that was stored with a key, or with one that starts with it."""
        from densenet_cli.engines.int8_graph import read_quantization

        cached = graph_cache.find_converted(self._graph, _quantization_name(key))
        try:
            return read_quantization(Path(str(cached.model))) if cached else None
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None

    def store_quantization(self, key: str, quantization: Quantization) -> None:
        """Add a quantization to the cache. Do nothing if the cache cannot be written."""
        from densenet_cli.engines.int8_graph import QuantizationWriter

        with suppress(OSError):
            graph_cache.convert_graph(self._graph, QuantizationWriter(_quantization_name(key), quantization))


def _quantization_name(key: str) -> str:
    return f"openvino {_version()} quantization {key}"


def _version() -> str:
    return str(import_openvino().__version__).partition("-")[0]


class _Network:
    """A compiled network, and as many requests as threads may use it at the same time."""

    def __init__(self, compiled: Any, requests: int, example: Pixels) -> None:
        self._indices = {output.any_name: index for index, output in enumerate(compiled.outputs)}
        self._requests: SimpleQueue[Any] = SimpleQueue()
        self._tensor = import_openvino().Tensor
        for _ in range(requests):
            self._requests.put(compiled.create_infer_request())
        # OpenVINO's Python binding deadlocks if several threads make the first call.
        self.run(example, tuple(self._indices))

    def run(self, image: Pixels, outputs: tuple[str, ...]) -> tuple[FloatArray, ...]:
        """Process one image, (1, height, width, channels). Thread-safe."""
        # The request uses the memory of the pixels. Those of a worker process cannot be written to, which it requires.
        pixels = np.require(image, requirements=["C_CONTIGUOUS", "WRITEABLE"])
        request = self._requests.get()
        try:
            request.set_input_tensor(self._tensor(pixels, shared_memory=True))
            request.infer()
            # Features have their channels first.
            arrays = [request.get_output_tensor(self._indices[name]).data for name in outputs]
            return tuple(np.array(np.moveaxis(array, 1, -1), order="C") for array in arrays)
        finally:
            self._requests.put(request)


class GraphWriter:
    """Implements ``graph_cache.GraphMaker``: stores the graph as it is, to compile it for any input."""

    name = f"densenet-cli {__version__} graph"
    dense_as_conv = True

    def write(self, model: str | bytes, folder: Path) -> tuple[str, ...]:
        """See ``graph_cache.GraphMaker.write``."""
        assert isinstance(model, bytes)
        (folder / "model.onnx").write_bytes(model)
        return ("model.onnx",)


@dataclass(frozen=True)
class Compiler:
    """Implements ``graph_cache.GraphMaker``: compiles a graph for one kind of input.

    Attributes:
        precision: A key of ``PRECISION_HINTS``.
        shape: (height, width, channels) of an image.
        is_uint8: Whether the input is uint8 and normalized by the network, or float32 and already normalized.
        normalization: The mean and standard deviation of each channel.
        quantization: How the network is quantized, for int8.
    """

    precision: str
    shape: tuple[int, ...]
    is_uint8: bool
    normalization: Normalization
    quantization: Quantization | None = None

    dense_as_conv: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """See ``graph_cache.GraphMaker``."""
        input_type = f"uint8 {self.normalization}" if self.is_uint8 else "float32"
        precision = f"{self.precision} {self.quantization.key}" if self.quantization else self.precision
        return f"openvino {_version()} {precision} {'x'.join(map(str, self.shape))} {input_type}"

    @property
    def options(self) -> dict[str, Any]:
        """OpenVINO's options for the precision."""
        return {"INFERENCE_PRECISION_HINT": PRECISION_HINTS[self.precision]}

    def build(self, model: str | bytes) -> Any:
        """Return the model with a fixed input: images with their channels last, as they are decoded."""
        openvino = import_openvino()
        from openvino.preprocess import PrePostProcessor

        if self.quantization:
            from densenet_cli.engines import int8_graph

            graph = int8_graph.load_model(model)
            int8_graph.quantize(graph, self.quantization.ranges)
            model = graph.SerializeToString()
        built = get_core().read_model(model)
        height, width, channels = self.shape
        built.reshape([1, channels, height, width])
        steps = PrePostProcessor(built)
        steps.input().model().set_layout(openvino.Layout("NCHW"))
        tensor = steps.input().tensor().set_layout(openvino.Layout("NHWC"))
        if self.is_uint8:
            tensor.set_element_type(openvino.Type.u8)
            mean, std = ([255 * value for value in values] for values in self.normalization)
            steps.input().preprocess().convert_element_type(openvino.Type.f32).mean(mean).scale(std)
        return steps.build()

    def write(self, model: str | bytes, folder: Path) -> tuple[str, ...]:
        """See ``graph_cache.GraphMaker.write``."""
        compiled = get_core().compile_model(self.build(model), "CPU", self.options)
        (folder / "model.blob").write_bytes(compiled.export_model().getvalue())
        return ("model.blob",)
