"""Normalization: from 8-bit pixels to the values that a network expects."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import isfinite
from typing import TYPE_CHECKING

from densenet_cli.errors import UsageError

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray, UInt8Array

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's mean and standard deviation per RGB channel, for pixels in [0, 1]. Keras and torchvision use the same."""


def check_normalization(mean: Sequence[float], std: Sequence[float]) -> None:
    """Check the mean and standard deviation of each channel. Raises ``UsageError``."""
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, 3) or not all(isfinite(value) and abs(value) < 1e6 for value in values):
            raise UsageError(f"`{name}` must be one or three numbers, not {format_values(values)}.")
    if len(mean) != len(std):
        raise UsageError(f"`mean` has {len(mean)} values, but `std` has {len(std)}.")
    if min(map(abs, std)) < 1e-12:
        raise UsageError(f"`std` must not be 0, but it is {format_values(std)}.")


def format_values(values: Sequence[float]) -> str:
    """Return numbers separated by commas, as the options ``mean`` and ``std`` take them."""
    return ",".join(f"{value:.6g}" for value in values)


def pad_color(mean: Sequence[float]) -> tuple[int, ...]:
    """Return the mean color. It is close to 0 after normalization, like the zero padding of convolutions."""
    return tuple(min(max(round(255 * value), 0), 255) for value in mean)


@cache
def _normalized_levels(mean: tuple[float, ...], std: tuple[float, ...]) -> FloatArray:
    """Return the normalized value of every pixel value and channel, shape (256, channels), in Keras' arithmetic."""
    import numpy as np

    levels = np.repeat(np.arange(256, dtype=np.float32)[:, None], len(mean), axis=1)
    levels /= 255.0
    for channel in range(len(mean)):
        levels[:, channel] -= mean[channel]
        levels[:, channel] /= std[channel]
    return levels


def normalize(pixels: UInt8Array, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> FloatArray:
    """Scale pixels to [0, 1], subtract the mean, and divide by the standard deviation of each channel.

    With ImageNet's values, the result is bit-identical to ``keras.applications.densenet.preprocess_input``, and with
    any values to torchvision's ``Normalize``. A lookup table is faster than the arithmetic.

    Args:
        pixels: uint8 of shape (n, height, width, channels).
        mean: One value per channel.
        std: One value per channel.

    Returns:
        float32 of the same shape.
    """
    import numpy as np

    levels = _normalized_levels(mean, std)
    normalized = np.empty(pixels.shape, np.float32)
    for channel in range(len(mean)):
        normalized[..., channel] = levels[:, channel][pixels[..., channel]]
    return normalized


def as_normalized(pixels: FloatArray | UInt8Array, normalization: tuple[tuple[float, ...], ...]) -> FloatArray:
    """Return uint8 pixels normalized with (mean, std), and float32 pixels, which are normalized, as they are."""
    import numpy as np

    return normalize(pixels, *normalization) if pixels.dtype == np.uint8 else pixels  # type: ignore[arg-type, return-value]
