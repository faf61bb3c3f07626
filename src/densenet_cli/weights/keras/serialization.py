"""How Keras serializes models: JSON, classes, and the arguments of calls.

A configuration is JSON: ``config.json`` in a ``.keras`` archive, or the attribute ``model_config`` of an ``.h5`` file.
It is read as data; no class that it names is imported. There are two dialects, which differ in how a call refers to its
inputs:

- Keras 3: ``{"args": [{"class_name": "__keras_tensor__", "config": {"keras_history": [layer, node, tensor]}}]}``.
- Keras 2: ``[[layer, node, tensor, {arguments}]]``. A TensorFlow function (``TFOpLambda``) has one level less.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from densenet_cli.errors import CheckpointError
from densenet_cli.weights.contents import damaged_file_error

MAX_CONFIG_SIZE = 4 << 20
"""Bytes. The configuration of the largest variant has 1 MB."""
MAX_NAME_LENGTH = 80
MAX_ENDS = 10
"""Inputs or outputs of a model. More than one are refused."""
MAX_NESTING = 5
"""Lists in lists, among the arguments of a call."""


MODEL_CLASSES = ("Functional", "Model", "Sequential")
KERAS_MODULES = ("keras", "tf_keras", "tensorflow", "builtins")
OLD_CLASS_NAMES = {"BatchNormalizationV1": "BatchNormalization", "BatchNormalizationV2": "BatchNormalization"}
"""Class names that TensorFlow 1 wrote -> current ones."""


class Reference(NamedTuple):
    """A reference to the output of a call in the same model: the layer's name and the index of the call."""

    layer: str
    call: int


def printable(name: object) -> str:
    """Return a name from a file for a message of one line."""
    text = "".join(c if c.isprintable() else "?" for c in str(name))
    return text if len(text) <= MAX_NAME_LENGTH else f"{text[:MAX_NAME_LENGTH]}..."


@contextmanager
def malformed_config_errors() -> Iterator[None]:
    """Turn what a malformed configuration raises into ``CheckpointError``."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        reason = printable(f"{type(error).__name__}: {error}")
        raise damaged_file_error(f"the model configuration is malformed, {reason}") from error


def parse_json(text: str | bytes) -> Any:
    """Parse a configuration. Raises ``CheckpointError`` if it is too large or malformed."""
    if len(text) > MAX_CONFIG_SIZE:
        raise CheckpointError(f"The model configuration has more than {MAX_CONFIG_SIZE:,} bytes.")
    with malformed_config_errors():
        return json.loads(text)


def layer_class(layer: dict[str, Any]) -> str:
    """Return the class of a layer or operation. Raises ``CheckpointError`` if it is not one of Keras' own."""
    class_name, config = layer["class_name"], layer["config"]
    module, registered = layer.get("module") or "", layer.get("registered_name") or class_name
    if str(registered).startswith("keras_hub>"):
        raise CheckpointError(
            "It is a model of KerasHub, whose DenseNet pads the stem differently. Use timm's file with the same"
            " weights, such as timm/densenet121.tv_in1k on the Hugging Face Hub."
        )
    if class_name == "Lambda":
        raise CheckpointError(
            f"The model contains the Lambda layer {printable(layer_name(layer))}, whose code cannot be read safely."
            " Replace it with Keras layers and save the model again."
        )
    if module.partition(".")[0] not in ("", *KERAS_MODULES) or registered != class_name:
        raise CheckpointError(
            f"The model contains the custom class {printable(registered)}. Only Keras' own layers are supported."
        )
    if class_name in ("TFOpLambda", "SlicingOpLambda"):
        return f"tf.{config['function']}"
    if ".ops." in module or (not module and _is_operation(class_name, layer)):
        return f"ops.{class_name}"
    return str(OLD_CLASS_NAMES.get(class_name, class_name))


def _is_operation(class_name: str, layer: dict[str, Any]) -> bool:
    """Return whether an entry of an .h5 file of Keras 3 is an operation. Some have the same class names as layers."""
    if class_name in (*MODEL_CLASSES, "InputLayer") or "inbound_nodes" not in layer:
        return False
    return class_name == "Cast" or not layer["config"].keys() & {"trainable", "dtype"}


def layer_name(layer: dict[str, Any]) -> str:
    """Return the name of a layer."""
    config = layer["config"]
    name = layer.get("name") or (config.get("name") if isinstance(config, dict) else None)
    return name if isinstance(name, str) else "?"


def references(value: Any) -> Iterator[Reference]:
    """Yield the references in ``input_layers`` or ``output_layers``: one, or a list or dict of them."""
    if isinstance(value, dict):
        value = list(value.values())
    if len(value) >= 3 and isinstance(value[0], str):
        yield Reference(value[0], int(value[1]))
        return
    if len(value) > MAX_ENDS:
        raise CheckpointError(f"The model has {len(value):,} inputs or outputs. Only models with one are supported.")
    for item in value:
        yield from references(item)


def parse_node(node: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the operands and the other arguments of a call."""
    operands: list[Any] = []
    arguments: dict[str, Any] = {}
    if isinstance(node, dict):
        operands.extend(_operands(node["args"]))
        for name, value in node["kwargs"].items():
            if isinstance(value, dict | list):
                operands.extend(_operands(value))
            else:
                arguments[name] = value
        return operands, arguments
    for layer, index, value, *rest in [node] if isinstance(node[0], str) else node:
        operands.append(value if layer == "_CONSTANT_VALUE" else Reference(layer, int(index)))
        for name, argument in (rest[0] if rest else {}).items():
            if name in ("x", "y", "bias") and argument is not None:
                is_reference = isinstance(argument, list) and argument and isinstance(argument[0], str)
                operands.append(Reference(argument[0], int(argument[1])) if is_reference else argument)
            else:
                arguments[name] = argument
    return operands, arguments


def _operands(value: Any, depth: int = 0) -> Iterator[Any]:
    """Yield the references and numbers in the arguments of a call in Keras 3."""
    if depth > MAX_NESTING:
        raise damaged_file_error("the arguments of a call in the model configuration are nested too deeply")
    if isinstance(value, dict):
        config = value.get("config")
        if value["class_name"] == "__keras_tensor__":
            name, index, _ = value["config"]["keras_history"]
            yield Reference(name, int(index))
        elif value["class_name"] in ("__tensor__", "__numpy__"):
            yield config["value"] if isinstance(config, dict) else config
        elif value["class_name"] == "__tuple__":
            yield from _operands(value["items"], depth + 1)
        else:
            yield value
    elif isinstance(value, list) and _contains_dict(value):
        for item in value:
            yield from _operands(item, depth + 1)
    elif value is not None:
        yield value


def _contains_dict(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(map(_contains_dict, value)))
