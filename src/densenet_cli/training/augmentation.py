"""What training does to a picture before the network sees it. Pixels in, pixels out: all uint8 RGB."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from densenet_cli.training.settings import Settings

ASPECT = (3 / 4, 4 / 3)
"""Range of width over height of a random-resized crop (Szegedy et al., "Going Deeper with Convolutions", 2015)."""


def random_resized_crop(pixels: np.ndarray, size: int, least_area: float, generator: np.random.Generator) -> np.ndarray:
    """A part of ``pixels`` of random area (``least_area`` to 1) and aspect, resized to ``(size, size, 3)``."""
    height, width = pixels.shape[:2]
    area = height * width * generator.uniform(least_area, 1)
    aspect = math.exp(generator.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
    wide, high = min(width, math.sqrt(area * aspect)), min(height, math.sqrt(area / aspect))
    left, top = generator.uniform(0, width - wide), generator.uniform(0, height - high)
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + wide, top + high)))


def padded_crop(pixels: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """The paper's C10+: ``(size, size, 3)`` out of the picture with an eighth of its side in zeros around it."""
    whole = fit(pixels, size)
    margin = max(1, size // 8)
    padded = np.pad(whole, ((margin, margin), (margin, margin), (0, 0)))
    top, left = generator.integers(0, 2 * margin + 1, 2)
    return padded[top : top + size, left : left + size]


def fit(pixels: np.ndarray, size: int) -> np.ndarray:
    """The middle square of ``pixels``, resized to ``(size, size, 3)``."""
    height, width = pixels.shape[:2]
    if height == width == size:
        return pixels
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)))


def augment(pixels: np.ndarray, size: int, settings: Settings, generator: np.random.Generator) -> np.ndarray:
    """One training picture, ``(size, size, 3)``, as ``settings`` say."""
    if settings.augmentation == "crop":
        pixels = random_resized_crop(pixels, size, settings.crop_area, generator)
    elif settings.augmentation == "pad":
        pixels = padded_crop(pixels, size, generator)
    else:
        pixels = fit(pixels, size)
    if settings.flip and generator.random() < 0.5:
        pixels = pixels[:, ::-1]
    return pixels
