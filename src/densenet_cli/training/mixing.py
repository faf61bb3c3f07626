"""Augmentations that mix two images or erase a part of one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from densenet_cli.images.normalization import pad_color

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray, IntArray, UInt8Array
    from densenet_cli.training.settings import Settings

ERASED_AREA = (0.02, 1 / 3)
ERASED_ASPECT = (0.3, 1 / 0.3)
"""Ranges of the area, as a fraction of the image, and of the aspect ratio of an erased part (Zhong et al.)."""

MAX_ATTEMPTS = 10
"""Parts to try that may not fit in an image."""


class Mix(NamedTuple):
    """Images that are mixed with others of their batch.

    Attributes:
        pixels: The mixed images, float32 (n, size, size, 3).
        partners: The position in the batch of the image that each image is mixed with, int64 (n,).
        share: The share of an image itself in its mix, in [0, 1]. Its partner has the rest.
    """

    pixels: FloatArray
    partners: IntArray
    share: float


def mix(pixels: FloatArray, settings: Settings, generator: np.random.Generator) -> Mix:
    """Apply mixup or cutmix to a batch. If both are enabled, each is used for half of the batches."""
    uses_cutmix = settings.cutmix > 0 and (not settings.mixup or generator.random() < 0.5)
    alpha = settings.cutmix if uses_cutmix else settings.mixup
    share, partners = float(generator.beta(alpha, alpha)), generator.permutation(len(pixels))
    return (cutmix if uses_cutmix else mixup)(pixels, partners, share, generator)


def mixup(pixels: FloatArray, partners: IntArray, share: float, _: np.random.Generator) -> Mix:
    """Average images with their partners (Zhang et al., "mixup", ICLR 2018)."""
    return Mix(np.float32(share) * pixels + np.float32(1 - share) * pixels[partners], partners, share)


def cutmix(pixels: FloatArray, partners: IntArray, share: float, generator: np.random.Generator) -> Mix:
    """Replace a rectangle of images by that of their partners (Yun et al., "CutMix", ICCV 2019).

    Its area is ``1 - share`` of the image, unless it extends beyond the border. The share that remains is returned.
    """
    size = pixels.shape[1]
    side = round(size * math.sqrt(1 - share))
    row, column = (int(value) for value in generator.integers(0, size, 2))
    rows, columns = (
        slice(max(0, center - side // 2), min(size, center - side // 2 + side)) for center in (row, column)
    )
    mixed = pixels.copy()
    mixed[:, rows, columns] = pixels[partners, rows, columns]
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return Mix(mixed, partners, 1 - area / size**2)


def erase(pixels: UInt8Array, mean: tuple[float, ...], generator: np.random.Generator) -> UInt8Array:
    """Fill a random rectangle with the mean color (Zhong et al., "Random Erasing", AAAI 2020).

    Args:
        pixels: uint8 (size, size, 3).
        mean: Mean per channel, for pixels in [0, 1].
        generator: Source of random numbers.
    """
    size = len(pixels)
    for _ in range(MAX_ATTEMPTS):
        area = size**2 * generator.uniform(*ERASED_AREA)
        aspect = math.exp(generator.uniform(math.log(ERASED_ASPECT[0]), math.log(ERASED_ASPECT[1])))
        height, width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if max(height, width) <= size and min(height, width) > 0:
            top, left = generator.integers(0, (size - height + 1, size - width + 1))
            erased = pixels.copy()
            erased[top : top + height, left : left + width] = pad_color(mean)
            return erased
    return pixels
