"""The op set that builds an ONNX graph straight from a checkpoint's arrays, without TensorFlow.

``emit`` builds the plain graph, then makes it cheaper by three rewrites, each an equality and not an
approximation: zero padding becomes the convolution's or the pool's own, a batch norm behind a convolution is
folded into its weights, and an average pool behind a 1x1 convolution moves before it (both are linear and act
on different axes: a quarter of the work).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from densenet_cli.engines import OUTPUTS
from densenet_cli.errors import CheckpointError
from densenet_cli.topology import BN_EPSILON, DenseNetConfig, build

if TYPE_CHECKING:
    from densenet_cli.weights.checkpoint import Arrays

INPUT = "pixels"
OPSET = 17
IR_VERSION = 8

BN_PARTS = ("gamma", "beta", "moving_mean", "moving_variance")


@dataclass(frozen=True)
class Tensor:
    """What an operation gives: the name of the node it comes from, and its number of feature maps."""

    name: str
    channels: int


@dataclass
class Node:
    """An operation: its ONNX kind, the nodes it reads, its arrays (further inputs, in order), its attributes."""

    kind: str
    inputs: list[str]
    arrays: list[np.ndarray[Any, Any]] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)


Graph = dict[str, Node]


class OnnxOps:
    """Puts a node a layer into ``graph``, under the layer's name. Channels first, which is what ONNX has."""

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        self.graph: Graph = {}

    def _add(
        self,
        name: str,
        kind: str,
        inputs: list[Tensor],
        channels: int,
        *arrays: np.ndarray[Any, Any],
        **attributes: Any,
    ) -> Tensor:
        self.graph[name] = Node(kind, [x.name for x in inputs], list(arrays), attributes)
        return Tensor(name, channels)

    def channels(self, x: Tensor) -> int:
        return x.channels

    def zero_pad(self, x: Tensor, name: str, *, padding: int) -> Tensor:
        pads = np.array([0, 0, padding, padding] * 2, dtype=np.int64)
        return self._add(name, "Pad", [x], x.channels, pads)

    def conv(self, x: Tensor, name: str, *, filters: int, kernel: int, stride: int = 1) -> Tensor:
        weights = self.arrays[name]["kernel"].transpose(3, 2, 0, 1)
        padding = kernel // 2 if stride == 1 else 0
        return self._add(
            name, "Conv", [x], filters, weights, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[padding] * 4
        )

    def batch_norm(self, x: Tensor, name: str) -> Tensor:
        parts = [self.arrays[name][part] for part in BN_PARTS]
        return self._add(name, "BatchNormalization", [x], x.channels, *parts, epsilon=BN_EPSILON)

    def relu(self, x: Tensor, name: str) -> Tensor:
        return self._add(name, "Relu", [x], x.channels)

    def _pool(self, kind: str, x: Tensor, name: str, size: int, stride: int) -> Tensor:
        return self._add(name, kind, [x], x.channels, kernel_shape=[size] * 2, strides=[stride] * 2, pads=[0] * 4)

    def max_pool(self, x: Tensor, name: str, *, size: int, stride: int) -> Tensor:
        return self._pool("MaxPool", x, name, size, stride)

    def avg_pool(self, x: Tensor, name: str, *, size: int, stride: int) -> Tensor:
        return self._pool("AveragePool", x, name, size, stride)

    def concat(self, x: Tensor, new: Tensor, name: str) -> Tensor:
        return self._add(name, "Concat", [x, new], x.channels + new.channels, axis=1)

    def global_avg_pool(self, x: Tensor, name: str) -> Tensor:
        maps = self._add(f"{name}_maps", "GlobalAveragePool", [x], x.channels)
        return self._add(name, "Flatten", [maps], x.channels)

    def dense(self, x: Tensor, name: str, *, units: int) -> Tensor:
        return self._add(name, "Gemm", [x], units, self.arrays[name]["kernel"], self.arrays[name]["bias"])

    def softmax(self, x: Tensor, name: str) -> Tensor:
        return self._add(name, "Softmax", [x], x.channels, axis=-1)


def absorb_padding(graph: Graph) -> None:
    """Make zero padding the convolution's or max-pool's own.

    ONNX pads a max-pool with minus infinity; behind a ReLU, where the stem's stands, that is as good as zero.
    """
    for node in graph.values():
        before = graph.get(node.inputs[0])
        if before and before.kind == "Pad" and node.kind in ("Conv", "MaxPool"):
            padding = int(before.arrays[0][-1])
            node.attributes["pads"] = [own + padding for own in node.attributes["pads"]]
            node.inputs = list(before.inputs)
    for name in [name for name, node in graph.items() if node.kind == "Pad"]:
        del graph[name]


def fold_batch_norms(graph: Graph) -> None:
    """Fold a batch norm into the convolution before it, where nobody else reads that convolution.

    gamma (Wx - mean) / sqrt(variance + epsilon) + beta is a convolution again, now with a bias; in float64.
    """
    readers = Counter(name for node in graph.values() for name in node.inputs)
    for name, node in list(graph.items()):
        source = node.inputs[0]
        if node.kind != "BatchNormalization" or graph[source].kind != "Conv" or readers[source] > 1:
            continue
        gamma, beta, mean, variance = (part.astype(np.float64) for part in node.arrays)
        scale = gamma / np.sqrt(variance + node.attributes["epsilon"])
        kernel = graph[source].arrays[0] * scale[:, None, None, None]
        graph[name] = Node("Conv", graph[source].inputs, [kernel, beta - mean * scale], graph[source].attributes)
        del graph[source]


def move_pools(graph: Graph) -> None:
    """Pool before a 1x1 convolution instead of behind it: the two nodes change places, kinds and arrays."""
    readers = Counter(name for node in graph.values() for name in node.inputs)
    for node in graph.values():
        if node.kind != "AveragePool":
            continue
        conv = graph[node.inputs[0]]
        if conv.kind == "Conv" and conv.attributes["kernel_shape"] == [1, 1] and readers[node.inputs[0]] == 1:
            for part in ("kind", "arrays", "attributes"):
                mine, other = getattr(node, part), getattr(conv, part)
                setattr(node, part, other)
                setattr(conv, part, mine)


def _as_float32(array: np.ndarray[Any, Any], layer: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    with np.errstate(over="ignore"):
        narrowed = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(narrowed).all():
        raise CheckpointError(f"The checkpoint can't be used: values of {layer} are too large for float32.")
    return narrowed


def emit(arrays: Arrays, config: DenseNetConfig) -> bytes:
    """The network as a serialized ONNX model with its weights inside.

    Input ``pixels``: float32 (batch, 3, height, width), normalized RGB, any size. Outputs ``probabilities`` and
    ``logits``: float32 (batch, classes); ``features``: float32 (batch, channels, rows, columns). Raises
    ``CheckpointError`` where a number leaves float32's range.
    """
    ops = OnnxOps(arrays)
    outputs = build(ops, config, Tensor(INPUT, 3))
    for rewrite in (absorb_padding, fold_batch_norms, move_pools):
        rewrite(ops.graph)
    nodes, initializers = [], []
    # The outputs' own nodes bear their names: a copy for each would be computed at every run, wanted or not.
    names = {getattr(outputs, output).name: output for output in OUTPUTS}
    for name, node in ops.graph.items():
        inputs = [names.get(read, read) for read in node.inputs]
        for position, array in enumerate(node.arrays):
            inputs.append(f"{name}/{position}")
            initializers.append(numpy_helper.from_array(_as_float32(array, name), inputs[-1]))
        nodes.append(helper.make_node(node.kind, inputs, [names.get(name, name)], name=name, **node.attributes))
    pixels = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", 3, "height", "width"])
    classes: list[str | int | None] = ["batch", config.classes]
    maps: list[str | int | None] = ["batch", outputs.features.channels, "rows", "columns"]
    results = [
        helper.make_tensor_value_info(output, TensorProto.FLOAT, maps if output == "features" else classes)
        for output in OUTPUTS
    ]
    graph = helper.make_graph(nodes, "densenet", [pixels], results, initializers)
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    serialized: bytes = model.SerializeToString()
    return serialized
