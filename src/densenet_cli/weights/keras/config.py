"""The configuration of a Keras model: what a ``.keras`` or ``.h5`` file states besides its arrays.

The model must be a sequence of pixel operations, a DenseNet with the layer names of ``keras.applications`` (nested or
not), a pooling, and a head. Everything is read from JSON; nothing that it names is imported or run.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from densenet_cli.errors import CheckpointError
from densenet_cli.topology import DenseNetConfig, HeadLayer, Resize
from densenet_cli.weights.contents import ModelMetadata
from densenet_cli.weights.keras.backbone import find_backbone, own_epsilons
from densenet_cli.weights.keras.graph import LayerCall, build_graph
from densenet_cli.weights.keras.head import Head, find_pooling, read_head
from densenet_cli.weights.keras.preprocessing import ReadArray, read_input_stage
from densenet_cli.weights.keras.serialization import malformed_config_errors, printable

SOFTMAX_LOSSES = (
    "categoricalcrossentropy",
    "sparsecategoricalcrossentropy",
    "categoricalfocalcrossentropy",
)
SIGMOID_LOSSES = ("binarycrossentropy", "binaryfocalcrossentropy")
REGRESSION_LOSSES = (
    *("meansquarederror", "mse", "meanabsoluteerror", "mae", "meanabsolutepercentageerror", "mape"),
    *("meansquaredlogarithmicerror", "msle", "huber", "huberloss", "logcosh", "poisson", "cosinesimilarity"),
)
"""Names of losses in lower case, without underscores."""


class KerasModel(NamedTuple):
    """What a configuration states.

    Attributes:
        layers: Layer name in our network -> the layer in the file, for layers with arrays.
        bn_epsilons: Layer name -> epsilon, for batch norms whose epsilon is not ``BN_EPSILON``.
        stem: A key of ``topology.STEMS``.
        pooling: One of ``topology.POOLINGS``, or None for a model that ends with the feature maps.
        head: The layers after the pooling. Empty for a model without a head, or without a supported one.
        resize: The resizing that the network starts with, or None.
        metadata: Activation, preprocessing, and notes.
    """

    layers: dict[str, LayerCall]
    bn_epsilons: dict[str, float]
    stem: str
    pooling: str | None
    head: tuple[HeadLayer, ...]
    resize: Resize | None
    metadata: ModelMetadata


def read(model: Any, loss: Any, read_array: ReadArray, white: float | None = None) -> KerasModel:
    """Read the configuration of a model.

    Args:
        model: The parsed configuration.
        loss: The loss in the configuration of the training, or None.
        read_array: Returns the values of an array of a layer in the file.
        white: The value of white in the input, or None to infer it from the pixel operations.

    Raises:
        CheckpointError: The model is not supported, or the configuration is malformed.
    """
    with malformed_config_errors():
        graph = build_graph(model)
        stage = read_input_stage(graph, read_array, white)
        backbone = find_backbone(graph, stage.last)
        size = stage.resize.side if stage.resize else stage.size
        layers, epsilons = backbone.layers, own_epsilons(backbone.layers)
        activation = note = head_error = None
        try:
            head = read_head(graph, backbone.features, size and backbone.feature_size(size))
            activation, note = _output_activation(head, loss)
            if activation == "softmax" and _count_classes(head) == 1:
                raise CheckpointError("The softmax of a single output is always 1, so the model cannot classify.")
            head_calls = _head_calls(head)
            layers, epsilons = {**layers, **head_calls}, {**epsilons, **own_epsilons(head_calls)}
        except CheckpointError as error:  # embeddings and training need no head
            head, head_error = Head(find_pooling(graph, backbone.features)), str(error)
            note = f"The network is read without its head. {head_error}"
        notes = (*stage.notes, *([note] if note else []))
        return KerasModel(
            layers,
            epsilons,
            backbone.stem,
            head.pooling,
            head.layers,
            stage.resize,
            ModelMetadata(
                input_size=stage.size,
                activation=activation,
                lacks_activation=bool(head.layers) and activation is None,
                mean=stage.mean,
                std=stage.std,
                crop_ratio=stage.crop_ratio,
                head_error=head_error,
                notes=notes,
            ),
        )


def check_class(model: Any) -> None:
    """Raise ``CheckpointError`` if the configuration is not that of a functional or sequential model."""
    with malformed_config_errors():
        build_graph(model)


def _count_classes(head: Head) -> int:
    return [0, *(layer.units for layer in head.layers if layer.kind == "dense")][-1]


def _head_calls(head: Head) -> dict[str, LayerCall]:
    """Return layer name -> call, for the layers of the head with arrays."""
    if not head.layers:
        return {}
    names = DenseNetConfig(
        (1,), classes=_count_classes(head), pooling=head.pooling or "avg", head=head.layers
    ).head_layers
    return {
        name: call
        for name, layer, call in zip(names, head.layers, head.calls, strict=True)
        if layer.kind in ("dense", "batch_norm")
    }


def _output_activation(head: Head, loss: Any) -> tuple[str | None, str | None]:
    """Return ``softmax`` or ``sigmoid`` if the file states it, and a note if it does not."""
    if not head.layers:
        return None, None
    if head.activation != "linear":
        return head.activation, None
    name, from_logits = _loss(loss)
    if name is None:
        return None, "The model's output is linear and the file contains no loss, so it does not state an activation."
    key = name.lower().replace("_", "").rpartition(">")[2]
    if key in REGRESSION_LOSSES:
        raise CheckpointError(
            f"The model has a linear output and was trained with the loss {name}, so it is not a classifier."
        )
    if key in SOFTMAX_LOSSES:
        return "softmax", None if from_logits else f"The output is linear. Softmax follows from the loss {name}."
    if key in SIGMOID_LOSSES and from_logits:
        return "sigmoid", None
    return None, f"The model's output is linear, and its activation does not follow from the loss {name}."


def _loss(value: Any) -> tuple[str | None, bool]:
    """Return the name of a loss for a message, and its argument ``from_logits``."""
    if isinstance(value, dict) and "class_name" not in value and len(value) == 1:
        value = next(iter(value.values()))  # one loss per output
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        return printable(value), False
    if isinstance(value, dict):
        config = value.get("config")
        if isinstance(config, str):
            return printable(config), False
        name = value.get("class_name")
        if isinstance(name, str):
            return printable(name), isinstance(config, dict) and config.get("from_logits") is True
    return None, False
