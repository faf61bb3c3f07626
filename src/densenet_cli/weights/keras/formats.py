"""The checkpoint formats of Keras: legacy HDF5, ``.weights.h5``, and the ``.keras`` archive.

Legacy (Keras 2, and ``save("x.h5")`` in Keras 3): one group per layer, at the root or in ``model_weights``. The
attribute ``weight_names`` of each lists its datasets. A name with slashes is a path. The group of a nested model
contains the arrays of all its layers. ``save`` adds the attributes ``model_config`` and ``training_config``.

``.weights.h5``: groups named by class and number, such as ``layers/batch_normalization_7/vars/0``. The attribute
``name`` of ``vars`` is the layer's own name. Files of tf_keras and of Keras 3.0 to 3.3 do not have it. A nested model
is a group with such groups: ``layers/functional/layers/conv2d``.

``.keras``: a zip archive with ``config.json``, ``metadata.json``, and such a ``.weights.h5``. The Hugging Face Hub has
the same files in a folder. The configuration is read as data (see ``keras.config``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from densenet_cli.errors import CheckpointError
from densenet_cli.weights import zip_archives
from densenet_cli.weights.contents import (
    CONFIG_FILE,
    CheckpointContents,
    StoredArray,
    StoredLayers,
    config_path,
    constant_array,
    damaged_file_error,
)
from densenet_cli.weights.keras import hdf5
from densenet_cli.weights.keras import weights as keras_weights
from densenet_cli.weights.keras.graph import LayerCall
from densenet_cli.weights.keras.hdf5 import Group
from densenet_cli.weights.keras.serialization import MAX_CONFIG_SIZE, parse_json, printable
from densenet_cli.weights.metadata import parse_description

LAYER_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")
"""The group with the layers in ``.weights.h5``: the current name, and that of Keras 2.12 and 2.13."""

DESCRIPTION_FILE = "densenet.json"
"""What ``densenet export`` adds to an archive. Keras ignores it, and does not keep it when a model is saved again."""
DESCRIBED_WHITE = 255.0
"""The value of white in the input of an exported model that contains its preprocessing."""
MAX_ZIP_DIRECTORY = 1 << 18
"""Bytes. The directory of three members has 200."""
SHARD_NAME = re.compile(r"(.+)_\d{5}\.weights\.h5", re.ASCII)
MAX_STATISTICS = 16
"""Values of a mean or variance of pixels."""

LayerArrays = Callable[[LayerCall], dict[str, StoredArray]]
"""Returns the arrays of a layer in a file by name."""


@contextmanager
def open_contents(path: Path) -> Iterator[CheckpointContents]:
    """Open an HDF5 checkpoint. Raises ``CheckpointError`` if it is invalid.

    ``model.weights.h5`` can have a ``config.json`` beside it: both are an unpacked ``.keras`` archive.
    """
    _check_complete(path)
    config = b""
    if path.name == zip_archives.KERAS_WEIGHTS and config_path(path).is_file():
        with config_path(path).open("rb") as file:
            config = file.read(MAX_CONFIG_SIZE + 1)
    with hdf5.open_file(path) as root:
        if b"class_name" not in config:
            yield _contents(root)
            return
        contents = _archive_contents(root, config)
        yield contents._replace(metadata=replace(contents.metadata, uses_config_file=True))


@contextmanager
def open_archive(path: Path) -> Iterator[CheckpointContents]:
    """Open a ``.keras`` archive. Raises ``CheckpointError`` if it is invalid."""
    with zip_archives.open_archive(path, MAX_ZIP_DIRECTORY) as archive:
        members = archive.namelist()
        if zip_archives.KERAS_WEIGHTS not in members:
            raise CheckpointError(
                f"It is a zip archive without {zip_archives.KERAS_WEIGHTS}, so it is not a .keras file."
            )
        has_config = CONFIG_FILE in members
        config = zip_archives.read_member(archive, CONFIG_FILE, MAX_CONFIG_SIZE) if has_config else None
        weights = zip_archives.read_member(archive, zip_archives.KERAS_WEIGHTS)
        is_described = DESCRIPTION_FILE in members
        description = zip_archives.read_member(archive, DESCRIPTION_FILE, MAX_CONFIG_SIZE) if is_described else None
    with hdf5.open_file(weights) as root:
        contents = _archive_contents(root, config, DESCRIBED_WHITE if is_described else None)
        yield contents if description is None else _add_description(contents, description)


def _add_description(contents: CheckpointContents, description: bytes) -> CheckpointContents:
    """Add what ``densenet export`` says about a model that is not part of the model itself."""
    described = parse_description(description)
    kernel = contents.layers.get("predictions", {}).get("kernel")
    if described.labels and kernel and len(described.labels) != kernel.shape[-1]:
        raise CheckpointError(f"{DESCRIPTION_FILE} has {len(described.labels)} labels for {kernel.shape[-1]} classes.")
    stated = {name: value for name, value in vars(contents.metadata).items() if value}
    return contents._replace(metadata=replace(described, **stated))


def _check_complete(path: Path) -> None:
    """Raise ``CheckpointError`` if the file is one of several that ``save_weights`` wrote with ``max_shard_size``."""
    match = SHARD_NAME.fullmatch(path.name)
    if match and path.with_name(f"{match[1]}_00001.weights.h5").exists():
        raise CheckpointError(
            "It is one of several files with the weights of a Keras model, which is not supported. Save them in one"
            " file, without the argument max_shard_size."
        )


def _archive_contents(root: Group, config: bytes | None, white: float | None = None) -> CheckpointContents:
    """Return the contents of a ``.keras`` file, given its configuration, or None for a file without one.

    See ``config.read`` for ``white``.
    """
    if config is None:
        return _contents(root)
    from densenet_cli.weights.keras import config as keras_config

    model = parse_json(config)
    if not isinstance(model, dict):
        raise damaged_file_error(f"{CONFIG_FILE} does not contain a model")
    container = _layer_container(root)
    if container is None:
        keras_config.check_class(model)
        raise damaged_file_error("the weights do not contain the layers of the model")
    compile_config = model.get("compile_config")
    loss = compile_config.get("loss") if isinstance(compile_config, dict) else None
    return _configured_contents(model, loss, _NumberedArrays(container), root.file_size, white)


def _contents(root: Group) -> CheckpointContents:
    for group in (root, root.group("model_weights") if root.has("model_weights") else root):
        # Keras splits a long list into layer_names0, layer_names1, ...
        if group.has_attribute("layer_names") or group.has_attribute("layer_names0"):
            if not root.has_attribute("model_config"):
                return keras_weights.contents(keras_weights.legacy_weights(group), root.file_size)
            model = parse_json(root.string_attribute("model_config", MAX_CONFIG_SIZE))
            training = None
            if root.has_attribute("training_config"):
                training = parse_json(root.string_attribute("training_config", MAX_CONFIG_SIZE))
            loss = training.get("loss") if isinstance(training, dict) else None
            return _configured_contents(model, loss, _LegacyArrays(group), root.file_size)
    if container := _layer_container(root):
        return keras_weights.contents(keras_weights.numbered_weights(container), root.file_size)
    if root.has("optimizer_weights") or root.has("optimizer"):
        raise CheckpointError("It contains the state of an optimizer without a model. Use the file with the model.")
    raise CheckpointError("It is an HDF5 file that does not contain the layers of a Keras model.")


def _layer_container(root: Group) -> Group | None:
    return next((root.group(name) for name in LAYER_CONTAINERS if root.has(name)), None)


def _configured_contents(
    model: Any, loss: Any, layer_arrays: LayerArrays, file_size: int, white: float | None = None
) -> CheckpointContents:
    from densenet_cli.weights.keras import config as keras_config

    def read_statistics(call: LayerCall, name: str) -> list[float]:
        array = layer_arrays(call).get(name)
        if array is None or math.prod(array.shape) > MAX_STATISTICS:
            raise CheckpointError(f"Layer {call}: {name} is missing or has too many values.")
        values: list[float] = array.read().reshape(-1).tolist()
        return values

    keras_model = keras_config.read(model, loss, read_statistics, white)
    layers: StoredLayers = {}
    for name, call in keras_model.layers.items():
        arrays = layer_arrays(call)
        layers[name] = arrays | _unused_arrays(call, arrays)
    return CheckpointContents(
        layers,
        file_size,
        metadata=keras_model.metadata,
        bn_epsilons=keras_model.bn_epsilons,
        pooling=keras_model.pooling,
        head=keras_model.head,
        resize=keras_model.resize,
        stem=keras_model.stem,
    )


def array_names(call: LayerCall) -> tuple[str, ...]:
    """Return the names of a layer's arrays in Keras' order."""
    config = call.config
    if call.class_name == "BatchNormalization":
        gamma = ("gamma",) if config.get("scale", True) else ()
        beta = ("beta",) if config.get("center", True) else ()
        return (*gamma, *beta, "moving_mean", "moving_variance")
    if call.class_name == "Normalization":
        return ("mean", "variance")
    return ("kernel", "bias") if config.get("use_bias", True) else ("kernel",)


def _unused_arrays(call: LayerCall, arrays: dict[str, StoredArray]) -> dict[str, StoredArray]:
    """Return constants for the arrays that a layer of the head does not have: no bias is a bias of 0."""
    names = array_names(call)
    if call.class_name == "Dense" and "bias" not in names and "kernel" in arrays:
        return {"bias": constant_array(arrays["kernel"].shape[-1:], 0.0)}
    if call.class_name == "BatchNormalization" and "moving_mean" in arrays:
        shape = arrays["moving_mean"].shape
        constants = {"gamma": 1.0, "beta": 0.0}
        return {name: constant_array(shape, value) for name, value in constants.items() if name not in names}
    return {}


class _NumberedArrays:
    """The arrays of the layers in ``.weights.h5``."""

    def __init__(self, container: Group) -> None:
        self._name = container.path
        self._containers: dict[tuple[str, ...], Group] = {(): container}
        self._named: dict[tuple[str, ...], dict[str, Group]] = {}

    def __call__(self, call: LayerCall) -> dict[str, StoredArray]:
        groups, names = call.location.groups, call.location.names
        path: tuple[str, ...] = ()
        for group_name, layer_name in zip(groups[:-1], names[:-1], strict=True):
            parent, path = path, (*path, group_name)
            if path not in self._containers:
                self._containers[path] = self._find(parent, group_name, layer_name).group(self._name)
        group = self._find(path, groups[-1], names[-1])
        return keras_weights.name_arrays(group.group("vars"), array_names(call))

    def _find(self, path: tuple[str, ...], group_name: str, layer_name: str) -> Group:
        """Return the group of a layer, by its class and number, or by the stored name if they do not agree."""
        container = self._containers[path]
        if container.has(group_name):
            group = container.group(group_name)
            if _stored_name(group) in (None, layer_name):
                return group
        if path not in self._named:
            members = (member for _, member in container.members())
            groups = [member for member in members if isinstance(member, Group)]
            self._named[path] = {name: group for group in groups if (name := _stored_name(group)) is not None}
        if layer_name not in self._named[path]:
            raise CheckpointError(f"Layer {printable(layer_name)} of the configuration is missing among the weights.")
        return self._named[path][layer_name]


def _stored_name(group: Group) -> str | None:
    if not group.has("vars"):
        return None
    variables = group.group("vars")
    return variables.string_attribute("name") if variables.has_attribute("name") else None


class _LegacyArrays:
    """The arrays of the layers in the legacy format."""

    def __init__(self, root: Group) -> None:
        self._root = root
        self._arrays: dict[str, dict[str, list[StoredArray]]] = {}

    def __call__(self, call: LayerCall) -> dict[str, StoredArray]:
        names = call.location.names
        by_suffix = self._by_suffix(names[0])
        arrays = {}
        for array_name in array_names(call):
            # The full path is before its suffixes: conv1/bn/gamma ends with bn/gamma, too.
            matches = by_suffix.get(f"/{names[-1]}/{array_name}") or by_suffix.get(f"{names[-1]}/{array_name}", [])
            if not matches:
                matches = by_suffix.get(array_name if len(names) == 1 else f"/{array_name}", [])
            if len(matches) != 1:
                raise CheckpointError(f"Layer {call}: found {len(matches)} arrays named {array_name}.")
            arrays[array_name] = matches[0]
        return arrays

    def _by_suffix(self, layer: str) -> dict[str, list[StoredArray]]:
        """Return the arrays in the group of a layer of the outer model, by their path after "/" and its suffixes."""
        if layer not in self._arrays:
            group = self._root
            for part in layer.split("/"):
                if not group.has(part):
                    raise CheckpointError(f"Layer {printable(layer)} of the configuration is missing.")
                group = group.group(part)
            by_suffix: dict[str, list[StoredArray]] = {}
            for path, array in group.arrays().items():
                parts = ["", *path.removesuffix(":0").split("/")]
                for start in range(len(parts)):
                    by_suffix.setdefault("/".join(parts[start:]), []).append(array)
            self._arrays[layer] = by_suffix
        return self._arrays[layer]
