"""Quantization of an ONNX graph to int8: which convolutions, with which ranges of values.

All convolutions are quantized except the first one and those of the head, where rounding costs the most agreement.
Their weights get a scale per output channel, and their inputs a scale and a zero point per tensor. Their outputs, batch
norms, and concatenations stay in float32: rounding the outputs would change as many labels as all else, and save no
time.

The values of an activation are rounded to 256 steps between the ends of its range, and clipped there. A range is taken
from images: of the minima and maxima of each image, it is the percentiles of ``PERCENTILE``. Two numbers per image and
activation are stored, so the memory does not grow with the size of the images.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from densenet_cli.engines.onnx_graph import INPUT
from densenet_cli.images.normalization import as_normalized
from densenet_cli.weights.file_identity import digest

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray
    from densenet_cli.engines import Normalization, Pixels

PERCENTILE = 99.0
"""Share in percent of the images whose largest value is not clipped. With 100, outliers would make all steps larger."""

MINIMA, MAXIMA = "minima", "maxima"
"""The outputs of ``add_extremes``."""

Ranges = dict[str, tuple[float, float]]
"""Name of a tensor -> the smallest and largest value that int8 represents. The former is at most 0."""


class Quantization(NamedTuple):
    """How a network is quantized, and how well.

    Attributes:
        ranges: The range of each activation.
        identical: The number of images whose top-1 label is that of float32.
        images: The number of images that this was measured on, which did not determine the ranges.
    """

    ranges: Ranges
    identical: int = 0
    images: int = 0

    @property
    def agreement(self) -> float:
        """The share of images whose top-1 label is that of float32."""
        return self.identical / self.images

    @property
    def key(self) -> str:
        """A hash of the ranges, 32 hexadecimal digits."""
        return digest(json.dumps(self.ranges, sort_keys=True).encode())

    def __str__(self) -> str:
        return f"int8 agrees with float32 on the top-1 label of {self.agreement:.1%} of {self.images} images"


def _convolutions(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the convolutions to quantize."""
    producers = {node.output[0]: node.op_type for node in graph.node}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    # Dense layers are convolutions after Unsqueeze.
    return [node for node in convolutions[1:] if producers[node.input[0]] != "Unsqueeze"]


def activations(model: onnx.ModelProto) -> list[str]:
    """Return the names of the tensors that are rounded: the inputs of the quantized convolutions."""
    return list(dict.fromkeys(node.input[0] for node in _convolutions(model.graph)))


def add_extremes(model: onnx.ModelProto) -> None:
    """Add the outputs ``MINIMA`` and ``MAXIMA`` of all images in a batch, (activations, 1, 1, 1)."""
    names = activations(model)
    for output, op_type in ((MINIMA, "ReduceMin"), (MAXIMA, "ReduceMax")):
        extremes = [f"{name}/{output}" for name in names]
        reductions = [
            helper.make_node(op_type, [name], [extreme], keepdims=1)
            for name, extreme in zip(names, extremes, strict=True)
        ]
        model.graph.node.extend([*reductions, helper.make_node("Concat", extremes, [output], axis=0)])
        shape: list[str | int | None] = [len(names), 1, 1, 1]
        model.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, shape))


class Observer:
    """Computes a network in float32, and the extremes of its activations.

    Args:
        model: The path or content of a graph of ``onnx_graph.emit``.
        normalization: The mean and standard deviation of each channel.

    Attributes:
        names: The names of the activations.
    """

    def __init__(self, model: str | bytes, normalization: Normalization) -> None:
        import onnxruntime

        graph = load_model(model)
        self.names = activations(graph)
        add_extremes(graph)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._normalization = normalization

    def probabilities(self, pixels: Pixels) -> FloatArray:
        """Return the probabilities of images, (images, classes). Thread-safe."""
        return np.concatenate([self._run(image, "probabilities")[0] for image in pixels])

    def extremes(self, pixels: Pixels) -> FloatArray:
        """Return the minima and maxima of images, (images, 2, activations). Thread-safe."""
        return np.stack([np.reshape(self._run(image, MINIMA, MAXIMA), (2, -1)) for image in pixels])

    def _run(self, image: Pixels, *outputs: str) -> list[FloatArray]:
        pixels = as_normalized(image[None], self._normalization)
        results: list[FloatArray] = self._session.run(
            outputs, {INPUT: np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))}
        )
        return results


def load_model(model: str | bytes) -> onnx.ModelProto:
    """Read a graph, given as its path or content."""
    return onnx.load(model) if isinstance(model, str) else onnx.load_from_string(model)


def to_ranges(names: Sequence[str], extremes: FloatArray) -> Ranges:
    """Return the ranges of activations from their extremes in images, (images, 2, activations)."""
    lower = np.minimum(np.percentile(extremes[:, 0], 100 - PERCENTILE, axis=0), 0)
    upper = np.maximum(np.percentile(extremes[:, 1], PERCENTILE, axis=0), 0)
    return {name: (float(low), float(high)) for name, low, high in zip(names, lower, upper, strict=True)}


def quantize(model: onnx.ModelProto, ranges: Ranges) -> None:
    """Quantize the convolutions of a graph. Engines compute a convolution after such nodes with integers.

    Args:
        model: A graph of ``onnx_graph.emit``. It is changed.
        ranges: The range of each of its ``activations``.
    """
    graph = model.graph
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    kernels = {node.output[0]: node.input[1] for node in _convolutions(graph)}
    nodes: list[onnx.NodeProto] = []
    rounded: dict[str, str] = {}
    for node in graph.node:
        output = node.output[0]
        if output in kernels:
            nodes += _quantize_kernel(graph, arrays[kernels[output]])
            node.input[1] = nodes[-1].output[0]
        for position, name in enumerate(node.input):
            node.input[position] = rounded.get(name, name)
        nodes.append(node)
        if output in ranges:
            nodes += _round(graph, output, *ranges[output])
            rounded[output] = nodes[-1].output[0]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _quantize_kernel(graph: onnx.GraphProto, tensor: onnx.TensorProto) -> list[onnx.NodeProto]:
    """Replace a kernel, (output channels, ...), by integers with a scale per output channel."""
    name, kernel = tensor.name, numpy_helper.to_array(tensor)
    graph.initializer.remove(tensor)
    scales = _positive(np.abs(kernel).reshape(len(kernel), -1).max(axis=1) / 127)
    steps = np.rint(kernel / scales.reshape(-1, *[1] * (kernel.ndim - 1))).clip(-127, 127).astype(np.int8)
    inputs = _add(graph, name, int8=steps, scale=scales, zero=np.zeros(len(scales), np.int8))
    return [helper.make_node("DequantizeLinear", inputs, [f"{name}/rounded"], axis=0)]


def _round(graph: onnx.GraphProto, name: str, low: float, high: float) -> list[onnx.NodeProto]:
    """Return nodes that round a tensor to 256 steps between ``low`` and ``high``."""
    scale = _positive(np.asarray((high - low) / 255))
    inputs = _add(graph, name, scale=scale, zero=np.asarray(np.rint(-low / scale), np.uint8))
    return [
        helper.make_node("QuantizeLinear", [name, *inputs], [f"{name}/uint8"]),
        helper.make_node("DequantizeLinear", [f"{name}/uint8", *inputs], [f"{name}/rounded"]),
    ]


def _add(graph: onnx.GraphProto, name: str, **arrays: np.ndarray[Any, Any]) -> list[str]:
    """Add constants to a graph and return their names."""
    graph.initializer.extend(numpy_helper.from_array(array, f"{name}/{part}") for part, array in arrays.items())
    return [f"{name}/{part}" for part in arrays]


def _positive(scale: np.ndarray[Any, Any]) -> FloatArray:
    """Return scales as float32, at least a tiny number where all values are 0."""
    return np.asarray(np.maximum(scale, 1e-12), np.float32)


@dataclass(frozen=True)
class QuantizationWriter:
    """Implements ``graph_cache.GraphMaker``: stores a quantization beside the graph that it belongs to.

    Attributes:
        name: The package and its version that the agreement was measured with, and what the ranges depend on.
        quantization: The quantization.
    """

    name: str
    quantization: Quantization

    dense_as_conv: ClassVar[bool] = True

    def write(self, model: str | bytes, folder: Path) -> tuple[str, ...]:
        """See ``graph_cache.GraphMaker.write``."""
        (folder / "quantization.json").write_text(json.dumps(self.quantization._asdict()))
        return ("quantization.json",)


def read_quantization(path: Path) -> Quantization:
    """Read what ``QuantizationWriter`` stored. Raises ``OSError`` or ``ValueError``."""
    values = json.loads(path.read_bytes())
    ranges = {str(name): (float(low), float(high)) for name, (low, high) in values["ranges"].items()}
    return Quantization(ranges, int(values["identical"]), int(values["images"]))
