"""Reading a checkpoint of any supported format, with validation of every layer, shape, and value.

The format is detected from the first bytes, not from the file name. The reader of the format lists the arrays in the
file. They are read only after all names, shapes, and types are valid, so a malicious file needs no more memory than its
own size. No code in a checkpoint is ever run: the pickles in PyTorch files are read as data.
"""

from __future__ import annotations

import math
import stat
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from densenet_cli import labels, layers
from densenet_cli.errors import CheckpointError, UsageError
from densenet_cli.layers import ArrayShapes
from densenet_cli.topology import BN_EPSILON, OUTPUT_ACTIVATIONS, DenseNetConfig
from densenet_cli.weights import recognition, shards
from densenet_cli.weights.contents import Arrays, Checkpoint, CheckpointContents, StoredLayers, config_path

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray

MAX_FILE_SIZE = 2 << 30
"""Bytes. The largest network with the state of an optimizer needs less than a quarter."""
MAX_ARRAYS = 20_000

HEAD_SIZE = 512
"""Bytes from which the format is detected."""
HDF5_HEAD = b"\x89HDF\r\n\x1a\n"
TORCH_STREAM_HEADS = (b"\x80", b"L119547037146038801333356L")
"""How a file of PyTorch before version 1.6 starts: a magic number, pickled as bytes or as text."""

ITEM_SIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
"""Supported element type -> its size in bytes. All are converted to float32."""


def read(
    path: str | Path,
    config: DenseNetConfig | None = None,
    activation: str | None = None,
    *,
    allow_unsupported_head: bool = False,
) -> Checkpoint:
    """Read and validate a checkpoint.

    Args:
        path: The file.
        config: The network that the file must contain, with any head. None to infer it from the file.
        activation: A member of ``topology.OUTPUT_ACTIVATIONS`` for a file that does not state it, or None for softmax.
        allow_unsupported_head: Read a network whose head is not supported without it, instead of raising an error.

    Returns:
        The checkpoint. Its ``config`` has the head in the file, with 0 classes if there is none.

    Raises:
        UsageError: ``activation`` is invalid or contradicts the file.
        CheckpointError: The file cannot be read, is not a checkpoint, or has a missing or unexpected layer, shape,
            type, or value. The message is one line and contains the path.
    """
    try:
        checkpoint = _read(path, config, activation)
    except UsageError as error:
        if activation is not None or not allow_unsupported_head:
            raise
        # The activation of a single output is not stated. It does not matter without the head.
        checkpoint = _read(path, config, "sigmoid")
        return _remove_head(checkpoint, str(error).removeprefix(f"Cannot load {path}. "))
    if checkpoint.metadata.head_error and not allow_unsupported_head:
        raise CheckpointError(f"Cannot load {path}. {checkpoint.metadata.head_error}")
    return checkpoint


def read_backbone(path: str | Path, config: DenseNetConfig | None = None) -> Checkpoint:
    """Read and validate the backbone of a checkpoint, whatever its head is. See ``read``."""
    return _read(path, config, None, backbone_only=True)


def _read(
    path: str | Path, config: DenseNetConfig | None, activation: str | None, backbone_only: bool = False
) -> Checkpoint:
    try:
        with _open(Path(path)) as contents:
            return _validate(_without_head(contents) if backbone_only else contents, config, activation)
    except (CheckpointError, UsageError) as error:
        raise type(error)(f"Cannot load {path}. {error}") from error
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (MemoryError, RecursionError) as error:
        raise CheckpointError(f"Cannot load {path}. It needs more memory than is available.") from error


def _without_head(contents: CheckpointContents) -> CheckpointContents:
    layers = {name: arrays for name, arrays in contents.layers.items() if not recognition.is_head_layer(name)}
    config = contents.config and replace(contents.config.with_classes(0), resize=None)
    return contents._replace(layers=layers, config=config, pooling=None, head=None, resize=None)


def _remove_head(checkpoint: Checkpoint, reason: str) -> Checkpoint:
    arrays = {name: values for name, values in checkpoint.arrays.items() if not recognition.is_head_layer(name)}
    pooling = checkpoint.config.pooling.replace("flatten", "avg")
    config = replace(checkpoint.config.with_classes(0), pooling=pooling)
    metadata = replace(checkpoint.metadata, labels=None, head_error=reason)
    return checkpoint._replace(arrays=arrays, config=config, metadata=metadata)


def _open(path: Path) -> AbstractContextManager[CheckpointContents]:
    # The readers are imported when they are needed.
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError("It is not a regular file.")
    if status.st_size > MAX_FILE_SIZE:
        raise CheckpointError(f"It has {status.st_size:,} bytes; the limit is {MAX_FILE_SIZE:,}.")
    with path.open("rb") as file:
        head = file.read(HEAD_SIZE)
    if head.startswith(HDF5_HEAD) or (head.startswith(b"PK") and not _is_torch_archive(path)):
        from densenet_cli.weights.keras import formats as keras_formats

        open_file = keras_formats.open_contents if head.startswith(HDF5_HEAD) else keras_formats.open_archive
        return open_file(path)
    shards.check_complete(path)
    if shards.is_index(path) and head.lstrip().startswith(b"{"):
        return _with_model_config(shards.open_contents(path, MAX_FILE_SIZE), path)
    if head[8:9] == b"{":
        from densenet_cli.weights import safetensors

        return _with_model_config(safetensors.open_contents(path), path)
    if head.startswith((b"PK", *TORCH_STREAM_HEADS)):
        from densenet_cli.weights.pytorch import files as torch_files

        return _with_model_config(torch_files.open_contents(path), path)
    raise CheckpointError(_describe_other_file(head))


def _is_torch_archive(path: Path) -> bool:
    from densenet_cli.weights import zip_archives

    return zip_archives.is_torch_archive(path)


def _describe_other_file(head: bytes) -> str:
    """Return a message for a file whose format is not supported, given its first bytes."""
    if head.startswith(b"version https://git-lfs"):
        return "It is a Git LFS pointer, not the file itself. Run `git lfs pull` in its repository."
    if head.lstrip()[:20].lower().startswith((b"<!doctype html", b"<html")):
        return "It is a web page, saved instead of the file. Download the file itself."
    if head[257:262] == b"ustar":
        return "It is a tar archive. Extract it, or, if it was written by PyTorch before version 0.2, save it again."
    if head.lstrip().startswith(b"{") and b'"weight_map"' in head:
        return (
            "It is an index of Keras weights in several files, which is not supported. Save them in one file, without"
            " the argument max_shard_size."
        )
    return "The format is not supported. Use a file of Keras (.keras, .h5), PyTorch (.pth, .bin), or safetensors."


def _with_model_config(
    opened: AbstractContextManager[CheckpointContents], path: Path
) -> AbstractContextManager[CheckpointContents]:
    """Add what the ``config.json`` beside a checkpoint states."""
    if not config_path(path).exists():
        return opened
    from densenet_cli.weights import model_config

    return model_config.add_config(opened, path)


def _validate(contents: CheckpointContents, config: DenseNetConfig | None, activation: str | None) -> Checkpoint:
    stored = contents.layers
    _check_types_and_size(stored, contents.available_bytes)
    shapes = {layer: {name: array.shape for name, array in arrays.items()} for layer, arrays in stored.items()}
    if config is None:
        config = recognition.infer_config(shapes, contents)
    else:
        recognition.check_architecture(shapes)
        config = recognition.with_head(config, shapes, contents)
    activation = _choose_activation(contents, config, activation)
    config = replace(config, activation=activation)
    try:
        layers.list_layers(config, contents.metadata.input_size)  # checks the input size
        expected = layers.array_shapes(config)
    except UsageError as error:
        raise CheckpointError(f"The configuration is invalid. {error}") from error
    _check_shapes(shapes, expected)
    stem = contents.config.stem if contents.config else contents.stem
    if stem not in (None, config.stem):  # stems can differ in stride or blur only
        raise CheckpointError(f"Expected stem {config.stem!r}, found {stem!r} in the metadata.")
    arrays = _read_arrays(stored, contents)
    metadata = contents.metadata
    if config.classes == 1:
        config = _add_negative_class(arrays, config)
        if metadata.labels:
            name = metadata.labels[0].name
            metadata = replace(metadata, labels=labels.from_class_names([f"not {name}", name]))
    return Checkpoint(arrays, config, metadata, recognition.find_variant(config))


def _choose_activation(contents: CheckpointContents, config: DenseNetConfig, given: str | None) -> str:
    """Return the activation that the file states, else the given one, else softmax."""
    if given is not None and given not in OUTPUT_ACTIVATIONS:
        raise UsageError(f"`activation` must be one of {', '.join(OUTPUT_ACTIVATIONS)}, not {given!r}.")
    stated = contents.metadata.activation or (contents.config.activation if contents.config else None)
    if given and stated and given != stated:
        raise UsageError(f"`activation` is {given}, but the file states {stated}. Omit `activation`.")
    activation = stated or given or "softmax"
    if config.classes == 1 and activation == "softmax":
        if stated or given:
            raise CheckpointError("The softmax of a single output is always 1, so the model cannot classify.")
        raise UsageError(
            "The model has a single output, and the file does not state its activation. Set `activation` to sigmoid if"
            " it is the probability of the second of two classes."
        )
    return activation


def _add_negative_class(arrays: Arrays, config: DenseNetConfig) -> DenseNetConfig:
    """Replace one sigmoid output z by a softmax of the logits [-z/2, z/2], which is [1 - sigmoid(z), sigmoid(z)].

    With the logits [0, z], which have the same softmax, the class activation map of the first class would be empty.
    """
    if config.head and config.head[-1].kind != "dense":
        raise CheckpointError(f"The single output is followed by {config.head[-1].kind}, which is not supported.")
    head = tuple(layer._replace(units=2) if layer.units == 1 else layer for layer in config.head[-1:])
    arrays["predictions"] = {
        name: np.concatenate([-values / 2, values / 2], axis=-1) for name, values in arrays["predictions"].items()
    }
    return replace(config, classes=2, head=(*config.head[:-1], *head), activation="softmax")


def _check_types_and_size(stored: StoredLayers, available_bytes: int) -> None:
    count = size = 0
    for layer, arrays in stored.items():
        for name, array in arrays.items():
            if array.dtype not in ITEM_SIZES:
                supported = " or ".join(ITEM_SIZES)
                raise CheckpointError(f"Layer {layer}: expected {name} type {supported}, found {array.dtype}.")
            count += 1
            size += math.prod(array.shape) * ITEM_SIZES[array.dtype]
    if count > MAX_ARRAYS or size > available_bytes:
        raise CheckpointError(f"The file declares {count:,} arrays of {size:,} bytes, more than it contains.")


def _check_shapes(shapes: dict[str, ArrayShapes], expected: dict[str, ArrayShapes]) -> None:
    for layer, expected_arrays in expected.items():
        if layer not in shapes:
            raise CheckpointError(f"Layer {layer} is missing.{_variant_hint(shapes, expected)}")
        for name, shape in expected_arrays.items():
            if name not in shapes[layer]:
                raise CheckpointError(f"Layer {layer}: {name} is missing.")
            if shapes[layer][name] != shape:
                raise CheckpointError(
                    f"Layer {layer}: expected {name} shape {shape}, found {shapes[layer][name]}."
                    f"{_variant_hint(shapes, expected)}"
                )
        for name in shapes[layer]:
            if name not in expected_arrays:
                raise CheckpointError(f"Layer {layer}: unexpected {name}.")
    for layer in shapes:
        if layer not in expected:
            raise CheckpointError(f"Unexpected layer {layer}.{_variant_hint(shapes, expected)}")


def _variant_hint(shapes: dict[str, ArrayShapes], expected: dict[str, ArrayShapes]) -> str:
    """Return a sentence that names the variant in the file, if it is another one than expected, else ""."""
    try:
        config = recognition.infer_config(shapes)
    except CheckpointError:
        return ""
    name = recognition.find_variant(config)
    return f" The file contains variant {name}." if name and layers.array_shapes(config) != expected else ""


def _read_arrays(stored: StoredLayers, contents: CheckpointContents) -> Arrays:
    """Read and validate the values, and adapt batch normalizations to ``BN_EPSILON``."""
    arrays: Arrays = {}
    for layer, stored_arrays in stored.items():
        bn_epsilon = contents.bn_epsilons.get(layer, contents.bn_epsilon)
        arrays[layer] = {}
        for name, array in stored_arrays.items():
            with np.errstate(over="ignore"):
                values = array.read()
            if not np.isfinite(values).all():
                raise CheckpointError(f"Layer {layer}: {name} contains NaN or infinite values.")
            if name == "moving_variance" and values.min() < 0:
                raise CheckpointError(f"Layer {layer}: {name} contains negative values.")
            arrays[layer][name] = values
        if "moving_variance" in arrays[layer] and bn_epsilon != BN_EPSILON:
            _adapt_batch_norm(layer, arrays[layer], bn_epsilon)
    return arrays


def _adapt_batch_norm(layer: str, arrays: dict[str, FloatArray], bn_epsilon: float) -> None:
    """Change the variances of a layer so that variance + epsilon stays the same with ``BN_EPSILON``.

    Variances that would be negative, which no checkpoint can contain, become 0, and gamma is scaled instead.
    """
    variance = arrays["moving_variance"].astype(np.float64)
    adapted = (variance + (bn_epsilon - BN_EPSILON)).astype(np.float32)
    is_negative = adapted < 0
    if is_negative.any():
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            scaled = arrays["gamma"] * np.sqrt(BN_EPSILON / (variance + bn_epsilon))
            arrays["gamma"] = np.where(is_negative, scaled, arrays["gamma"]).astype(np.float32)
        if not np.isfinite(arrays["gamma"]).all():
            raise CheckpointError(f"Layer {layer}: moving_variance and epsilon are 0.")
        adapted[is_negative] = 0
    arrays["moving_variance"] = adapted
