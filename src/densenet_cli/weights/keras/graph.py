"""Keras model configurations as a graph of layer calls.

Nested models are inlined, so a graph contains only elementary layers and operations.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from densenet_cli.errors import CheckpointError
from densenet_cli.weights.contents import damaged_file_error
from densenet_cli.weights.keras.serialization import (
    MODEL_CLASSES,
    Reference,
    layer_class,
    layer_name,
    parse_node,
    printable,
    references,
)

MAX_LAYERS = 5_000
MAX_CALLS = 10_000
"""Calls of layers. Each layer of a DenseNet is called once."""
MAX_MODELS = 50
"""Calls of nested models."""
MAX_DEPTH = 8
"""Models nested in models."""

DROPOUTS = ("Dropout", "SpatialDropout2D", "GaussianDropout", "AlphaDropout", "GaussianNoise", "ActivityRegularization")
AUGMENTATIONS = (
    *("AugMix", "CutMix", "MixUp", "RandAugment", "RandomBrightness", "RandomColorDegeneration", "RandomColorJitter"),
    *("RandomContrast", "RandomElasticTransform", "RandomErasing", "RandomFlip", "RandomGaussianBlur"),
    *("RandomGrayscale", "RandomHeight", "RandomHue", "RandomInvert", "RandomPerspective", "RandomPosterization"),
    *("RandomRotation", "RandomSaturation", "RandomSharpness", "RandomShear", "RandomTranslation", "RandomWidth"),
    "RandomZoom",
)
"""Layers that change nothing at inference. RandomCrop is missing, because it crops or resizes."""
IDENTITIES = ("Identity", "InputLayer", "ops.Identity", "tf.identity", *DROPOUTS, *AUGMENTATIONS)
FLOAT_TYPES = ("float16", "bfloat16", "float32", "float64")


class Location(NamedTuple):
    """Where a file stores the arrays of a layer: the outer models first, the layer last.

    Attributes:
        names: Names of layers, such as ("densenet121", "conv1_conv").
        groups: Names of groups in ``.weights.h5``, such as ("functional", "conv2d").
    """

    names: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


@dataclass(eq=False, repr=False)
class LayerCall:
    """A call of a layer or operation.

    Attributes:
        class_name: ``Conv2D`` for a layer, ``ops.Add`` for an operation of Keras 3, ``tf.math.add`` for a TensorFlow
            function.
        name: The name of the layer.
        config: The arguments of the layer's constructor.
        operands: The inputs, in order: calls, or numbers.
        arguments: The other arguments of the call.
        location: Where its arrays are.
    """

    class_name: str
    name: str
    config: dict[str, Any]
    operands: list[Any] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)
    location: Location = field(default_factory=Location)

    def __repr__(self) -> str:  # not the operands, whose number grows exponentially in a DenseNet
        return f"{printable(self.name)} ({printable(self.class_name)})"

    @property
    def inputs(self) -> list[LayerCall]:
        """The operands that are calls."""
        return [operand for operand in self.operands if isinstance(operand, LayerCall)]


class Graph(NamedTuple):
    """A model with one input and one output.

    Attributes:
        input: The input layer.
        output: The last call.
        consumers: Call -> the calls that use its output, of those on which the model's output depends.
    """

    input: LayerCall
    output: LayerCall
    consumers: dict[LayerCall, list[LayerCall]]


def build_graph(model: Any) -> Graph:
    """Return the graph of a model, given its parsed configuration.

    Raises:
        CheckpointError: The model is not a single graph of Keras' own classes, or the configuration is malformed.
    """
    builder = _Builder()
    source = LayerCall("InputLayer", "input", {})
    output = builder.add_model(_check_model(model), [source], Location(), 0)
    builder.resolve_references()
    while isinstance(output, _ModelOutput):
        output = output.resolve()
    consumers = _consumers(output)
    if source not in consumers:
        raise CheckpointError("The output of the model does not depend on its input.")
    return Graph(source, output, consumers)


def _consumers(output: LayerCall) -> dict[LayerCall, list[LayerCall]]:
    consumers: dict[LayerCall, list[LayerCall]] = {output: []}
    stack = [output]
    while stack:
        call = stack.pop()
        for operand in call.inputs:
            if operand not in consumers:
                consumers[operand] = []
                stack.append(operand)
            consumers[operand].append(call)
    return consumers


class _ModelOutput(NamedTuple):
    """The output of a nested model: a call in it."""

    calls: dict[str, list[Any]]
    reference: Reference

    def resolve(self) -> Any:
        calls = self.calls.get(self.reference.layer)
        if not calls:
            raise damaged_file_error(f"layer {printable(self.reference.layer)} is missing in the model configuration")
        # A nested model counts its construction as a call, so the index of its only call is 1.
        return calls[0] if len(calls) == 1 else calls[self.reference.call]


class _Builder:
    """Builds the calls of a model and its nested models. References are resolved when all calls exist."""

    def __init__(self) -> None:
        self.calls: list[tuple[LayerCall, dict[str, list[Any]]]] = []
        self.layers = 0
        self.models = 0

    def add_model(self, model: dict[str, Any], operands: list[Any], location: Location, depth: int) -> Any:
        """Add the layers of a model that is called with ``operands`` and return its output."""
        if depth > MAX_DEPTH:
            raise CheckpointError(f"More than {MAX_DEPTH} models are nested in the model.")
        self.models += 1
        if self.models > MAX_MODELS:
            raise CheckpointError(f"The model calls nested models more than {MAX_MODELS} times.")
        config = model["config"]
        layers = config if isinstance(config, list) else config["layers"]
        self.layers += len(layers)
        if self.layers > MAX_LAYERS:
            raise CheckpointError(f"The model has more than {MAX_LAYERS:,} layers.")
        located = list(zip(layers, _locations(layers, location), strict=True))
        if model["class_name"] == "Sequential":
            return self._add_sequential(model, located, operands, depth)
        return self._add_functional(config, located, operands, depth)

    def _add_sequential(
        self, model: dict[str, Any], layers: list[tuple[Any, Location]], operands: list[Any], depth: int
    ) -> Any:
        config = model["config"]
        shapes = [config.get("build_input_shape")] if isinstance(config, dict) else []
        shapes.append((model.get("build_config") or {}).get("input_shape"))
        if layers:
            first = layers[0][0]["config"]
            shapes.insert(0, first.get("batch_input_shape") if isinstance(first, dict) else None)
        shape = next((shape for shape in shapes if shape), None)
        scope: dict[str, list[Any]] = {}
        x: Any = self._add_call(LayerCall("InputLayer", "input", {"batch_shape": shape}, operands), scope)
        for layer, location in layers:
            x = self._add_layer(layer, [x], {}, location, scope, depth)
        return x

    def _add_functional(
        self, config: dict[str, Any], layers: list[tuple[Any, Location]], operands: list[Any], depth: int
    ) -> Any:
        inputs, outputs = (list(references(config[name])) for name in ("input_layers", "output_layers"))
        for kind, ends in (("input", inputs), ("output", outputs)):
            if len(ends) != 1:
                raise CheckpointError(f"The model has {len(ends)} {kind}s. Only models with one are supported.")
        scope: dict[str, list[Any]] = {}
        for layer, location in layers:
            name = layer_name(layer)
            if name == inputs[0].layer:
                scope[name] = [self._add_call(LayerCall("InputLayer", name, layer["config"], operands), scope)]
                continue
            for node in layer.get("inbound_nodes") or ():
                node_operands, arguments = parse_node(node)
                if isinstance(node, dict) and layer["class_name"].startswith("Random"):
                    arguments.pop("training", None)  # Keras 3 stores the default, which is not used for inference
                output = self._add_layer(layer, node_operands, arguments, location, scope, depth)
                scope.setdefault(name, []).append(output)
        return _ModelOutput(scope, outputs[0])

    def _add_layer(
        self,
        layer: dict[str, Any],
        operands: list[Any],
        arguments: dict[str, Any],
        location: Location,
        scope: dict[str, list[Any]],
        depth: int,
    ) -> Any:
        class_name = layer_class(layer)
        if class_name not in MODEL_CLASSES:
            return self._add_call(
                LayerCall(class_name, location.names[-1], layer["config"], operands, arguments, location), scope
            )
        if arguments.get("training"):
            raise CheckpointError(
                f"The nested model {printable(location.names[-1])} is called with training=True, so its batch"
                " normalization depends on the other images of a batch. Call it with training=False and save it again."
            )
        entry = self._add_call(LayerCall("Identity", location.names[-1], {}, operands), scope)
        return self.add_model(_check_model(layer), [entry], location, depth + 1)

    def _add_call(self, call: LayerCall, scope: dict[str, list[Any]]) -> LayerCall:
        self.calls.append((call, scope))
        if len(self.calls) > MAX_CALLS:
            raise CheckpointError(f"The model calls its layers more than {MAX_CALLS:,} times.")
        return call

    def resolve_references(self) -> None:
        """Replace every reference among the operands by the call that it refers to."""
        for call, scope in self.calls:
            for index, operand in enumerate(call.operands):
                steps = 0
                while isinstance(operand, Reference | _ModelOutput):
                    operand = _ModelOutput(scope, operand) if isinstance(operand, Reference) else operand.resolve()
                    steps += 1
                    if steps > 2 * MAX_DEPTH + 2:
                        raise damaged_file_error("the model configuration refers to itself")
                call.operands[index] = operand


def _check_model(model: Any) -> dict[str, Any]:
    """Return the configuration of a model if its class is one of Keras' own."""
    if not isinstance(model, dict) or not isinstance(model.get("class_name"), str):
        raise damaged_file_error("the model configuration is malformed, it has no class_name")
    class_name, config = layer_class(model), model.get("config")
    has_layers = isinstance(config, list) or (isinstance(config, dict) and isinstance(config.get("layers"), list))
    if class_name not in MODEL_CLASSES or not has_layers:
        raise CheckpointError(
            f"The model is of the class {printable(model['class_name'])}, whose code is not part of the file. Only"
            " functional and sequential Keras models are supported."
        )
    return model


def _locations(layers: list[Any], model: Location) -> Iterator[Location]:
    """Yield the location of each layer of a model. Keras numbers the groups of each class in ``.weights.h5``."""
    counts: Counter[str] = Counter()
    for layer in layers:
        class_name = layer_class(layer)
        group = _snake_case(layer["class_name"])
        number = counts[group]
        if not class_name.startswith("ops."):
            counts[group] += 1
        group_name = f"{group}_{number}" if number else group
        yield Location((*model.names, layer_name(layer)), (*model.groups, group_name))


def _snake_case(name: str) -> str:
    """Return the name of a group for a class, as ``keras.src.utils.naming.to_snake_case`` does."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def is_identity(call: LayerCall) -> bool:
    """Return whether a call changes nothing at inference."""
    if call.class_name in ("ops.Cast", "tf.cast"):
        return (call.config.get("dtype") or call.arguments.get("dtype")) in FLOAT_TYPES
    if call.class_name == "Activation":
        return call.config["activation"] in (None, "linear")
    if call.class_name in (*DROPOUTS, *AUGMENTATIONS) and call.arguments.get("training"):
        raise CheckpointError(
            f"The layer {call} is called with training=True, so the results are random. Call it without and save the"
            " model again."
        )
    return call.class_name in IDENTITIES


def check_channels_last(call: LayerCall) -> None:
    """Raise ``CheckpointError`` if a layer has another order of axes."""
    if call.config.get("data_format", "channels_last") not in ("channels_last", None):
        raise CheckpointError(f"The layer {call} has the data format channels_first. Only channels_last is supported.")
