"""The op set that builds an ONNX graph from the arrays of a checkpoint, without TensorFlow.

``emit`` builds the graph and applies three rewrites that are mathematically exact: zero padding is merged into the
convolution or pool after it, a batch norm is folded into the convolution before it, and an average pool after a 1x1
convolution is moved before it. (Both are linear and act on different axes, so the convolution has a quarter of the
work.)
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
from densenet_cli.layers import BN_ARRAYS
from densenet_cli.topology import BN_EPSILON, DenseNetConfig, build

if TYPE_CHECKING:
    from densenet_cli.weights.contents import Arrays

INPUT = "pixels"
OPSET = 17
IR_VERSION = 8


@dataclass(frozen=True)
class Tensor:
    """The output of a node: the name of the node, and the number of channels."""

    name: str
    channels: int


@dataclass
class Node:
    """An operation.

    Attributes:
        op_type: The ONNX operator.
        inputs: The names of the nodes whose outputs it reads.
        arrays: The constant inputs that follow.
        attributes: The attributes of the operator.
    """

    op_type: str
    inputs: list[str]
    arrays: list[np.ndarray[Any, Any]] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)


Graph = dict[str, Node]


class OnnxOps:
    """Implements ``topology.Ops`` with ONNX nodes, channels first. ``graph`` has one node per layer, by layer name."""

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        self.graph: Graph = {}

    def _add(
        self,
        name: str,
        op_type: str,
        inputs: list[Tensor],
        channels: int,
        *arrays: np.ndarray[Any, Any],
        **attributes: Any,
    ) -> Tensor:
        self.graph[name] = Node(op_type, [x.name for x in inputs], list(arrays), attributes)
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
        arrays = [self.arrays[name][array] for array in BN_ARRAYS]
        return self._add(name, "BatchNormalization", [x], x.channels, *arrays, epsilon=BN_EPSILON)

    def relu(self, x: Tensor, name: str) -> Tensor:
        return self._add(name, "Relu", [x], x.channels)

    def _pool(self, op_type: str, x: Tensor, name: str, size: int, stride: int) -> Tensor:
        return self._add(name, op_type, [x], x.channels, kernel_shape=[size] * 2, strides=[stride] * 2, pads=[0] * 4)

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
    """Merge zero padding into the convolution or max pool after it.

    ONNX pads a max pool with minus infinity. After a ReLU, as in the stem, this is equivalent to zero.
    """
    for node in graph.values():
        source = graph.get(node.inputs[0])
        if source and source.op_type == "Pad" and node.op_type in ("Conv", "MaxPool"):
            padding = int(source.arrays[0][-1])
            node.attributes["pads"] = [pad + padding for pad in node.attributes["pads"]]
            node.inputs = list(source.inputs)
    for name in [name for name, node in graph.items() if node.op_type == "Pad"]:
        del graph[name]


def fold_batch_norms(graph: Graph) -> None:
    """Fold a batch norm into the convolution before it, if no other node reads that convolution.

    gamma * (Wx - mean) / sqrt(variance + epsilon) + beta is a convolution with bias. It is computed in float64.
    """
    readers = Counter(name for node in graph.values() for name in node.inputs)
    for name, node in list(graph.items()):
        source = node.inputs[0]
        if node.op_type != "BatchNormalization" or graph[source].op_type != "Conv" or readers[source] > 1:
            continue
        gamma, beta, mean, variance = (part.astype(np.float64) for part in node.arrays)
        scale = gamma / np.sqrt(variance + node.attributes["epsilon"])
        kernel = graph[source].arrays[0] * scale[:, None, None, None]
        graph[name] = Node("Conv", graph[source].inputs, [kernel, beta - mean * scale], graph[source].attributes)
        del graph[source]


def move_pools(graph: Graph) -> None:
    """Move an average pool before a 1x1 convolution by exchanging the contents of the two nodes."""
    readers = Counter(name for node in graph.values() for name in node.inputs)
    for node in graph.values():
        if node.op_type != "AveragePool":
            continue
        conv = graph[node.inputs[0]]
        if conv.op_type == "Conv" and conv.attributes["kernel_shape"] == [1, 1] and readers[node.inputs[0]] == 1:
            for field_name in ("op_type", "arrays", "attributes"):
                pool_value, conv_value = getattr(node, field_name), getattr(conv, field_name)
                setattr(node, field_name, conv_value)
                setattr(conv, field_name, pool_value)


def _as_float32(array: np.ndarray[Any, Any], layer: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(converted).all():
        raise CheckpointError(f"Cannot use the checkpoint. Layer {layer}: the folded weights exceed the float32 range.")
    return converted


def emit(arrays: Arrays, config: DenseNetConfig) -> bytes:
    """Return the network as a serialized ONNX model that contains its weights.

    The input ``pixels`` is float32 (batch, 3, height, width), normalized RGB of any size. The outputs ``probabilities``
    and ``logits`` are float32 (batch, classes), and ``features`` float32 (batch, channels, rows, columns).

    Args:
        arrays: The values of ``config``'s arrays.
        config: The configuration of the network.

    Raises:
        CheckpointError: A folded weight exceeds the range of float32.
    """
    ops = OnnxOps(arrays)
    outputs = build(ops, config, Tensor(INPUT, 3))
    for rewrite in (absorb_padding, fold_batch_norms, move_pools):
        rewrite(ops.graph)
    nodes, initializers = [], []
    # Rename the nodes of the outputs. An Identity node per output would be computed in every run, requested or not.
    names = {getattr(outputs, output).name: output for output in OUTPUTS}
    for name, node in ops.graph.items():
        inputs = [names.get(source, source) for source in node.inputs]
        for position, array in enumerate(node.arrays):
            inputs.append(f"{name}/{position}")
            initializers.append(numpy_helper.from_array(_as_float32(array, name), inputs[-1]))
        nodes.append(helper.make_node(node.op_type, inputs, [names.get(name, name)], name=name, **node.attributes))
    pixels = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", 3, "height", "width"])
    classes: list[str | int | None] = ["batch", config.classes]
    features: list[str | int | None] = ["batch", outputs.features.channels, "rows", "columns"]
    results = [
        helper.make_tensor_value_info(output, TensorProto.FLOAT, features if output == "features" else classes)
        for output in OUTPUTS
    ]
    graph = helper.make_graph(nodes, "densenet", [pixels], results, initializers)
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    serialized: bytes = model.SerializeToString()
    return serialized
