"""The file ``config.json`` beside a checkpoint, as timm and transformers publish it.

Dialects: ``architecture`` with ``pretrained_cfg`` (timm), where values at the top win over inner ones; all values at
the top (timm before 0.9); and ``model_type: timm_wrapper`` (transformers). A value that the file omits has
timm's default. Keras' own ``config.json`` is read by ``keras.formats``.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from densenet_cli import variants
from densenet_cli.errors import CheckpointError
from densenet_cli.images.normalization import MEAN, STD, format_values
from densenet_cli.images.preprocessing import INTERPOLATIONS, MAX_INPUT_SIZE, MIN_CROP_RATIO
from densenet_cli.labels import ClassLabel, Labels, from_class_names, is_valid
from densenet_cli.weights.contents import CONFIG_FILE, CheckpointContents, ModelMetadata, config_path

MAX_FILE_SIZE = 4 << 20
"""Bytes. The 21,843 classes of ImageNet with their descriptions take 3 MB."""
MAX_CLASSES = 100_000

CROP_MODES = {"center": "crop", "squash": "squash", "border": "pad"}
"""timm's name -> ours."""
POOLINGS = {"avg": "avg", "fastavg": "avg", "max": "max", "fastmax": "max"}
"""timm's name -> ours."""
PROBLEM_TYPES = {"multi_label_classification": "sigmoid", "single_label_classification": "softmax"}
"""transformers' name -> activation."""
IGNORED_ARGUMENTS = {"drop_rate", "proj_drop_rate", "drop_path_rate", "memory_efficient", "pretrained", "features_only"}
"""Arguments of timm's models that do not change what a network computes at inference."""
READ_ARGUMENTS = {"in_chans", "num_classes", "global_pool", "growth_rate", "block_config", "bn_size"}


class Architecture(NamedTuple):
    """A network of timm's.

    Attributes:
        blocks: Number of layers in each dense block.
        stem: A key of ``topology.STEMS``.
    """

    blocks: tuple[int, ...]
    stem: str = "imagenet"


ARCHITECTURES = {
    f"densenet{name}": Architecture(variants.get(name).config.blocks, variants.get(name).config.stem)
    for name in ("121", "161", "169", "201", "264", "blur121d", "264d")
}
"""timm's name -> network. The widths are in the arrays."""


class ModelConfig(NamedTuple):
    """What a ``config.json`` states.

    Attributes:
        architecture: The network.
        channels: Number of input channels.
        classes: Number of classes, 0 for a network without a head, or None.
        pooling: ``avg`` or ``max``.
        metadata: The rest.
    """

    architecture: Architecture
    channels: int
    classes: int | None
    pooling: str
    metadata: ModelMetadata


@contextmanager
def add_config(opened: AbstractContextManager[CheckpointContents], weights: Path) -> Iterator[CheckpointContents]:
    """Add what the ``config.json`` beside a checkpoint states to its contents.

    It is ignored, with a note, if the checkpoint states its own configuration, or if it does not describe a DenseNet.

    Raises:
        CheckpointError: The file is malformed, contradicts the arrays, or states something that is not supported.
    """
    path = config_path(weights)
    with opened as contents:
        if contents.config is not None:
            config, note = None, f"{path} was ignored because the checkpoint has its own configuration."
        else:
            config, note = read(path), f"{path} was ignored because it does not describe a DenseNet."
        if config is None:
            metadata = replace(contents.metadata, notes=(*contents.metadata.notes, note))
            yield contents._replace(metadata=metadata)
            return
        _check_arrays(contents, config, path)
        stated = contents.metadata.mean, contents.metadata.std
        configured = config.metadata.mean, config.metadata.std
        if None not in stated and not all(map(_is_close, stated, configured)):
            raise CheckpointError(
                f"{path} states the mean {format_values(configured[0] or ())}, but the checkpoint contains arrays with "
                f"the mean {format_values(stated[0] or ())}. Remove the one that is wrong."
            )
        for name, value, other in (
            ("stem", contents.stem, config.architecture.stem),
            ("pooling", contents.pooling, config.pooling),
            ("activation", contents.metadata.activation, config.metadata.activation),
        ):
            if None not in (value, other) and value != other:
                raise CheckpointError(f"{path} states the {name} {other}, but the model in the checkpoint has {value}.")
        statements = {name: value for name, value in vars(config.metadata).items() if value}
        metadata = replace(
            contents.metadata, **{**statements, "notes": (*contents.metadata.notes, *config.metadata.notes)}
        )
        yield contents._replace(metadata=metadata, stem=config.architecture.stem, pooling=config.pooling)


def _is_close(values: tuple[float, ...] | None, others: tuple[float, ...] | None) -> bool:
    pairs = zip(values or (), others or (), strict=True)
    return all(math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6) for a, b in pairs)


def _check_arrays(contents: CheckpointContents, config: ModelConfig, path: Path) -> None:
    """Check that the arrays are those of the configuration. The rest is checked without it."""
    layers = contents.layers

    def dimension(layer: str, axes: int, axis: int, default: int | None) -> int | None:
        kernel = layers.get(layer, {}).get("kernel")
        return kernel.shape[axis] if kernel and len(kernel.shape) == axes else default

    pairs = {
        "layers in dense blocks": (sum(config.architecture.blocks), sum(name.endswith("_1_conv") for name in layers)),
        "deep stems": (int(config.architecture.stem.startswith("deep")), int("conv1_2_conv" in layers)),
        "input channels": (config.channels, dimension("conv1_conv", 4, 2, config.channels)),
        "classes": (config.classes or None, dimension("predictions", 2, 1, config.classes)),
    }
    for name, (stated, stored) in pairs.items():
        if stated != stored and stated is not None:
            raise CheckpointError(
                f"{path} describes a network with {stated:,} {name}, but the checkpoint has {stored or 0:,}. "
                "If they do not belong together, move one of them to another folder."
            )


def read(path: Path) -> ModelConfig | None:
    """Read a ``config.json``.

    Returns:
        None if the file does not exist or describes something else than a DenseNet of timm's.

    Raises:
        CheckpointError: The file is malformed, or states something that is not supported.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return None
        if status.st_size > MAX_FILE_SIZE:
            raise CheckpointError(f"{path} has {status.st_size:,} bytes; the limit is {MAX_FILE_SIZE:,}.")
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror or error}.") from error
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        if b'"architecture"' not in data:
            return None
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}).") from error
    if not isinstance(values, dict):
        return None
    try:
        return _parse(values)
    except (ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{path} is invalid or not supported: {error}.") from error


def _parse(values: dict[str, Any]) -> ModelConfig | None:
    """Return what a configuration states. Raises ``TypeError`` or ``ValueError`` without a final period."""
    name = values.get("architecture")
    if not isinstance(name, str):
        return None
    name = name.partition(".")[0].removeprefix("tv_")
    if not name.startswith("densenet"):
        return None
    if name not in ARCHITECTURES:
        raise ValueError(f"architecture is {name[:40]!r}, not one of {', '.join(ARCHITECTURES)}")
    inner = _get(values, "pretrained_cfg", dict)
    arguments = _get(values, "model_args", dict) or {}
    merged = {**(values if inner is None else inner)}
    for key in ("num_classes", "label_names", "label_descriptions", "global_pool"):
        if values.get(key) is not None:
            merged[key] = values[key]
    merged |= {key: arguments[key] for key in ("num_classes", "global_pool") if arguments.get(key) is not None}
    architecture = _apply_arguments(ARCHITECTURES[name], arguments)
    channels, input_size = _size(merged, "input_size") or (3, 224)
    channels = _get(arguments, "in_chans", int) or channels
    if channels not in (1, 3):
        raise ValueError(f"in_chans is {channels}, not 1 or 3")
    classes = _get(merged, "num_classes", int)
    if classes is not None and not 0 <= classes <= MAX_CLASSES:
        raise ValueError(f"num_classes is {classes}")
    pooling = _get(merged, "global_pool", str)
    if pooling is not None and pooling not in POOLINGS:
        raise ValueError(f"global_pool is {pooling[:40]!r}, not avg or max")
    metadata = _parse_metadata(values, merged, channels, input_size, classes)
    if classes is None and metadata.labels:
        classes = len(metadata.labels)
    return ModelConfig(architecture, channels, classes, POOLINGS[pooling or "avg"], metadata)


def _apply_arguments(architecture: Architecture, arguments: dict[str, Any]) -> Architecture:
    for key, value in arguments.items():
        if value is not None and key not in READ_ARGUMENTS | IGNORED_ARGUMENTS:
            raise ValueError(f"model_args contains {key[:40]!r}")
    if (arguments.get("bn_size") or 4) != 4:
        raise ValueError("model_args.bn_size is not 4")
    if blocks := arguments.get("block_config"):
        if not isinstance(blocks, list) or len(blocks) > 99 or not all(type(n) is int and 0 < n < 9999 for n in blocks):
            raise ValueError(f"block_config is {str(blocks)[:40]}")
        return architecture._replace(blocks=tuple(blocks))
    return architecture


def _parse_metadata(
    values: dict[str, Any], merged: dict[str, Any], channels: int, input_size: int, classes: int | None
) -> ModelMetadata:
    crop_mode = _get(merged, "crop_mode", str) or "center"
    crop_ratio = _ratio(merged, "crop_pct") or 0.875
    test_size, test_ratio = _size(merged, "test_input_size"), _ratio(merged, "test_crop_pct")
    if crop_mode not in CROP_MODES or (crop_mode != "center" and crop_ratio != 1):
        raise ValueError(f"crop_mode is {crop_mode[:40]!r} with crop_pct {crop_ratio:g}")
    interpolation = _get(merged, "interpolation", str) or "bicubic"
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation is {interpolation[:40]!r}, not one of {', '.join(INTERPOLATIONS)}")
    problem = _get(values, "problem_type", str)
    if problem is not None and problem not in PROBLEM_TYPES:
        raise ValueError(f"problem_type is {problem[:40]!r}")
    notes: list[str] = []
    is_crop = crop_mode == "center"
    return ModelMetadata(
        labels=_labels(values, merged, classes),
        preprocess=CROP_MODES[crop_mode],
        input_size=input_size,
        activation=PROBLEM_TYPES.get(problem or ""),
        mean=_per_channel(merged, "mean", MEAN, channels, notes),
        std=_per_channel(merged, "std", STD, channels, notes),
        interpolation=interpolation,
        crop_ratio=crop_ratio if is_crop else None,
        test_input_size=test_size[1] if test_size else None,
        test_crop_ratio=(test_ratio or crop_ratio) if test_size and is_crop else None,
        notes=tuple(notes),
        uses_config_file=True,
    )


def _get(values: dict[str, Any], key: str, expected: type) -> Any:
    """Return a value or None. Raises ``TypeError`` if it is not exactly of the expected type."""
    value = values.get(key)
    if value is not None and type(value) is not expected:
        raise TypeError(f"{key} is {str(value)[:40]!r}, not of type {expected.__name__}")
    return value


def _size(values: dict[str, Any], key: str) -> tuple[int, int] | None:
    """Return the channels and the side length of a size, which timm states as (channels, height, width)."""
    size = _get(values, key, list)
    if size is None:
        return None
    if len(size) != 3 or not all(type(n) is int and 1 <= n <= MAX_INPUT_SIZE for n in size) or size[1] != size[2]:
        raise ValueError(f"{key} is {str(size)[:40]}, not [channels, side, side]")
    return size[0], size[1]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and abs(value) < 1e6


def _ratio(values: dict[str, Any], key: str) -> float | None:
    ratio = values.get(key)
    if ratio is not None and not (_is_number(ratio) and MIN_CROP_RATIO <= ratio <= 1):
        raise ValueError(f"{key} is {str(ratio)[:40]}, not between {MIN_CROP_RATIO} and 1")
    return ratio and float(ratio)


def _per_channel(
    values: dict[str, Any], key: str, default: tuple[float, ...], channels: int, notes: list[str]
) -> tuple[float, ...]:
    numbers: Sequence[Any] | None = _get(values, key, list)
    if numbers is None:
        numbers = default
    if (
        len(numbers) not in (1, 3)
        or not all(map(_is_number, numbers))
        or (key == "std" and min(map(abs, numbers)) < 1e-6)
    ):
        raise ValueError(f"{key} is {str(numbers)[:60]}, not three numbers")
    if channels == 1 and len(numbers) == 3:
        notes.append(
            f"{CONFIG_FILE} states {key} for three channels. The network has one and uses their mean, as in timm."
        )
        return (sum(numbers) / 3,)
    return tuple(map(float, numbers)) * (channels // len(numbers))


def _labels(values: dict[str, Any], merged: dict[str, Any], classes: int | None) -> Labels | None:
    """Return the labels, or None. Raises ``TypeError`` or ``ValueError``."""
    names = merged.get("label_names") or merged.get("labels") or values.get("id2label")
    if not names or classes == 0:
        return None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict):
        raise TypeError(f"label_names is {str(names)[:40]!r}, not a list of names")
    if classes is None:
        classes = len(names)
    if len(names) > classes:
        raise ValueError(f"label_names is not a list of {classes:,} names")
    by_position: dict[int, str] = {}
    for key, name in names.items():
        if not re.fullmatch(r"\d{1,7}", str(key)) or int(key) >= classes or not is_valid(name):
            raise ValueError(f"label_names contains {str(key)[:20]!r}: {str(name)[:40]!r}")
        by_position[int(key)] = name
    if all(re.fullmatch(r"LABEL_\d+", name) for name in by_position.values()):  # transformers' placeholders
        return None
    ordered = [by_position.get(position, f"class {position}") for position in range(classes)]
    labels = from_class_names(ordered)
    descriptions = _get(merged, "label_descriptions", dict) or {}
    if any(label.id for label in labels) or not descriptions:
        return labels
    return tuple(_describe(label, descriptions.get(label.name)) for label in labels)


def _describe(label: ClassLabel, description: Any) -> ClassLabel:
    """Return a label with the description of its name. A WordNet ID stays its ID."""
    if description is None:
        return label
    if not is_valid(description):
        raise ValueError(f"label_descriptions contains {str(description)[:40]!r}")
    is_wordnet_id = re.fullmatch(r"n\d{8}", label.name)
    return ClassLabel(label.index, label.name if is_wordnet_id else None, description)
