"""The last layers of a Keras model: pooling, dense layers, batch normalization, and activations."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any, NamedTuple

from densenet_cli.errors import CheckpointError
from densenet_cli.topology import ACTIVATIONS, OUTPUT_ACTIVATIONS, HeadLayer
from densenet_cli.weights.keras.graph import Graph, LayerCall, check_channels_last, is_identity
from densenet_cli.weights.keras.preprocessing import chain
from densenet_cli.weights.keras.serialization import printable

POOLINGS = {"GlobalAveragePooling2D": "avg", "GlobalMaxPooling2D": "max", "Flatten": "flatten"}
"""Layer class -> a key of ``topology.POOLINGS``."""

WINDOW_POOLINGS = {"AveragePooling2D": "avg", "MaxPooling2D": "max"}
"""Layer class -> pooling, if its window is as large as the feature maps."""

OPERATIONS = {
    f"{prefix}{name}": kind
    for prefix, names in (
        ("ops.", ("Relu", "Relu6", "Selu", "Silu", "Softplus", "Softsign", "Tanh", "Sigmoid", "Softmax")),
        ("tf.nn.", ("relu", "relu6", "selu", "silu", "softplus", "softsign", "tanh", "sigmoid", "softmax")),
        ("tf.math.", ("tanh", "sigmoid", "softplus", "softsign")),
    )
    for name in names
    for kind in [name.lower()]
}
"""Operation without parameters -> activation."""

DEFAULT_ALPHAS = {"leaky_relu": 0.2, "elu": 1.0}
"""Activation -> its parameter if it is given by name."""


class Head(NamedTuple):
    """The layers after the feature maps.

    Attributes:
        pooling: One of ``topology.POOLINGS``, or None for a model that ends with the feature maps.
        layers: The layers after the pooling, without those that change nothing and the output's activation.
        calls: The call of each of ``layers``.
        activation: ``softmax``, ``sigmoid``, or ``linear``.
    """

    pooling: str | None
    layers: tuple[HeadLayer, ...] = ()
    calls: tuple[LayerCall, ...] = ()
    activation: str = "linear"


def read_head(graph: Graph, features: LayerCall, feature_size: int | None) -> Head:
    """Read the layers after the feature maps.

    Args:
        graph: The model.
        features: The call whose output is the feature maps.
        feature_size: The side length of the feature maps, or None if the input can have any size.

    Raises:
        CheckpointError: A layer is not supported.
    """
    pooling, is_flat = None, False
    layers: list[HeadLayer] = []
    calls: list[LayerCall] = []
    for call in chain(graph, features):
        if is_identity(call) or (call.class_name == "Flatten" and is_flat):
            continue
        if call.class_name in POOLINGS and not is_flat:
            check_channels_last(call)
            pooling = pooling or POOLINGS[call.class_name]
            is_flat = not call.config.get("keepdims")
            continue
        if pooling is None and _is_global(call, feature_size):
            pooling = WINDOW_POOLINGS[call.class_name]
            continue
        if pooling is None:
            raise CheckpointError(
                f"The layer {call} between the DenseNet and its pooling is not supported. Only global average pooling,"
                " global max pooling, and Flatten can follow the feature maps."
            )
        if not is_flat:
            raise CheckpointError(f"The layer {call} after a pooling that was not flattened is not supported.")
        new_layers = _head_layers(call)
        layers += new_layers
        calls += [call] * len(new_layers)
    activation = "linear"
    if layers and layers[-1].kind in OUTPUT_ACTIVATIONS:
        activation = layers.pop().kind
        calls.pop()
    _check_layers(layers, calls, activation)
    return Head(pooling, tuple(layers), tuple(calls), activation)


def find_pooling(graph: Graph, features: LayerCall) -> str | None:
    """Return the pooling that follows the feature maps in a model whose head is not supported, or None."""
    with suppress(CheckpointError):
        call = next((call for call in chain(graph, features) if not is_identity(call)), None)
        return POOLINGS.get(call.class_name) if call else None
    return None


def _is_global(call: LayerCall, feature_size: int | None) -> bool:
    if call.class_name not in WINDOW_POOLINGS or feature_size is None:
        return False
    check_channels_last(call)
    return (call.config["pool_size"], call.config["padding"]) == ([feature_size] * 2, "valid")


def _check_layers(layers: list[HeadLayer], calls: list[LayerCall], activation: str) -> None:
    for layer, call in zip(layers, calls, strict=True):
        if layer.kind not in ("dense", "batch_norm", *ACTIVATIONS):
            raise CheckpointError(f"The layer {call} has the activation {layer.kind} inside the head.")
    if layers and not any(layer.kind == "dense" for layer in layers):
        raise CheckpointError(f"The head has no dense layer, but the layer {calls[-1]}.")
    if layers and layers[-1].kind not in ("dense", "batch_norm"):
        raise CheckpointError(
            f"The model ends with the activation {layers[-1].kind} ({calls[-1]}). Only softmax, sigmoid, and linear"
            " outputs are supported."
        )
    if not layers and activation != "linear":
        raise CheckpointError(f"The model ends with the activation {activation} without a dense layer before it.")


def _head_layers(call: LayerCall) -> list[HeadLayer]:
    """Return what a call is in a head: up to two layers."""
    if call.class_name == "Dense":
        units = call.config["units"]
        if not isinstance(units, int) or isinstance(units, bool) or units < 1:
            raise CheckpointError(f"The layer {call} has {printable(units)} units.")
        activation = _activation(call.config.get("activation"), call)
        return [HeadLayer("dense", units), *([activation] if activation.kind != "linear" else [])]
    if call.class_name == "BatchNormalization":
        if call.config.get("axis", -1) not in (1, -1, [1], [-1]):
            raise CheckpointError(f"The layer {call} normalizes along the axis {printable(call.config['axis'])}.")
        return [HeadLayer("batch_norm")]
    if layer := activation_of(call):
        return [layer] if layer.kind != "linear" else []
    raise CheckpointError(
        f"The layer {call} in the head is not supported. Supported are Dense, BatchNormalization, Dropout, and"
        " activations."
    )


def activation_of(call: LayerCall) -> HeadLayer | None:
    """Return the activation that a layer or operation applies (also ``linear``), or None for other classes."""
    config = call.config
    if call.class_name == "Activation":
        return _activation(config["activation"], call)
    if call.class_name in OPERATIONS:
        _check_axis(call)
        return HeadLayer(OPERATIONS[call.class_name])
    return _activation_layer(call.class_name, config, call)


def _activation(value: Any, call: LayerCall) -> HeadLayer:
    """Return the activation for the argument ``activation`` of a layer: a name, or a layer."""
    if value is None:
        return HeadLayer("linear")
    if isinstance(value, str):
        kind = {"swish": "silu"}.get(value, value)
        if kind in ("linear", *OUTPUT_ACTIVATIONS, *ACTIVATIONS):
            return HeadLayer(kind, alpha=DEFAULT_ALPHAS.get(kind, 0.0))
    if isinstance(value, dict) and isinstance(value.get("config"), dict):
        layer = _activation_layer(value["class_name"], value["config"], call)
        if layer:
            return layer
    name = value.get("config", value) if isinstance(value, dict) else value
    raise CheckpointError(f"The activation {printable(name)} of the layer {call} is not supported.")


def _activation_layer(class_name: str, config: dict[str, Any], call: LayerCall) -> HeadLayer | None:
    if class_name == "ReLU":
        max_value, slope, threshold = (config.get(name) for name in ("max_value", "negative_slope", "threshold"))
        if threshold or (max_value is not None and (max_value != 6 or slope)):
            raise CheckpointError(f"The layer {call} is not supported. Its max_value is {printable(max_value)}.")
        if max_value is not None:
            return HeadLayer("relu6")
        return HeadLayer("leaky_relu", alpha=_alpha(slope, call)) if slope else HeadLayer("relu")
    if class_name == "LeakyReLU":
        return HeadLayer("leaky_relu", alpha=_alpha(config.get("negative_slope", config.get("alpha", 0.3)), call))
    if class_name == "ELU":
        return HeadLayer("elu", alpha=_alpha(config.get("alpha", 1.0), call))
    if class_name == "Softmax":
        if config.get("axis", -1) not in (-1, 1, [-1], [1]):
            raise CheckpointError(f"The layer {call} has the axis {printable(config['axis'])}.")
        return HeadLayer("softmax")
    return None


def _alpha(value: Any, call: LayerCall) -> float:
    if isinstance(value, dict):  # an array, as Keras writes it
        value = value["config"]["value"] if isinstance(value.get("config"), dict) else value.get("value")
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise CheckpointError(f"The layer {call} has the slope {printable(value)}.")
    return float(value)


def _check_axis(call: LayerCall) -> None:
    axis = call.config.get("axis", call.arguments.get("axis"))
    if axis not in (None, -1, 1) or len(call.operands) > 1:
        raise CheckpointError(f"The operation {call} is not supported along the axis {printable(axis)}.")
