"""Keras weights without a configuration: what the names of groups and arrays reveal.

``.weights.h5`` files and the weights-only ``.h5`` files of Keras 2 contain neither the order of the layers nor their
arguments. The backbone has known names, or is identified by the order of creation. A head of one dense layer with at
most one batch normalization is determined; a larger one is not.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from densenet_cli.errors import CheckpointError
from densenet_cli.layers import BN_ARRAYS
from densenet_cli.topology import HeadLayer
from densenet_cli.weights.contents import (
    CheckpointContents,
    ModelMetadata,
    StoredArray,
    StoredLayers,
    constant_array,
)
from densenet_cli.weights.keras.backbone import OLD_LAYER_NAMES
from densenet_cli.weights.keras.hdf5 import Group
from densenet_cli.weights.recognition import BLOCK_LAYER

ARRAY_NAMES = {"conv2d": ("kernel",), "batch_normalization": BN_ARRAYS, "dense": ("kernel", "bias")}
"""Layer class in ``.weights.h5`` -> the names of its arrays, by number."""

BACKBONE_LAYER = re.compile(r"conv1(_[23])?_(conv|bn)|pool\d+_(conv|bn)|bn")
BACKBONE_ACTIVATION = re.compile(r"(conv|pool)\d.*relu|relu")
POOLING_GROUPS = {
    "global_average_pooling2d": "avg",
    "global_max_pooling2d": "max",
    "flatten": "flatten",
    "avg_pool": "avg",  # the names in keras.applications
    "max_pool": "max",
}
PIXEL_GROUPS = ("rescaling", "normalization", "resizing", "center_crop", "random_crop")
ACTIVATION_GROUPS = ("activation", "re_lu", "leaky_re_lu", "elu", "p_re_lu", "thresholded_re_lu")
DEFAULT_BN_EPSILON = 1e-3
"""The epsilon of Keras' BatchNormalization."""


class NamedArrays(NamedTuple):
    """A layer with arrays that is not part of the backbone: its name, and its arrays by name."""

    name: str
    arrays: dict[str, StoredArray]


class StoredWeights(NamedTuple):
    """The layers in a file.

    Attributes:
        backbone: The layers of the backbone, under the names of ``keras.applications``.
        others: The other layers with arrays.
        classes: The classes of the other layers, including those without arrays, such as ``flatten``.
    """

    backbone: StoredLayers
    others: list[NamedArrays]
    classes: set[str]


def contents(weights: StoredWeights, file_size: int) -> CheckpointContents:
    """Return the contents of a file, given its layers.

    Raises:
        CheckpointError: There are several poolings.
    """
    notes = [
        f"The file contains the layer {group}, but not what it does to pixels."
        for group in PIXEL_GROUPS
        if group in weights.classes
    ]
    others = [other for other in weights.others if class_and_number(other.name)[0] != "normalization"]
    dense = [other for other in others if "kernel" in other.arrays]
    norms = [other for other in others if "gamma" in other.arrays]
    has_own_names = len(others) > 1 and any(other.name == "predictions" for other in others)
    if has_own_names or len(dense) + len(norms) < len(others) or (norms and not dense):
        # The validation reports layers that do not belong to a DenseNet.
        return CheckpointContents(
            {**weights.backbone, **{other.name: other.arrays for other in others}},
            file_size,
            metadata=ModelMetadata(notes=tuple(notes)),
            pooling=_pooling(weights, None),
        )
    head_error = pooling = None
    try:
        head, layers = _order_head(dense, norms, weights.classes) if dense else ((), {})
        pooling = _pooling(weights, dense[0] if len(head) == 1 else None)
    except CheckpointError as error:  # embeddings and training need no head
        head, layers, norms, head_error = (), {}, [], str(error)
        notes.append(f"The network is read without its head. {head_error}")
    if pooling is None:
        notes.append("The file does not state a pooling, so the average is assumed.")
    if norms:
        notes.append(f"The epsilon of the layer {norms[0].name} is assumed to be {DEFAULT_BN_EPSILON}.")
    return CheckpointContents(
        {**weights.backbone, **layers},
        file_size,
        metadata=ModelMetadata(
            activation="softmax" if "softmax" in weights.classes else None,
            head_error=head_error,
            notes=tuple(notes),
        ),
        bn_epsilons={name: DEFAULT_BN_EPSILON for name in layers if name != "predictions"},
        pooling=pooling,
        head=head,
    )


def _order_head(
    dense: list[NamedArrays], norms: list[NamedArrays], classes: set[str]
) -> tuple[tuple[HeadLayer, ...], StoredLayers]:
    """Return the layers of a head, and their arrays under the names of our network."""
    if len(dense) > 1 or len(norms) > 1 or (norms and classes.intersection(ACTIVATION_GROUPS)):
        names = ", ".join(other.name for other in (*norms, *dense)[:4])
        raise CheckpointError(
            f"The head has several layers ({names}), and a file of weights does not state their order and activations."
            " Use the file that model.save() writes (.keras or .h5)."
        )
    kernel = dense[0].arrays["kernel"].shape
    if len(kernel) != 2:
        raise CheckpointError(f"Layer {dense[0].name}: expected a kernel with 2 axes, found shape {kernel}.")
    arrays = dict(dense[0].arrays)
    if "bias" not in arrays and dense[0].name != "predictions":
        arrays["bias"] = constant_array((kernel[1],), 0.0)
    predictions, head = {"predictions": arrays}, [HeadLayer("dense", kernel[1])]
    if not norms:
        return tuple(head), predictions
    channels = norms[0].arrays["gamma"].shape
    if kernel[0] == kernel[1] or channels not in ((kernel[0],), (kernel[1],)):
        raise CheckpointError(
            f"Whether the layer {norms[0].name} precedes or follows the layer {dense[0].name} does not follow from"
            " their shapes. Use the file that model.save() writes (.keras or .h5)."
        )
    position = 0 if channels == (kernel[0],) else 1
    head.insert(position, HeadLayer("batch_norm"))
    return tuple(head), {**predictions, f"head_{position + 1}": norms[0].arrays}


def _pooling(weights: StoredWeights, dense: NamedArrays | None) -> str | None:
    poolings = {POOLING_GROUPS[name] for name in weights.classes if name in POOLING_GROUPS}
    if len(poolings - {"flatten"}) == 1:
        return (poolings - {"flatten"}).pop()  # flattens what is a vector already
    if len(poolings) > 1:
        raise CheckpointError("The file contains several poolings. Use the file that model.save() writes.")
    if poolings:
        return poolings.pop()
    # More rows than feature maps: the feature maps were flattened.
    gamma = weights.backbone.get("bn", {}).get("gamma")
    rows = dense.arrays["kernel"].shape[0] if dense else 0
    if gamma and math.prod(gamma.shape) and rows > math.prod(gamma.shape):
        return "flatten"
    return None


def legacy_weights(root: Group) -> StoredWeights:
    """Return the layers of the legacy format: the groups with a list of weights. The lists add no information."""
    backbone: StoredLayers = {}
    others: list[NamedArrays] = []
    classes: set[str] = set()
    stack = [("", root)]
    while stack:
        name, group = stack.pop()
        if not (group.has_attribute("weight_names") or group.has_attribute("weight_names0")):
            for member_name, member in group.members():
                if isinstance(member, Group):
                    stack.append((f"{name}/{member_name}" if name else member_name, member))
            continue
        layers: StoredLayers = {}
        for path, array in group.arrays().items():
            layer, _, array_name = path.rpartition("/")
            layers.setdefault(layer, {})[array_name.removesuffix(":0")] = array
        if len(layers) == 1:
            layers = {name: next(iter(layers.values()))}  # what its arrays are called does not matter
        if not layers:
            classes.add(class_and_number(name)[0])
        for layer_name, arrays in layers.items():
            _add(backbone, others, classes, layer_name, arrays)
    return StoredWeights(backbone, others, classes)


def _add(
    backbone: StoredLayers, others: list[NamedArrays], classes: set[str], name: str, arrays: dict[str, StoredArray]
) -> None:
    name = OLD_LAYER_NAMES.get(name, name)
    if _is_backbone_layer(name):
        if name in backbone:
            raise CheckpointError(f"Two layers have the name {name}.")
        backbone[name] = arrays
    else:
        others.append(NamedArrays(name, arrays))
        classes.add(class_and_number(name)[0])


def _is_backbone_layer(name: str) -> bool:
    return bool(BACKBONE_LAYER.fullmatch(name) or BLOCK_LAYER.match(name))


def numbered_weights(container: Group) -> StoredWeights:
    """Return the layers of ``.weights.h5``, given the group that contains them."""
    backbone: StoredLayers = {}
    others: list[NamedArrays] = []
    classes: set[str] = set()
    stack = [container]
    while stack:
        group = stack.pop()
        named: StoredLayers = {}
        unnamed: StoredLayers = {}
        activations = 0
        for group_name, member in sorted(group.members(), key=lambda item: class_and_number(item[0])):
            if not isinstance(member, Group):
                continue
            name = container.path.rpartition("/")[2]
            if member.has(name):
                stack.append(member.group(name))
            if not member.has("vars"):
                continue
            variables = member.group("vars")
            class_name = class_and_number(group_name)[0]
            arrays = name_arrays(variables, ARRAY_NAMES.get(class_name, ()))
            layer_name = variables.string_attribute("name") if variables.has_attribute("name") else None
            if not arrays and class_name == "activation":
                activations += layer_name is None or not BACKBONE_ACTIVATION.fullmatch(layer_name)
            elif not arrays:
                classes.add(class_name)
            elif layer_name is not None:
                if layer_name in named:
                    raise CheckpointError("Two layers have the same name.")
                named[layer_name] = arrays
            else:
                unnamed[group_name] = arrays
        if unnamed:
            named, unnamed = {}, {**named, **unnamed}
            named = _name_layers_by_order(unnamed)
            # An activation follows each batch norm of the backbone.
            activations -= sum("gamma" in arrays for name, arrays in named.items() if _is_backbone_layer(name))
        if activations > 0:
            classes.add("activation")
        for layer_name, arrays in named.items():
            _add(backbone, others, classes, layer_name, arrays)
    return StoredWeights(backbone, others, classes)


def name_arrays(variables: Group, names: tuple[str, ...]) -> dict[str, StoredArray]:
    """Return the arrays of a layer in ``.weights.h5``, whose names there are numbers, by name."""
    arrays: dict[str, StoredArray] = {}
    for number, array in variables.arrays().items():
        has_name = re.fullmatch("[0-3]", number) and int(number) < len(names)
        arrays[names[int(number)] if has_name else number] = array
    return arrays


def class_and_number(group_name: str) -> tuple[str, int]:
    """Split ``batch_normalization_7`` into ("batch_normalization", 7). The first group of a class has no number."""
    match = re.fullmatch(r"(.+?)(?:_(\d{1,6}))?", group_name, re.DOTALL)
    return (match[1], int(match[2] or 0)) if match else (group_name, 0)


def _name_layers_by_order(layers: StoredLayers) -> StoredLayers:
    """Rename layers, which are in the order of creation within each class, to Keras' names for a DenseNet.

    The first convolution is the stem. After it, a 1x1 followed by a 3x3 convolution is a layer of a dense block, and a
    1x1 followed by another 1x1 is a transition. The first batch norms belong to the backbone.
    """
    groups: dict[str, list[str]] = {"conv2d": [], "batch_normalization": []}
    named: StoredLayers = {}
    for group_name, arrays in layers.items():
        class_name = class_and_number(group_name)[0]
        if class_name in groups:
            groups[class_name].append(group_name)
        elif class_name in ("dense", *PIXEL_GROUPS):
            named[group_name] = arrays
        else:
            raise CheckpointError(f"Layer {group_name} is not part of a DenseNet.")
    if not groups["conv2d"]:
        return layers
    kernels = [layers[name].get("kernel") for name in groups["conv2d"]]
    convs, norms = _conv_and_norm_names([kernel.shape[0] if kernel and kernel.shape else 0 for kernel in kernels])
    # With only the backbone's batch norms, one more than expected is the stem's. With a head, the stem has one, too.
    if len(groups["batch_normalization"]) > len(norms):
        norms.insert(0, "conv1_bn")
    names = {"conv2d": convs, "batch_normalization": norms}
    for class_name, expected in names.items():
        if len(groups[class_name]) < len(expected):
            raise CheckpointError(
                f"Expected {len(expected)} {class_name} layers, found {len(groups[class_name])}. The layers in the file"
                " have no names, so they are identified by their order."
            )
        for group_name, name in zip(groups[class_name], expected, strict=False):
            named[name] = layers[group_name]
        for group_name in groups[class_name][len(expected) :]:
            named[group_name] = layers[group_name]
    return named


def _conv_and_norm_names(kernel_sizes: list[int]) -> tuple[list[str], list[str]]:
    """Return the names of the convolutions, and of the batch norms between them except for the stem's."""
    convs, norms = ["conv1_conv"], []
    stage, layer, index = 2, 1, 1
    while index < len(kernel_sizes):
        pair = kernel_sizes[index : index + 2]
        if pair == [1, 3]:
            name = f"conv{stage}_block{layer}"
            convs += [f"{name}_1_conv", f"{name}_2_conv"]
            norms += [f"{name}_0_bn", f"{name}_1_bn"]
            layer, index = layer + 1, index + 2
        elif pair == [1, 1] and layer > 1:
            convs.append(f"pool{stage}_conv")
            norms.append(f"pool{stage}_bn")
            stage, layer, index = stage + 1, 1, index + 1
        else:
            raise CheckpointError(f"The convolutions are not in the order of a DenseNet (from number {index + 1}).")
    return convs, [*norms, "bn"]
