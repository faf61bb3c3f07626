"""The ways in which Keras has laid out weights in HDF5.

Legacy (Keras 2, and ``save("x.h5")`` still): a group a layer, at the root or below ``model_weights``, where the
attribute ``layer_names`` lists them; each one's ``weight_names`` lists its datasets. A name with slashes is a path.

Today's (``.weights.h5``, also the one in a ``.keras`` archive): groups by class and count, such as
``layers/batch_normalization_7/vars/0``. The layer's own name is an attribute of ``vars``; files of Keras 3.0 to 3.3
have none.
"""

from __future__ import annotations

import re

from densenet_cli.errors import CheckpointError
from densenet_cli.weights.contents import Contents, StoredArray, StoredLayers
from densenet_cli.weights.hdf5 import Group

PUBLISHED_NAMES = {"conv1/conv": "conv1_conv", "conv1/bn": "conv1_bn", "fc1000": "predictions"}
"""What layers are called in the published files -> what they are called since."""

CLASSES = {
    "conv2d": ("kernel",),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "dense": ("kernel", "bias"),
}
"""Class of a layer -> its arrays, in the order in which they are numbered."""

PARTS = ("0", "1", "2", "3")

CONTAINERS = ("layers", "_layer_checkpoint_dependencies")
"""The group that holds the layers, today and in Keras 2.12 and 2.13."""


def contents(root: Group) -> Contents:
    """What an HDF5 file holds, whichever the layout. Raises ``CheckpointError`` where it is neither."""
    for group in (root, root.group("model_weights") if root.has("model_weights") else root):
        # A long list is split: layer_names0, layer_names1, ...
        if group.has_attribute("layer_names") or group.has_attribute("layer_names0"):
            return Contents(_legacy(group), root.file_size)
    for container in CONTAINERS:
        if root.has(container):
            return _numbered(root.group(container))
    raise CheckpointError("it is an HDF5 file without a Keras model's layers")


def _legacy(root: Group) -> StoredLayers:
    """The groups that list weights, under their paths. The lists themselves only repeat what lies in the groups."""
    layers: StoredLayers = {}
    waiting = [("", root)]
    while waiting:
        name, group = waiting.pop()
        if group.has_attribute("weight_names") or group.has_attribute("weight_names0"):
            held = {path.rpartition("/")[2].removesuffix(":0"): array for path, array in group.arrays().items()}
            if held:
                layers[PUBLISHED_NAMES.get(name, name)] = held
        else:
            for below, member in group.members():
                if isinstance(member, Group):
                    waiting.append((f"{name}/{below}" if name else below, member))
    return layers


def _numbered(root: Group) -> Contents:
    layers: StoredLayers = {}
    own_names: dict[str, str] = {}
    for name, group in sorted(root.members(), key=lambda member: _class_and_count(member[0])):
        if not isinstance(group, Group) or not group.has("vars"):
            continue
        stored = group.group("vars")
        parts = CLASSES.get(_class_and_count(name)[0], ())
        held: dict[str, StoredArray] = {}
        for number, array in stored.arrays().items():
            held[parts[int(number)] if number in PARTS and int(number) < len(parts) else number] = array
        if not held:
            continue
        layers[name] = held
        if stored.has_attribute("name"):
            own_names[name] = stored.string("name")
    if len(own_names) < len(layers):
        return Contents(layers, root.file_size, named=False)
    if len(set(own_names.values())) < len(layers):
        raise CheckpointError("two of its layers have the same name")
    named = {PUBLISHED_NAMES.get(own_names[name], own_names[name]): held for name, held in layers.items()}
    return Contents(named, root.file_size)


def _class_and_count(name: str) -> tuple[str, int]:
    """``batch_normalization_7`` -> ("batch_normalization", 7); the first of a class has no number."""
    match = re.fullmatch(r"(.+?)(?:_(\d{1,6}))?", name, re.DOTALL)
    return (match[1], int(match[2] or 0)) if match else (name, 0)
