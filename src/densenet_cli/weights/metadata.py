"""The metadata of ``.safetensors`` files that this package writes: JSON with everything besides the arrays.

Files of earlier versions state neither the head nor the preprocessing, which then have their default values.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from densenet_cli.errors import CheckpointError, UsageError
from densenet_cli.images.normalization import MEAN, STD, check_normalization
from densenet_cli.images.preprocessing import INTERPOLATIONS, MAX_INPUT_SIZE, MIN_CROP_RATIO, MODES, crop_ratio
from densenet_cli.labels import ClassLabel, Labels, from_class_names, is_valid
from densenet_cli.topology import DenseNetConfig
from densenet_cli.weights.contents import ModelMetadata

METADATA_KEY = "densenet"
MAX_HEAD_LAYERS = 100


def dump(config: DenseNetConfig, metadata: ModelMetadata, bn_epsilon: float) -> str:
    """Return the JSON text. ``parse`` restores it, with the activation of ``config``."""
    values = {
        "config": config.to_dict(),
        "labels": metadata.to_dict()["labels"],
        "preprocess": metadata.preprocess,
        "input_size": metadata.input_size,
        "bn_epsilon": bn_epsilon,
        "training": metadata.training,
        "accuracy": metadata.accuracy,
    }
    for name in ("mean", "std", "interpolation", "crop_ratio", "test_input_size", "test_crop_ratio"):
        if (value := getattr(metadata, name)) is not None:
            values[name] = value
    if metadata.calibration is not None:
        values["calibration"] = metadata.calibration
    return json.dumps(values, ensure_ascii=False, allow_nan=False)


def parse(text: str) -> dict[str, Any]:
    """Return the fields ``config``, ``metadata``, and ``bn_epsilon`` of ``CheckpointContents``.

    Raises:
        CheckpointError: The text is not the result of ``dump``.
    """
    try:
        values = json.loads(text)
        config = DenseNetConfig.from_dict(values["config"])
        _check_config(config)
        if len(config.head) == 1 and config.head[0].kind == "dense":
            config = replace(config, head=())
        epsilon = float(values["bn_epsilon"])
        if not 0 < epsilon < 1:
            raise ValueError(f"bn_epsilon is {epsilon}")
        metadata = ModelMetadata(
            _parse_labels(values["labels"], config.classes),
            _check_type(values["preprocess"], str),
            _check_type(values["input_size"], int) or config.input_size,
            _check_type(values["training"], dict) or {},
            _check_type(values["accuracy"], dict) or {},
            config.activation,
            **_parse_preprocessing(values, config.channels),
            calibration=_parse_calibration(values.get("calibration"), config),
        )
        for size in (config.input_size, metadata.input_size, metadata.test_input_size):
            if not 1 <= (1 if size is None else size) <= MAX_INPUT_SIZE:
                raise ValueError(f"input_size is {size}")
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError, UsageError) as error:
        raise CheckpointError(f"The metadata is malformed ({type(error).__name__}: {error}).") from error
    return {"config": config, "metadata": metadata, "bn_epsilon": epsilon}


def _parse_calibration(values: Any, config: DenseNetConfig) -> dict[str, Any] | None:
    """Check the values of a ``Calibration``, and return them."""
    if _check_type(values, dict) is None:
        return None
    from densenet_cli.calibration.record import Calibration

    Calibration.from_dict(values, config.classes).check(config.is_multi_label)
    return dict(values)


def parse_description(text: bytes) -> ModelMetadata:
    """Return what the description that ``densenet export`` adds to a file states besides the network.

    Raises:
        CheckpointError: It is malformed.
    """
    try:
        values = json.loads(text)
        preprocessing = values["preprocessing"]
        mode, size = _check_type(preprocessing["mode"], str), _check_type(preprocessing["input_size"], int)
        resize_size = _check_type(preprocessing["resize_size"], int)
        if mode not in MODES or not 1 <= size <= resize_size <= MAX_INPUT_SIZE / MIN_CROP_RATIO:
            raise ValueError(f"mode is {mode!r:.60}, input_size is {size}")
        ratio = crop_ratio(size, resize_size) if mode == "crop" else None
        fields = _parse_preprocessing({**preprocessing, "preprocess": mode, "crop_ratio": ratio}, channels=3)
        return ModelMetadata(_parse_described_labels(values), mode, size, **fields)
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError, UsageError) as error:
        raise CheckpointError(f"The description is malformed ({type(error).__name__}: {error}).") from error


def _parse_described_labels(values: dict[str, Any]) -> Labels | None:
    """Return the labels in a description. Those of older versions do not contain the indices."""
    names, ids, indices = (_check_type(values.get(key), list) for key in ("labels", "wordnet_ids", "indices"))
    if not names:
        return None
    if indices is None:
        imagenet_labels = from_class_names(ids or names)
        if not ids or [(label.id, label.name) for label in imagenet_labels] == list(zip(ids, names, strict=True)):
            ids, names = [label.id for label in imagenet_labels], [label.name for label in imagenet_labels]
            indices = [label.index for label in imagenet_labels]
    count = len(names)
    return _parse_labels(list(zip(indices or range(count), ids or [None] * count, names, strict=True)), count)


def _check_type(value: Any, *expected: type) -> Any:
    """Return ``value``. Raises ``TypeError`` if it is neither None nor of exactly one of the expected types."""
    if value is not None and type(value) not in expected:
        raise TypeError(f"expected {expected[0].__name__}, found {value!r:.60}")
    return value


def _check_config(config: DenseNetConfig) -> None:
    """Check the types of all numbers, and the size of the head."""
    sizes = [config.growth_rate, config.stem_width, config.classes, config.input_size, config.channels, *config.blocks]
    if config.resize is not None:
        sizes.append(config.resize.side)
    if len(config.head) > MAX_HEAD_LAYERS:
        raise ValueError(f"the head has {len(config.head)} layers")
    for layer in config.head:
        sizes.append(layer.units)
        if not abs(_check_type(layer.alpha, float, int)) < 1e6:
            raise ValueError(f"alpha is {layer.alpha}")
    for size in sizes:
        if type(size) is not int:
            raise TypeError(f"expected int, found {size!r:.60}")


def _parse_preprocessing(values: dict[str, Any], channels: int) -> dict[str, Any]:
    """Return the fields of ``ModelMetadata`` about preprocessing. Files of older versions state none of them."""
    interpolation = _check_type(values.get("interpolation"), str)
    fields: dict[str, Any] = {
        "interpolation": interpolation or ("nearest" if values["preprocess"] == "keras" else "bilinear"),
        "test_input_size": _check_type(values.get("test_input_size"), int),
    }
    if fields["interpolation"] not in INTERPOLATIONS:
        raise ValueError(f"interpolation is {interpolation!r:.60}")
    for name in ("crop_ratio", "test_crop_ratio"):
        ratio = fields[name] = _check_type(values.get(name), float, int)
        if ratio is not None and not MIN_CROP_RATIO <= ratio <= 1:
            raise ValueError(f"{name} is {ratio}")
    defaults = {"mean": MEAN, "std": STD} if channels == 3 else {}
    for name in ("mean", "std"):
        numbers = _check_type(values.get(name), list) or defaults.get(name)
        fields[name] = numbers and tuple(float(_check_type(number, float, int)) for number in numbers)
    if fields["mean"] is not None and fields["std"] is not None:
        check_normalization(fields["mean"], fields["std"])
    return fields


def _parse_labels(values: list[Any] | None, classes: int) -> Labels | None:
    if values is None:
        return None
    if len(values) != classes:
        raise ValueError(f"{len(values)} labels for {classes} classes")
    labels = tuple(ClassLabel(index, wordnet_id, name) for index, wordnet_id, name in values)
    for label in labels:
        if type(label.index) is not int or label.index < 0 or not is_valid(label.name) or not is_valid(label.id or "-"):
            raise ValueError(f"{label!r:.100}")
    return labels
