"""Images for the tests: scikit-learn's handwritten digits, with settings that learn them in seconds, and noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from densenet_cli.topology import DenseNetConfig
from densenet_cli.training.phases import Phase
from densenet_cli.training.settings import Settings

SIZE = 16

SETTINGS = Settings(
    blocks=(2, 2),
    growth_rate=8,
    stem="cifar",
    stem_width=16,
    input_size=SIZE,
    preprocess="squash",
    sizes=(Phase(12, 2), Phase(SIZE, 4)),
    batch_size=32,
    warmup=0.5,
    augmentation="pad",
    flip=False,
    averaging=16,
    validation=20,
    seed=3,
)

CONFIG = DenseNetConfig((2, 2), 8, "cifar", 16, classes=10, input_size=SIZE)


def write_digits(folder: Path, per_class: int = 100, classes: int = 10) -> Path:
    """Write images of 16 x 16 pixels to ``folder/<digit>/<n>.png``."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for digit in range(classes):
        (folder / str(digit)).mkdir(parents=True)
        for number, pixels in enumerate(digits.images[digits.target == digit][:per_class]):
            image = Image.fromarray((pixels * 255 / 16).astype(np.uint8)).resize((SIZE, SIZE))
            image.save(folder / str(digit) / f"{number:03}.png")
    return folder


def blurred_noise(width: int = 20, height: int = 16, seed: int = 0) -> Image.Image:
    """Return random colors, enlarged by a factor of four."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
