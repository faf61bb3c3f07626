"""RandAugment: a few random operations of one magnitude per image (Cubuk et al., NeurIPS 2020).

The operations and their magnitudes are those of torchvision's ``RandAugment``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from densenet_cli.images.normalization import pad_color
from densenet_cli.training.fields import MAX_MAGNITUDE

if TYPE_CHECKING:
    from densenet_cli._types import UInt8Array
    from densenet_cli.training.settings import Settings

MAX_SHIFT = 150 / 331
"""Largest translation as a fraction of the side."""

MAX_VALUES = {
    "ShearX": 0.3,
    "ShearY": 0.3,
    "TranslateX": MAX_SHIFT,
    "TranslateY": MAX_SHIFT,
    "Rotate": 30.0,  # degrees
    "Brightness": 0.9,
    "Color": 0.9,
    "Contrast": 0.9,
    "Sharpness": 0.9,
}
"""Operations in two directions: what the magnitude scales to at ``MAX_MAGNITUDE``."""

OPERATIONS = ("Identity", *MAX_VALUES, "Posterize", "Solarize", "AutoContrast", "Equalize")

_ENHANCERS: dict[str, Callable[[Image.Image], ImageEnhance._Enhance]] = {
    name: getattr(ImageEnhance, name) for name in ("Brightness", "Color", "Contrast", "Sharpness")
}


def randaugment(pixels: UInt8Array, settings: Settings, generator: np.random.Generator) -> UInt8Array:
    """Apply random operations to an image, uint8 (size, size, 3), as ``settings.randaugment`` specifies.

    Pixels from outside the image get the mean color.
    """
    count, magnitude = settings.randaugment
    image = Image.fromarray(pixels)
    for _ in range(count):
        operation = OPERATIONS[generator.integers(len(OPERATIONS))]
        signed = magnitude if generator.random() < 0.5 else -magnitude
        image = apply(image, operation, signed, settings.interpolation, pad_color(settings.mean))
    return np.asarray(image)


def apply(image: Image.Image, operation: str, magnitude: int, interpolation: str, fill: tuple[int, ...]) -> Image.Image:
    """Apply an operation.

    Args:
        image: An RGB image.
        operation: One of ``OPERATIONS``.
        magnitude: From ``-MAX_MAGNITUDE`` to ``MAX_MAGNITUDE``. The sign matters only to those in ``MAX_VALUES``.
        interpolation: How to resample the image.
        fill: The color of pixels from outside the image.
    """
    resampling = Image.Resampling[interpolation.upper()]
    fraction = abs(magnitude) / MAX_MAGNITUDE
    value = MAX_VALUES.get(operation, 0.0) * magnitude / MAX_MAGNITUDE
    # An affine matrix maps a position in the result to one in the image: x' = a x + b y + c, y' = d x + e y + f.
    matrices = {
        "ShearX": (1, value, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, value, 1, 0),
        "TranslateX": (1, 0, -int(value * image.width), 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, -int(value * image.height)),
    }
    if operation in matrices:
        matrix = matrices[operation]
        return image.transform(image.size, Image.Transform.AFFINE, matrix, resampling, fillcolor=fill)
    if operation == "Rotate":
        return image.rotate(value, resampling, fillcolor=fill)
    if operation in _ENHANCERS:
        return _ENHANCERS[operation](image).enhance(1 + value)
    if operation == "Posterize":
        return ImageOps.posterize(image, 8 - round(4 * fraction))
    if operation == "Solarize":
        return ImageOps.solarize(image, int(np.ceil(255 - 255 * fraction)))
    if operation == "AutoContrast":
        return ImageOps.autocontrast(image)
    if operation == "Equalize":
        return ImageOps.equalize(image)
    return image
