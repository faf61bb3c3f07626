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
from densenet_cli.topology import BN_EPSILON, DenseNetConfig, Resize, build

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

ACTIVATION_OPS: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "leaky_relu": ("LeakyRelu", {}),
    "elu": ("Elu", {}),
    "selu": ("Selu", {}),
    "softplus": ("Softplus", {}),
    "softsign": ("Softsign", {}),
    "tanh": ("Tanh", {}),
    "sigmoid": ("Sigmoid", {}),
    "softmax": ("Softmax", {"axis": -1}),
}
"""Activation -> operator and its attributes. The others are made of several operators."""


class OnnxOps:
    """Implements ``topology.Ops`` with ONNX nodes, channels first. ``graph`` has one node per layer, by layer name."""

    def __init__(self, arrays: Arrays, dense_as_conv: bool = False) -> None:
        self.arrays = arrays
        self.dense_as_conv = dense_as_conv
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

    def resize(self, x: Tensor, name: str, *, input_size: int, resize: Resize) -> Tensor:
        # A resizing is linear and separable. As two matrix products, it has any size exactly, and Keras' positions.
        matrix = resize_matrix(input_size, resize)
        columns = self._add(f"{name}_columns", "MatMul", [x], x.channels, matrix.T)
        rows = self._add(f"{name}_transposed", "Transpose", [columns], x.channels, perm=[0, 1, 3, 2])
        resized = self._add(f"{name}_rows", "MatMul", [rows], x.channels, matrix.T)
        return self._add(name, "Transpose", [resized], x.channels, perm=[0, 1, 3, 2])

    def _pad(self, x: Tensor, name: str, padding: int, mode: str) -> Tensor:
        pads = np.array([0, 0, padding, padding] * 2, dtype=np.int64)
        return self._add(name, "Pad", [x], x.channels, pads, mode=mode)

    def zero_pad(self, x: Tensor, name: str, *, padding: int) -> Tensor:
        return self._pad(x, name, padding, "constant")

    def reflect_pad(self, x: Tensor, name: str, *, padding: int) -> Tensor:
        return self._pad(x, name, padding, "reflect")

    def conv(self, x: Tensor, name: str, *, filters: int, kernel: int, stride: int = 1) -> Tensor:
        weights = self.arrays[name]["kernel"].transpose(3, 2, 0, 1)
        padding = kernel // 2 if stride == 1 else 0
        return self._add(
            name, "Conv", [x], filters, weights, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[padding] * 4
        )

    def batch_norm(self, x: Tensor, name: str) -> Tensor:
        arrays = [self.arrays[name][array] for array in BN_ARRAYS]
        return self._add(name, "BatchNormalization", [x], x.channels, *arrays, epsilon=BN_EPSILON)

    def activation(self, x: Tensor, name: str, *, function: str, alpha: float = 0.0) -> Tensor:
        if function in ACTIVATION_OPS:
            op_type, attributes = ACTIVATION_OPS[function]
            if function in ("leaky_relu", "elu"):
                attributes = {"alpha": alpha}
            return self._add(name, op_type, [x], x.channels, **attributes)
        if function == "relu6":
            limits = np.array(0, np.float32), np.array(6, np.float32)
            return self._add(name, "Clip", [x], x.channels, *limits)
        if function == "silu":
            gate = self._add(f"{name}_gate", "Sigmoid", [x], x.channels)
        else:  # gelu: x * (1 + erf(x / sqrt(2))) / 2
            scaled = self._add(f"{name}_scaled", "Mul", [x], x.channels, np.array(0.5**0.5, np.float32))
            erf = self._add(f"{name}_erf", "Erf", [scaled], x.channels)
            sum_ = self._add(f"{name}_sum", "Add", [erf], x.channels, np.array(1, np.float32))
            gate = self._add(f"{name}_gate", "Mul", [sum_], x.channels, np.array(0.5, np.float32))
        return self._add(name, "Mul", [x, gate], x.channels)

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

    def global_max_pool(self, x: Tensor, name: str) -> Tensor:
        maps = self._add(f"{name}_maps", "GlobalMaxPool", [x], x.channels)
        return self._add(name, "Flatten", [maps], x.channels)

    def flatten(self, x: Tensor, name: str) -> Tensor:
        channels_last = self._add(f"{name}_channels_last", "Transpose", [x], x.channels, perm=[0, 2, 3, 1])
        return self._add(name, "Flatten", [channels_last], x.channels)

    def dense(self, x: Tensor, name: str, *, units: int) -> Tensor:
        kernel, bias = self.arrays[name]["kernel"], self.arrays[name]["bias"]
        if not self.dense_as_conv:
            return self._add(name, "Gemm", [x], units, kernel, bias)
        maps = self._add(f"{name}_maps", "Unsqueeze", [x], x.channels, np.array([2, 3], np.int64))
        conv = self._add(f"{name}_conv", "Conv", [maps], units, kernel.T[:, :, None, None], bias, kernel_shape=[1, 1])
        return self._add(name, "Flatten", [conv], units)


def resize_matrix(size: int, resize: Resize) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the matrix (side, size) that resizes a line of pixels as ``tf.image.resize`` without antialiasing does.

    The center of pixel i lies at i + 0.5. Positions outside the centers take the value of the outermost pixel.
    """
    positions = (np.arange(resize.side) + 0.5) * (size / resize.side)
    matrix = np.zeros((resize.side, size))
    rows = np.arange(resize.side)
    if resize.interpolation == "nearest":
        # TensorFlow computes positions in float32, which can be just below an integer.
        positions = (rows.astype(np.float32) + np.float32(0.5)) * (np.float32(size) / np.float32(resize.side))
        matrix[rows, np.minimum(np.floor(positions), size - 1).astype(int)] = 1
        return matrix
    lower = np.floor(positions - 0.5)
    fraction = positions - 0.5 - lower
    np.add.at(matrix, (rows, np.clip(lower, 0, size - 1).astype(int)), 1 - fraction)
    np.add.at(matrix, (rows, np.clip(lower + 1, 0, size - 1).astype(int)), fraction)
    return matrix


def absorb_padding(graph: Graph) -> None:
    """Merge zero padding into the convolution or max pool after it.

    ONNX pads a max pool with minus infinity. After a ReLU, as in the stem, this is equivalent to zero.
    """
    for node in graph.values():
        source = graph.get(node.inputs[0])
        if source and _is_zero_pad(source) and node.op_type in ("Conv", "MaxPool"):
            padding = int(source.arrays[0][-1])
            node.attributes["pads"] = [pad + padding for pad in node.attributes["pads"]]
            node.inputs = list(source.inputs)
    for name in [name for name, node in graph.items() if _is_zero_pad(node)]:
        del graph[name]


def _is_zero_pad(node: Node) -> bool:
    return node.op_type == "Pad" and node.attributes["mode"] == "constant"


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


def _as_constant(array: np.ndarray[Any, Any], layer: str) -> np.ndarray[Any, Any]:
    """Return an array as float32, or as it is if it has integers."""
    if array.dtype.kind == "i":
        return array
    with np.errstate(over="ignore"):
        converted = np.asarray(array, np.float32, order="C")
    if not np.isfinite(converted).all():
        raise CheckpointError(f"Cannot use the checkpoint. Layer {layer}: the folded weights exceed the float32 range.")
    return converted


def emit(arrays: Arrays, config: DenseNetConfig, *, dense_as_conv: bool = False) -> bytes:
    """Return the network as a serialized ONNX model that contains its weights.

    The input ``pixels`` is float32 (batch, channels, height, width), normalized, of any size that the network accepts.
    The outputs ``probabilities`` and ``logits`` are float32 (batch, classes), and ``features`` float32 (batch,
    channels, rows, columns). A network without a head has only ``features``.

    Args:
        arrays: The values of ``config``'s arrays.
        config: The configuration of the network.
        dense_as_conv: Emit dense layers as convolutions with a 1x1 kernel, which are equal except for rounding.

    Raises:
        CheckpointError: A folded weight exceeds the range of float32.
    """
    ops = OnnxOps(arrays, dense_as_conv)
    outputs = build(ops, config, Tensor(INPUT, config.channels))
    for rewrite in (absorb_padding, fold_batch_norms, move_pools):
        rewrite(ops.graph)
    nodes, initializers = [], []
    # Rename the nodes of the outputs. An Identity node per output would be computed in every run, requested or not.
    names = {tensor.name: output for output in OUTPUTS if (tensor := getattr(outputs, output))}
    for name, node in ops.graph.items():
        inputs = [names.get(source, source) for source in node.inputs]
        for position, array in enumerate(node.arrays):
            inputs.append(f"{name}/{position}")
            initializers.append(numpy_helper.from_array(_as_constant(array, name), inputs[-1]))
        nodes.append(helper.make_node(node.op_type, inputs, [names.get(name, name)], name=name, **node.attributes))
    pixels = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", config.channels, "height", "width"])
    classes: list[str | int | None] = ["batch", config.classes]
    features: list[str | int | None] = ["batch", outputs.features.channels, "rows", "columns"]
    results = [
        helper.make_tensor_value_info(output, TensorProto.FLOAT, features if output == "features" else classes)
        for output in names.values()
    ]
    graph = helper.make_graph(nodes, "densenet", [pixels], results, initializers)
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    serialized: bytes = model.SerializeToString()
    return serialized
