"""Record what timm's own transforms make of photographs: ``python -m tests.data.make_timm_transforms``.

Needs timm 1.0.31 and torchvision. The recorded arrays are samples of the normalized input, every ``STEP`` pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.support.images import photograph

FILE = Path(__file__).with_name("timm_transforms.npz")
STEP = 13
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

SIZES = {
    "landscape": (600, 400),
    "portrait": (301, 450),
    "tiny": (40, 31),
    "elongated": (900, 70),
    "square": (256, 256),
}
"""Name -> width and height of a photograph."""

TRANSFORMS: dict[str, dict[str, Any]] = {
    "224": {"input_size": 224, "crop_pct": 0.875, "interpolation": "bicubic", **IMAGENET},
    "288": {"input_size": 288, "crop_pct": 0.95, "interpolation": "bicubic", **IMAGENET},
    "bilinear": {"input_size": 224, "crop_pct": 0.875, "interpolation": "bilinear", **IMAGENET},
    "nearest": {"input_size": 100, "crop_pct": 0.9, "interpolation": "nearest", **HALF},
    "32": {"input_size": 32, "crop_pct": 0.875, "interpolation": "bicubic", **HALF},
    "squash": {"input_size": 224, "crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bicubic", **IMAGENET},
    "border": {"input_size": 224, "crop_pct": 1.0, "crop_mode": "border", "interpolation": "bicubic", **HALF},
}
"""Name -> arguments of ``timm.data.create_transform``."""


def main() -> None:
    """Write ``FILE``."""
    from timm.data import create_transform

    arrays = {}
    for name, arguments in TRANSFORMS.items():
        transform = create_transform(**arguments)
        for kind, size in SIZES.items():
            values = transform(photograph("coffee", size)).numpy().transpose(1, 2, 0)
            arrays[f"{name}/{kind}"] = values[::STEP, ::STEP]
    gray = create_transform(input_size=64, crop_pct=0.875, interpolation="bicubic", mean=(0.449,), std=(0.226,))
    arrays["gray"] = gray(photograph("coffee").convert("L")).numpy().transpose(1, 2, 0)[::STEP, ::STEP]
    np.savez_compressed(FILE, allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
