"""How a model's images are prepared: as its file states, else as the caller says, else by a default.

A value that the caller gives must not contradict one that the file states. There are two exceptions. ``preprocess`` can
always be chosen. ``input_size`` can be chosen if the network accepts it, because a larger input is often more accurate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isclose
from typing import TYPE_CHECKING, Any, NamedTuple

from densenet_cli.errors import UsageError
from densenet_cli.images.normalization import MEAN, STD, format_values
from densenet_cli.images.preprocessing import DEFAULT_CROP_RATIO, Preprocessing
from densenet_cli.text import to_unicode
from densenet_cli.topology import OUTPUT_ACTIVATIONS

if TYPE_CHECKING:
    from pathlib import Path

    from densenet_cli.topology import DenseNetConfig
    from densenet_cli.weights.contents import ModelMetadata

DEFAULT_INPUT_SIZE = 224


class ModelOptions(NamedTuple):
    """What the caller says about a model. None leaves a value to the model's file, or to a default.

    See ``Classifier`` for the values.
    """

    activation: str | None = None
    preprocess: str | None = None
    input_size: int | None = None
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    interpolation: str | None = None
    crop_ratio: float | None = None

    def check(self, exact: bool, ten_crop: bool, truncated: str, bit_depth: str, pages: str) -> Preprocessing:
        """Check the values before anything is loaded. The arguments are those of ``Preprocessing``.

        Returns:
            The preprocessing for a model that states nothing.

        Raises:
            UsageError: A value is not allowed.
        """
        if self.activation is not None and self.activation not in OUTPUT_ACTIVATIONS:
            raise UsageError(f"`activation` must be one of {', '.join(OUTPUT_ACTIVATIONS)}, not {self.activation!r}.")
        mean, std = _numbers(self.mean), _numbers(self.std)
        for name, values in (("mean", mean), ("std", std)):
            if values is not None:
                check_range(name, values)
        channels = 1 if mean and std and len(mean) == len(std) == 1 else 3
        return Preprocessing(
            self.preprocess or "crop",
            DEFAULT_INPUT_SIZE if self.input_size is None else self.input_size,
            exact,
            ten_crop,
            truncated,
            bit_depth,
            pages,
            interpolation=self.interpolation or "",
            crop_ratio=self.crop_ratio,
            mean=_repeat(mean or MEAN, channels),
            std=_repeat(std or STD, channels),
        )


def resolve(
    options: ModelOptions, file: Path | None, config: DenseNetConfig, metadata: ModelMetadata, checked: Preprocessing
) -> tuple[Preprocessing, tuple[str, ...]]:
    """Return the preprocessing of a model.

    Args:
        options: What the caller says.
        file: The checkpoint, or None for the published weights of a variant, for which nothing is an assumption.
        config: The network.
        metadata: What the file states.
        checked: The result of ``options.check``.

    Returns:
        The preprocessing, and what neither the file nor the caller states: ``NAME=VALUE`` in terms of the parameters of
        ``Classifier``.

    Raises:
        UsageError: A value contradicts the file or does not fit the network, or a one-channel network lacks a mean or
            standard deviation.
    """
    if file is None:
        metadata = replace(
            metadata,
            activation=metadata.activation or "softmax",
            mean=metadata.mean or MEAN,
            std=metadata.std or STD,
        )
    choose = _Choice(options, file, metadata.uses_config_file)
    if config.classes:
        choose("activation", metadata.activation, config.activation)
    mode = options.preprocess or metadata.preprocess or choose("preprocess", None, "crop")
    if options.input_size is None:
        input_size = metadata.input_size or choose("input_size", None, config.input_size)
    else:
        input_size = options.input_size
        _check_input_size(input_size, choose, config)
    interpolation = choose("interpolation", _stated_interpolation(metadata, mode), "bilinear")
    crop_ratio = options.crop_ratio
    if mode == "crop":
        is_test_size = metadata.test_crop_ratio is not None and input_size == metadata.test_input_size
        stated = metadata.test_crop_ratio if is_test_size else metadata.crop_ratio
        states_default = stated is None and metadata.preprocess == "crop"
        is_default = states_default or (stated is None and crop_ratio is None)
        chosen = choose("crop_ratio", DEFAULT_CROP_RATIO if states_default else stated, DEFAULT_CROP_RATIO)
        crop_ratio = None if is_default else chosen
    mean, std = (
        _per_channel(choose, name, getattr(metadata, name), config.channels, default)
        for name, default in (("mean", MEAN), ("std", STD))
    )
    preprocessing = replace(
        checked,
        mode=mode,
        input_size=input_size,
        interpolation=interpolation,
        crop_ratio=crop_ratio,
        mean=mean,
        std=std,
    )
    return preprocessing, () if file is None else tuple(choose.assumptions)


def _stated_interpolation(metadata: ModelMetadata, mode: str) -> str | None:
    """Return the interpolation that a file states for a mode. That of mode ``keras`` is part of the mode."""
    if mode == "keras":
        return "nearest"
    return None if metadata.preprocess == "keras" else metadata.interpolation


class _Choice:
    """Chooses between what the file states, what the caller says, and a default, which it notes as an assumption."""

    def __init__(self, options: ModelOptions, path: Path | None, uses_config_file: bool) -> None:
        self.options = options
        self.assumptions: list[str] = []
        self.file = to_unicode(str(path)) + " with its config.json" * uses_config_file if path else "the model"
        """What states the values, for messages."""

    def __call__(self, name: str, stated: Any, default: Any) -> Any:
        value = getattr(self.options, name)
        if name in ("mean", "std"):
            value = _numbers(value)
        if stated is not None:
            if value is not None and not is_same(value, stated):
                raise UsageError(
                    f"`{name}` is {_format(value)}, but {self.file} states {_format(stated)}. Omit `{name}`."
                )
            return stated
        if value is None:
            self.assumptions.append(f"{name}={_format(default)}")
            return default
        return value


def _per_channel(
    choose: _Choice, name: str, stated: tuple[float, ...] | None, channels: int, default: tuple[float, ...]
) -> tuple[float, ...]:
    """Return the mean or standard deviation of every channel."""
    if channels == 1:
        if stated is None and getattr(choose.options, name) is None:
            raise UsageError(
                f"The network in {choose.file} takes grayscale images, and the file does not state how to normalize "
                "them. Pass one number each as `mean` and `std`, for pixels in [0, 1]."
            )
        for values in (stated, _numbers(getattr(choose.options, name))):
            if values is not None and len(values) != 1:
                raise UsageError(
                    f"The network in {choose.file} takes grayscale images. `{name}` must be one number, not "
                    f"{format_values(values)}."
                )
    return _repeat(choose(name, stated, default), channels)


def check_range(name: str, values: Sequence[float]) -> None:
    """Check a mean or standard deviation that the caller gives. Raises ``UsageError``."""
    if len(values) not in (1, 3) or not all(0 <= value <= 1 for value in values):
        hint = " Divide values for pixels in [0, 255] by 255." if max(values, default=0) > 1 else ""
        raise UsageError(
            f"`{name}` must be one or three numbers for pixels in [0, 1], not {format_values(values)}.{hint}"
        )


def _check_input_size(size: int, choose: _Choice, config: DenseNetConfig) -> None:
    """Raise ``UsageError`` if the network does not accept images of ``size`` x ``size`` pixels."""
    if config.pooling == "flatten" and not config.resize and size != config.input_size:
        raise UsageError(
            f"`input_size` is {size}, but the network in {choose.file} accepts only {config.input_size}. "
            "Omit `input_size`."
        )
    from densenet_cli.layers import list_layers

    list_layers(config, size)


def _numbers(value: float | Sequence[float] | None) -> tuple[float, ...] | None:
    if value is None:
        return None
    return (float(value),) if isinstance(value, int | float) else tuple(map(float, value))


def _repeat(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Return one value per channel. A single value is for all of them."""
    return tuple(values) * (channels // len(values)) if len(values) < channels else tuple(values)


def is_same(value: Any, stated: Any) -> bool:
    """Return whether two values are the same, up to the rounding of float32."""
    if isinstance(stated, str):
        return bool(value == stated)
    pair = [(values if isinstance(values, tuple) else (values,)) for values in (value, stated)]
    channels = max(map(len, pair))
    return all(
        isclose(a, b, rel_tol=1e-5, abs_tol=1e-6) for a, b in zip(*(_repeat(p, channels) for p in pair), strict=True)
    )


def _format(value: Any) -> str:
    return (
        format_values(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)
    )


def state_preprocessing(metadata: ModelMetadata, preprocessing: Preprocessing) -> ModelMetadata:
    """Return metadata that states how images are prepared, so that a later run needs no options for it."""
    return replace(
        metadata,
        preprocess=preprocessing.mode,
        input_size=preprocessing.input_size,
        mean=preprocessing.mean,
        std=preprocessing.std,
        interpolation=preprocessing.interpolation,
        crop_ratio=preprocessing.crop_ratio,
    )
