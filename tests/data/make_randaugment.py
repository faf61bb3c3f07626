"""Create ``randaugment.npz``: an image, and the results of torchvision's operations.

    python -m tests.data.make_randaugment

needs torchvision. The array ``MODE.OPERATION`` contains the results for that interpolation and the signed magnitudes in
``MODE.OPERATION.magnitudes``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.autoaugment import RandAugment, _apply_op

FILL = (124, 116, 104)
MAGNITUDES = (4, 9, 17, 30)


def main() -> None:
    """Write the file."""
    path = Path(__file__)
    with Image.open(path.parents[2] / "sample_images" / "cat.jpg") as file:
        image = file.convert("RGB").resize((16, 16), Image.Resampling.BICUBIC)
    image = Image.fromarray((40 + 0.7 * np.asarray(image)).astype(np.uint8))  # so that AutoContrast has an effect
    arrays = {"image": np.asarray(image)}
    space = RandAugment()._augmentation_space(31, image.size)
    for mode in ("bilinear", "nearest"):
        for name, (values, is_signed) in space.items():
            magnitudes = [sign * number for number in MAGNITUDES for sign in ((1, -1) if is_signed else (1,))]
            results = []
            for magnitude in magnitudes:
                value = float(values[abs(magnitude)]) * (1 if magnitude > 0 else -1) if values.ndim else 0.0
                results.append(np.asarray(_apply_op(image, name, value, InterpolationMode(mode), FILL)))
            arrays[f"{mode}.{name}"] = np.stack(results)
            arrays[f"{mode}.{name}.magnitudes"] = np.array(magnitudes)
    np.savez_compressed(path.with_name("randaugment.npz"), **arrays)


if __name__ == "__main__":
    main()
