"""Synthetic benchmark inputs: images with the statistics of photographs, and random weights."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image

from densenet_cli.layers import array_shapes
from densenet_cli.output.atomic import output_errors
from densenet_cli.topology import DenseNetConfig
from densenet_cli.weights import safetensors

IMAGE_COUNT = 8
IMAGE_SIZE = (500, 375)
"""Width and height, the most common size in ImageNet."""
GRAIN = 5
"""Standard deviation of the simulated camera noise, of 255. It makes the files as large as ImageNet's, about 110 kB."""
JPEG_QUALITY = 92


def write_images(folder: Path) -> list[Path]:
    """Write ``IMAGE_COUNT`` JPEGs to ``folder``, the same in every call, and return their paths.

    Raises:
        OutputError: They cannot be written.
    """
    rng = np.random.default_rng(0)
    paths = [folder / f"image-{number:02d}.jpg" for number in range(IMAGE_COUNT)]
    with output_errors(folder):
        for path in paths:
            make_image(rng).save(path, quality=JPEG_QUALITY)
    return paths


def make_image(rng: np.random.Generator) -> Image.Image:
    """Make an RGB image of noise with the statistics of a photograph.

    The amplitudes of a photograph are inversely proportional to the frequency (Field, "Relations between the statistics
    of natural images and the response properties of cortical cells", JOSA A 4, 1987), and its colors vary less than its
    brightness. The time to decode a JPEG depends on its size in bits, which is about that of a photograph.
    """
    brightness = 45 * _noise(rng, 1.1)[..., None]
    colors = 14 * np.stack([_noise(rng, 1.4) for _ in range(3)], axis=-1)
    grain = GRAIN * rng.standard_normal((*IMAGE_SIZE[::-1], 3))
    return Image.fromarray((118 + brightness + colors + grain).clip(0, 255).astype(np.uint8))


def _noise(rng: np.random.Generator, exponent: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return 1/f**exponent noise with mean 0 and standard deviation 1, (height, width)."""
    width, height = IMAGE_SIZE
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf  # zero mean
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((height, width))) / frequency**exponent, (height, width))
    result: np.ndarray[tuple[int, int], np.dtype[np.float64]] = noise / noise.std()
    return result


def write_random_weights(path: Path, config: DenseNetConfig) -> None:
    """Write a safetensors checkpoint of random weights. Its speed is that of real weights; its predictions are random.

    The time of a multiplication does not depend on the operands, except for denormal numbers. Kernels are drawn so that
    activations keep their scale at any depth (He et al., "Delving deep into rectifiers", ICCV 2015, equation 10), and
    batch norms are the identity.

    Raises:
        OutputError: The file cannot be written.
    """
    rng = np.random.default_rng(0)

    def random_array(name: str, shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        if name == "kernel":
            scale = np.float32(math.sqrt(2 / math.prod(shape[:-1])))
            return rng.standard_normal(shape, np.float32) * scale
        return np.full(shape, 1 if name in ("gamma", "moving_variance") else 0, np.float32)

    arrays = {
        layer: {name: random_array(name, shape) for name, shape in shapes.items()}
        for layer, shapes in array_shapes(config).items()
    }
    safetensors.write(path, arrays, config)
