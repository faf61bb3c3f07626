"""The checkpoint formats of Keras: legacy HDF5, ``.weights.h5``, and the ``.keras`` archive.

Legacy (Keras 2, and ``save("x.h5")`` in Keras 3): one group per layer, at the root or in ``model_weights``. The
attribute ``layer_names`` of the parent lists them, and ``weight_names`` of each lists its datasets. A name with slashes
is a path.

``.weights.h5``: groups named by class and number, such as ``layers/batch_normalization_7/vars/0``. The attribute
``name`` of ``vars`` is the layer's own name. Files of Keras 3.0 to 3.3 do not have it, so there the layers are
identified by their order.

``.keras``: a zip archive with such a ``.weights.h5``. Its ``config.json`` can name code to run and is never opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from densenet_cli.errors import CheckpointError
from densenet_cli.layers import BN_ARRAYS
from densenet_cli.weights import hdf5, zip_archives
from densenet_cli.weights.contents import CheckpointContents, StoredArray, StoredLayers
from densenet_cli.weights.hdf5 import Group

OLD_LAYER_NAMES = {"conv1/conv": "conv1_conv", "conv1/bn": "conv1_bn", "fc1000": "predictions"}
"""Layer names in the published files -> in current versions of Keras."""

ARRAY_NAMES = {"conv2d": ("kernel",), "batch_normalization": BN_ARRAYS, "dense": ("kernel", "bias")}
"""Layer class in ``.weights.h5`` -> the names of its arrays, by number."""

LAYER_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")
"""The group with the layers in ``.weights.h5``: the current name, and that of Keras 2.12 and 2.13."""

UNNAMED_LAYER = re.compile(r"(conv2d|batch_normalization|dense)(?:_\d+)?")

ARCHIVE_MEMBER = "model.weights.h5"
MAX_ZIP_DIRECTORY = 1 << 18
"""Bytes. The directory of three members has 200."""


@contextmanager
def open_contents(source: Path | bytes) -> Iterator[CheckpointContents]:
    """Open an HDF5 checkpoint, given its path or its bytes. Raises ``CheckpointError`` if it is invalid."""
    with hdf5.open_file(source) as root:
        yield _contents(root)


def read_archive(path: Path) -> bytes:
    """Return the HDF5 checkpoint in a ``.keras`` archive. Raises ``CheckpointError`` if it is invalid."""
    with zip_archives.open_archive(path, MAX_ZIP_DIRECTORY) as archive:
        if ARCHIVE_MEMBER not in archive.namelist():
            raise CheckpointError(f"It is a zip archive without {ARCHIVE_MEMBER}, so it is not a .keras file.")
        return zip_archives.read_member(archive, ARCHIVE_MEMBER)


def _contents(root: Group) -> CheckpointContents:
    for group in (root, root.group("model_weights") if root.has("model_weights") else root):
        # Keras splits a long list into layer_names0, layer_names1, ...
        if group.has_attribute("layer_names") or group.has_attribute("layer_names0"):
            return CheckpointContents(_legacy_layers(group), root.file_size)
    for container in LAYER_CONTAINERS:
        if root.has(container):
            return _numbered_contents(root.group(container))
    raise CheckpointError("It is an HDF5 file that does not contain the layers of a Keras model.")


def _legacy_layers(root: Group) -> StoredLayers:
    """Return the layers of the legacy format: the groups with a list of weights. The lists add no information."""
    layers: StoredLayers = {}
    stack = [("", root)]
    while stack:
        name, group = stack.pop()
        if group.has_attribute("weight_names") or group.has_attribute("weight_names0"):
            arrays = {path.rpartition("/")[2].removesuffix(":0"): array for path, array in group.arrays().items()}
            if arrays:
                layers[OLD_LAYER_NAMES.get(name, name)] = arrays
        else:
            for member_name, member in group.members():
                if isinstance(member, Group):
                    stack.append((f"{name}/{member_name}" if name else member_name, member))
    return layers


def _numbered_contents(root: Group) -> CheckpointContents:
    layers: StoredLayers = {}
    layer_names: dict[str, str] = {}
    for group_name, group in sorted(root.members(), key=lambda member: _class_and_number(member[0])):
        if not isinstance(group, Group) or not group.has("vars"):
            continue
        variables = group.group("vars")
        array_names = ARRAY_NAMES.get(_class_and_number(group_name)[0], ())
        arrays: dict[str, StoredArray] = {}
        for number, array in variables.arrays().items():
            known = re.fullmatch("[0-3]", number) and int(number) < len(array_names)
            arrays[array_names[int(number)] if known else number] = array
        if not arrays:
            continue
        layers[group_name] = arrays
        if variables.has_attribute("name"):
            layer_names[group_name] = variables.string_attribute("name")
    if len(layer_names) < len(layers):
        return CheckpointContents(_name_layers_by_order(layers), root.file_size)
    if len(set(layer_names.values())) < len(layers):
        raise CheckpointError("Two layers have the same name.")
    named = {OLD_LAYER_NAMES.get(layer_names[name], layer_names[name]): arrays for name, arrays in layers.items()}
    return CheckpointContents(named, root.file_size)


def _class_and_number(group_name: str) -> tuple[str, int]:
    """Split ``batch_normalization_7`` into ("batch_normalization", 7). The first group of a class has no number."""
    match = re.fullmatch(r"(.+?)(?:_(\d{1,6}))?", group_name, re.DOTALL)
    return (match[1], int(match[2] or 0)) if match else (group_name, 0)


def _name_layers_by_order(layers: StoredLayers) -> StoredLayers:
    """Rename layers, which are in the order of creation within each class, to Keras' names for a DenseNet.

    The first convolution is the stem. After it, a 1x1 followed by a 3x3 convolution is a layer of a dense block, and a
    1x1 followed by another 1x1 is a transition.
    """
    groups: dict[str, list[str]] = {"conv2d": [], "batch_normalization": [], "dense": []}
    for group_name in layers:
        match = UNNAMED_LAYER.fullmatch(group_name)
        if not match:
            raise CheckpointError(f"Layer {group_name} is not part of a DenseNet.")
        groups[match[1]].append(group_name)
    kernels = [layers[name].get("kernel") for name in groups["conv2d"]]
    convs, norms = _conv_and_norm_names([kernel.shape[0] if kernel and kernel.shape else 0 for kernel in kernels])
    if len(groups["batch_normalization"]) == len(norms) + 1:
        norms.insert(0, "conv1_bn")
    names = {"conv2d": convs, "batch_normalization": norms, "dense": ["predictions"]}
    for class_name, expected in names.items():
        if len(groups[class_name]) != len(expected):
            raise CheckpointError(
                f"Expected {len(expected)} {class_name} layers, found {len(groups[class_name])}. The layers in the file"
                " have no names, so they are identified by their order."
            )
    return {
        name: layers[group_name]
        for class_name, expected in names.items()
        for group_name, name in zip(groups[class_name], expected, strict=True)
    }


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
