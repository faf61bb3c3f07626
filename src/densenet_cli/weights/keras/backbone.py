"""Verification that the layers of a Keras model are a DenseNet.

``topology`` defines the network. Here its functions run on an op set that computes nothing: each operation finds the
next layer in the graph and compares everything that the arrays do not show, such as strides, padding, and epsilons.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from densenet_cli import topology
from densenet_cli.errors import CheckpointError, UsageError
from densenet_cli.layers import list_layers
from densenet_cli.topology import BN_EPSILON, STEMS
from densenet_cli.weights.contents import MAX_BN_EPSILON
from densenet_cli.weights.keras.graph import Graph, LayerCall, check_channels_last
from densenet_cli.weights.keras.head import activation_of
from densenet_cli.weights.keras.serialization import printable
from densenet_cli.weights.recognition import BLOCK_LAYER

OLD_LAYER_NAMES = {"conv1/conv": "conv1_conv", "conv1/bn": "conv1_bn", "fc1000": "predictions"}
"""Layer names in Keras 2 and in the published files -> in current versions of Keras."""


class Backbone(NamedTuple):
    """A DenseNet in a graph.

    Attributes:
        stem: A key of ``topology.STEMS``.
        layers: Layer name -> call, for the layers with arrays.
        features: The last call, whose output is the feature maps.
        blocks: The number of dense blocks.
    """

    stem: str
    layers: dict[str, LayerCall]
    features: LayerCall
    blocks: int

    def feature_size(self, input_size: int) -> int | None:
        """Return the side length of the feature maps, or None if the input is too small."""
        config = topology.DenseNetConfig((1,) * self.blocks, stem=self.stem, classes=0)
        try:
            return list_layers(config, input_size)[-1].output_shape[0]
        except UsageError:
            return None


def find_backbone(graph: Graph, before: LayerCall) -> Backbone:
    """Return the DenseNet whose input is the output of ``before``.

    Raises:
        CheckpointError: The layers are not a DenseNet, or have other names than in ``keras.applications``.
    """
    names = {OLD_LAYER_NAMES.get(call.name, call.name): call for call in graph.consumers}
    matches = [match for name in names if (match := BLOCK_LAYER.match(name))]
    has_concat = any(call.class_name == "Concatenate" for call in graph.consumers)  # ResNets have similar names
    if not matches or "conv1_conv" not in names or not has_concat:
        first = [str(call) for call in reversed(graph.consumers) if call.location.names][:3]
        raise CheckpointError(
            f"It is not a DenseNet with the layer names of keras.applications. Its first layers are {', '.join(first)}."
        )
    blocks: dict[int, int] = {}
    for match in matches:
        blocks[int(match[1])] = max(int(match[2]), blocks.get(int(match[1]), 0))
    matcher = _Matcher(graph)
    stem = _find_stem(names)
    x = topology.stem_block(matcher, before, STEMS[stem], 0, 0)
    last = max(blocks)
    for stage in range(2, last + 1):
        x = topology.dense_block(matcher, x, f"conv{stage}", blocks.get(stage, 1), 0)
        if stage < last:
            x = topology.transition_block(matcher, x, f"pool{stage}", 0)
    x = matcher.batch_norm(x, "bn")
    x = matcher.activation(x, "relu", function="relu")
    return Backbone(stem, matcher.layers, x, last - 1)


def _find_stem(names: dict[str, LayerCall]) -> str:
    conv = names["conv1_conv"].config
    kernel, strides = conv["kernel_size"], conv["strides"]
    has_blur = any(call.class_name == "ops.Pad" for call in names.values())
    for name, stem in STEMS.items():
        parts = (stem.norm, stem.deep, stem.blur) == ("conv1_bn" in names, "conv1_2_conv" in names, has_blur)
        if parts and kernel == [stem.kernel] * 2 and strides == [stem.stride] * 2:
            return name
    raise CheckpointError(f"A stem of {printable(kernel)} pixels with strides {printable(strides)} is not supported.")


class _Matcher:
    """An op set (``topology.Ops``) whose tensors are calls in a graph. Numbers of filters are checked by the arrays."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.layers: dict[str, LayerCall] = {}

    def _next(self, x: LayerCall, class_name: str, name: str, inputs: list[LayerCall] | None = None) -> LayerCall:
        """Return the only consumer of ``x`` of a class. Its inputs must be ``inputs``, by default ``[x]``."""
        consumers = self.graph.consumers[x]
        matches = [call for call in consumers if call.class_name == class_name]
        # In a dense block, batch normalization and concatenation follow.
        others = [call for call in consumers if call.class_name not in ("BatchNormalization", "Concatenate")]
        if len(matches) != 1 or len(consumers) > 2 or (len(consumers) == 2 and others):
            found = ", ".join(map(str, consumers[:3])) or "the end of the model"
            raise CheckpointError(f"The model is not a DenseNet. Expected one {class_name} after {x}, found {found}.")
        call = matches[0]
        if call.inputs != (inputs or [x]) or len(call.operands) != len(call.inputs):
            raise CheckpointError(f"The model is not a DenseNet. The layer {call} has other inputs.")
        return call

    def _check(self, call: LayerCall, expected: dict[str, Any]) -> LayerCall:
        check_channels_last(call)
        for name, values in expected.items():
            default = {"dilation_rate": [1, 1], "groups": 1, "center": True, "scale": True}.get(name)
            value = call.config.get(name, default)
            if value not in values:
                raise CheckpointError(f"The layer {call} differs from a DenseNet's. Its {name} is {printable(value)}.")
        return call

    def _add_arrays(self, call: LayerCall, name: str) -> LayerCall:
        if OLD_LAYER_NAMES.get(call.name, call.name) != name:
            raise CheckpointError(
                f"Expected the layer name {name}, found {call}. Only the names of keras.applications are supported."
            )
        self.layers[name] = call
        return call

    def channels(self, x: LayerCall) -> int:
        return 0

    def zero_pad(self, x: LayerCall, name: str, *, padding: int) -> LayerCall:
        return self._check(self._next(x, "ZeroPadding2D", name), {"padding": ([[padding] * 2] * 2,)})

    def reflect_pad(self, x: LayerCall, name: str, *, padding: int) -> LayerCall:
        width = [[0, 0], [padding] * 2, [padding] * 2, [0, 0]]
        return self._check(self._next(x, "ops.Pad", name), {"pad_width": (width,), "mode": ("reflect",)})

    def conv(self, x: LayerCall, name: str, *, filters: int, kernel: int, stride: int = 1) -> LayerCall:
        padding = ("same", "valid") if kernel == 1 else ("same",) if stride == 1 else ("valid",)
        expected = {
            "kernel_size": ([kernel] * 2,),
            "strides": ([stride] * 2,),
            "padding": padding,
            "dilation_rate": ([1, 1],),
            "groups": (1,),
            "activation": ("linear", None),
            "use_bias": (False,),
        }
        return self._add_arrays(self._check(self._next(x, "Conv2D", name), expected), name)

    def batch_norm(self, x: LayerCall, name: str) -> LayerCall:
        call = self._next(x, "BatchNormalization", name)
        self._check(call, {"axis": (3, -1, [3], [-1]), "center": (True,), "scale": (True,)})
        check_batch_norm(call)
        return self._add_arrays(call, name)

    def activation(self, x: LayerCall, name: str, *, function: str, alpha: float = 0.0) -> LayerCall:
        call = self._next(x, self._activation_class(x), name)
        activation = activation_of(call)
        if activation is None or activation.kind != function:
            raise CheckpointError(f"The layer {call} differs from a DenseNet's. Expected the activation {function}.")
        return call

    def _activation_class(self, x: LayerCall) -> str:
        is_layer = any(call.class_name == "ReLU" for call in self.graph.consumers[x])
        return "ReLU" if is_layer else "Activation"

    def max_pool(self, x: LayerCall, name: str, *, size: int, stride: int) -> LayerCall:
        return self._pool(x, "MaxPooling2D", name, size, stride)

    def avg_pool(self, x: LayerCall, name: str, *, size: int, stride: int) -> LayerCall:
        return self._pool(x, "AveragePooling2D", name, size, stride)

    def _pool(self, x: LayerCall, class_name: str, name: str, size: int, stride: int) -> LayerCall:
        expected = {"pool_size": ([size] * 2,), "strides": ([stride] * 2,), "padding": ("valid",)}
        return self._check(self._next(x, class_name, name), expected)

    def concat(self, x: LayerCall, new: LayerCall, name: str) -> LayerCall:
        return self._check(self._next(new, "Concatenate", name, [x, new]), {"axis": (3, -1)})

    def _refuse(self, x: LayerCall, name: str, **arguments: Any) -> LayerCall:
        raise CheckpointError(f"The layer {name} is not supported in a Keras model.")

    resize = global_avg_pool = global_max_pool = flatten = dense = _refuse


def check_batch_norm(call: LayerCall) -> float:
    """Return the epsilon of a batch normalization, which must use its moving statistics."""
    epsilon = call.config.get("epsilon", 1e-3)
    if not isinstance(epsilon, float) or not 0 <= epsilon < MAX_BN_EPSILON:
        raise CheckpointError(f"The layer {call} has the epsilon {printable(epsilon)}.")
    if call.arguments.get("training"):
        raise CheckpointError(
            f"The layer {call} is called with training=True, so it depends on the other images of a batch. Call it with"
            " training=False and save the model again."
        )
    return epsilon


def own_epsilons(layers: dict[str, LayerCall]) -> dict[str, float]:
    """Return layer name -> epsilon, for batch norms whose epsilon is not ``BN_EPSILON``."""
    epsilons = {
        name: check_batch_norm(call) for name, call in layers.items() if call.class_name == "BatchNormalization"
    }
    return {name: epsilon for name, epsilon in epsilons.items() if epsilon != BN_EPSILON}
