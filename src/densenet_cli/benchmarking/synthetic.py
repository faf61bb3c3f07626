"""What is measured with where nothing better is at hand: images like photographs, and weights of random numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from densenet_cli.layers import array_shapes
from densenet_cli.output.atomic import output_errors
from densenet_cli.topology import DenseNetConfig

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

SIZE = (500, 375)
"""Width and height of an image: the commonest of ImageNet's photographs."""
COUNT = 8
GRAIN = 5
"""Standard deviation of a camera's grain, of 255. With it the files are as large as ImageNet's, some 110 kB."""
QUALITY = 92


def write_photographs(folder: Path) -> list[Path]:
    """Write ``COUNT`` JPEGs of ``SIZE`` into ``folder``, the same at every call, and return their paths.

    Raises:
        OutputError: they can't be written.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    paths = [folder / f"photograph-{number:02d}.jpg" for number in range(COUNT)]
    with output_errors(folder):
        for path in paths:
            photograph(rng).save(path, quality=QUALITY)
    return paths


def photograph(rng: np.random.Generator) -> Image:
    """Noise with a photograph's statistics, in RGB of ``SIZE``.

    A photograph's amplitudes fall as one over the frequency (Field, "Relations between the statistics of natural images
    and the response properties of cortical cells", JOSA A 4, 1987), and its colors vary less than its brightness.
    Decoding takes as long as the bits of its JPEG, and these are about as many.
    """
    import numpy as np
    from PIL import Image

    brightness = 45 * _noise(rng, 1.1)[..., None]
    colors = 14 * np.stack([_noise(rng, 1.4) for _ in range(3)], axis=-1)
    grain = GRAIN * rng.standard_normal((*SIZE[::-1], 3))
    return Image.fromarray((118 + brightness + colors + grain).clip(0, 255).astype(np.uint8))


def _noise(rng: np.random.Generator, exponent: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """(height, width) of mean 0 and deviation 1, whose amplitudes fall as the frequency to the power ``exponent``."""
    import numpy as np

    width, height = SIZE
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf  # no mean
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((height, width))) / frequency**exponent, (height, width))
    result: np.ndarray[tuple[int, int], np.dtype[np.float64]] = noise / noise.std()
    return result


def write_random_weights(path: Path, config: DenseNetConfig) -> None:
    """Write a checkpoint (safetensors) of ``config`` whose numbers are random: good for speed, and for nothing else.

    The time of a multiplication does not depend on its numbers, unless they are so small that the processor treats them
    apart (denormals). Kernels are drawn so that signals keep their size through any depth (He et al., "Delving deep
    into rectifiers", ICCV 2015, equation 10), batch norms change nothing.

    Raises:
        OutputError: it can't be written.
    """
    import numpy as np

    from densenet_cli.weights import safetensors

    rng = np.random.default_rng(0)

    def drawn(part: str, shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        if part == "kernel":
            scale = np.float32(math.sqrt(2 / math.prod(shape[:-1])))
            return rng.standard_normal(shape, np.float32) * scale
        return np.full(shape, 1 if part in ("gamma", "moving_variance") else 0, np.float32)

    arrays = {
        layer: {part: drawn(part, shape) for part, shape in parts.items()}
        for layer, parts in array_shapes(config).items()
    }
    safetensors.write(path, arrays, config)
