"""What training does to an image before the network sees it; ``images.preprocessing`` is its counterpart in use."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from densenet_cli.images.preprocessing import PAD_COLOR, DecodedImage
from densenet_cli.training.settings import Settings

if TYPE_CHECKING:
    Pixels = np.ndarray[Any, np.dtype[np.uint8]]

ASPECT = (3 / 4, 4 / 3)
"""Range of width over height of a random-resized crop (Szegedy et al., "Going Deeper with Convolutions", 2015)."""

MARGIN = 8
"""A padded crop is shifted by up to one part in so many of the side: 4 of 32 pixels in the DenseNet paper's C10+."""


def augment(decoded: DecodedImage, size: int, settings: Settings, generator: np.random.Generator) -> Pixels:
    """One training image as ``settings`` say: uint8 (size, size, 3)."""
    if settings.augmentation == "crop":
        pixels = random_resized_crop(decoded, size, settings.crop_area, generator)
    elif settings.augmentation == "pad":
        pixels = padded_crop(decoded, size, generator)
    else:
        pixels = _resized(decoded, _middle_square(decoded), size)
    return pixels[:, ::-1] if settings.flip and generator.random() < 0.5 else pixels


def random_resized_crop(decoded: DecodedImage, size: int, least_area: float, generator: np.random.Generator) -> Pixels:
    """A part of random area (``least_area`` to 1 of the whole), aspect and place, resized."""
    left, top, right, bottom = decoded.box
    width, height = right - left, bottom - top
    area = width * height * generator.uniform(least_area, 1)
    aspect = math.exp(generator.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
    wide, high = min(width, math.sqrt(area * aspect)), min(height, math.sqrt(area / aspect))
    left += generator.random() * (width - wide)
    top += generator.random() * (height - high)
    return _resized(decoded, (left, top, min(right, left + wide), min(bottom, top + high)), size)


def padded_crop(decoded: DecodedImage, size: int, generator: np.random.Generator) -> Pixels:
    """The middle square, shifted by up to an eighth; the mean color, which is zero to the network, moves in."""
    pixels = _resized(decoded, _middle_square(decoded), size)
    margin = max(1, size // MARGIN)
    padded = np.empty((size + 2 * margin, size + 2 * margin, 3), np.uint8)
    padded[:] = PAD_COLOR
    padded[margin:-margin, margin:-margin] = pixels
    top, left = generator.integers(0, 2 * margin, 2, endpoint=True)
    return padded[top : top + size, left : left + size]


def _middle_square(decoded: DecodedImage) -> tuple[float, float, float, float]:
    left, top, right, bottom = decoded.box
    side = min(right - left, bottom - top)
    left, top = (left + right - side) / 2, (top + bottom - side) / 2
    return left, top, left + side, top + side


def _resized(decoded: DecodedImage, box: tuple[float, float, float, float], size: int) -> Pixels:
    from PIL.Image import Resampling

    return np.asarray(decoded.image.resize((size, size), Resampling.BILINEAR, box))
