"""Class folders of real small images: scikit-learn's handwritten digits, and a run on them that takes seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from densenet_cli.topology import DenseNetConfig
from densenet_cli.training.settings import Phase, Settings

SIDE = 16

SETTINGS = Settings(
    blocks=(2, 2),
    growth_rate=8,
    stem="cifar",
    stem_width=16,
    input_size=SIDE,
    preprocess="squash",
    sizes=(Phase(12, 2), Phase(SIDE, 4)),
    batch_size=32,
    warmup=0.5,
    augmentation="pad",
    flip=False,
    averaging=16,
    validation=20,
    seed=3,
)

NETWORK = DenseNetConfig((2, 2), 8, "cifar", 16, classes=10, input_size=SIDE)


def write_digits(folder: Path, a_class: int = 100, classes: int = 10) -> Path:
    """``folder/<digit>/<n>.png``, 16 pixels a side."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for digit in range(classes):
        (folder / str(digit)).mkdir(parents=True)
        for number, pixels in enumerate(digits.images[digits.target == digit][:a_class]):
            image = Image.fromarray((pixels * 255 / 16).astype(np.uint8)).resize((SIDE, SIDE))
            image.save(folder / str(digit) / f"{number:03}.png")
    return folder
