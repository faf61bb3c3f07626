"""Inputs of the benchmarks: random weights in the published layout, and images made from scikit-image's photographs.

The published weights may be unavailable, and the time of a network does not depend on its weights, so they are random
(those of the tests, whose probabilities are neither near 1 nor uniform). The photographs are crops of the six color
photographs in scikit-image, resized, mirrored, brightened, and with camera noise, so that no two files are equal and
their JPEGs are as large as ImageNet's.

As a script it makes them in a new process, so that the measuring process stays small: ``inputs.py KIND PATH [COUNT]``.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import processes

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

ROOT = Path(__file__).parents[1]
PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "hubble_deep_field.jpg",
)
SIZE = (500, 375)
"""Size of a photograph, the most common one in ImageNet."""
GRAIN = 7
"""Standard deviation of the camera noise, of 255. With it, a JPEG of quality 95 has about 110 kB."""
LOGIT_SPREAD = 3
"""Standard deviation of the logits of ``varied_weights``. The best of 1,000 classes then has a moderate probability."""
LARGE_SIZE = (4000, 3000)
LARGE_KINDS = ("enlarged", "mosaic")
"""Kinds of large images, which alternate: one enlarged photograph, or a sharp mosaic of 64 photographs."""


class Inputs:
    """Makes inputs in a folder when they are first used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _make(self, kind: str, name: str, *arguments: object) -> Path:
        path = self.folder / name
        if not path.exists():
            processes.run(processes.script("inputs", kind, path, *arguments))
        return path

    def weights(self) -> Path:
        """Weights of a DenseNet-121 with 1,000 classes, in the published layout."""
        return self._make("weights", "densenet121.h5")

    def varied_weights(self) -> Path:
        """Random weights of a DenseNet-121 whose predictions for photographs differ."""
        return self._make("varied_weights", "varied.safetensors", self.weights())

    def small_weights(self) -> Path:
        """Weights of a network with a few layers and an input of 32x32."""
        return self._make("small_weights", "small.safetensors")

    def photographs(self, count: int) -> Path:
        """A folder of ``count`` JPEGs of ``SIZE``."""
        return self._make("photographs", f"photographs-{count}", count)

    def large_photographs(self, count: int) -> Path:
        """A folder of ``count`` JPEGs of 12 megapixels."""
        return self._make("large_photographs", f"large-{count}", count)

    def small_images(self, count: int) -> Path:
        """A text file with the paths of ``count`` small JPEGs (hard links to ten files), one per line."""
        return self._make("small_images", f"small-{count}.txt", count)

    def classes(self, count: int) -> Path:
        """Class folders with ``count`` JPEGs of 64x64 in 200 classes."""
        return self._make("classes", f"classes-{count}", count)

    def new_folder(self) -> Path:
        """A new, empty folder."""
        return Path(tempfile.mkdtemp(dir=self.folder))


@contextmanager
def temporary_inputs() -> Iterator[Inputs]:
    """Inputs in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="densenet-benchmarks-") as folder:
        yield Inputs(Path(folder))


def weights(path: Path) -> None:
    sys.path.insert(0, str(ROOT))
    from densenet_cli.variants import VARIANTS
    from tests.support.checkpoints import write_legacy_h5
    from tests.support.networks import random_arrays

    config = VARIANTS["121"].config
    write_legacy_h5(path, random_arrays(config), config)


def varied_weights(path: Path, weights: str) -> None:
    """Shift and scale the logits of each class so that they are spread around 0 for photographs.

    With random weights, all photographs have the same top-1 label, so the top-1 labels of any precision would agree.
    """
    import numpy as np

    from densenet_cli import Classifier
    from densenet_cli.images.sources import from_object
    from densenet_cli.weights import checkpoint, safetensors

    originals = _originals()
    images = [_photograph(originals, 10_000 + number, SIZE) for number in range(60)]
    results = Classifier(weights=weights).stream(map(from_object, images), ("logits",))
    logits = np.array([result.outputs["logits"] for result in results])
    contents = checkpoint.read(Path(weights))
    head, scale = contents.arrays["predictions"], LOGIT_SPREAD / logits.std(axis=0)
    head["bias"] = (head["bias"] - logits.mean(axis=0)) * scale
    head["kernel"] = head["kernel"] * scale
    safetensors.write(path, contents.arrays, contents.config)


def small_weights(path: Path) -> None:
    sys.path.insert(0, str(ROOT))
    from densenet_cli.weights import safetensors
    from tests.support.networks import TINY, random_arrays

    safetensors.write(path, random_arrays(TINY), TINY)


def photographs(folder: Path, count: int) -> None:
    folder.mkdir()
    originals = _originals()
    for number in range(count):
        image = _photograph(originals, number, SIZE if number % 4 else SIZE[::-1])
        image.save(folder / f"{number:06d}.jpg", quality=95)


def large_photographs(folder: Path, count: int) -> None:
    from PIL import Image

    folder.mkdir()
    originals = _originals()
    for number in range(count):
        if LARGE_KINDS[number % 2] == "mosaic":
            image = Image.new("RGB", LARGE_SIZE)
            for tile in range(64):
                corner = (tile % 8 * 500, tile // 8 * 375)
                image.paste(_photograph(originals, 1000 + 64 * number + tile, SIZE), corner)
        else:
            image = _photograph(originals, number, LARGE_SIZE)
        image.save(folder / f"{number:06d}.jpg", quality=90)


def small_images(image_list: Path, count: int) -> None:
    folder = image_list.with_suffix("")
    folder.mkdir()
    originals = _originals()
    for number in range(count):
        path = folder / f"{number:06d}.jpg"
        if number < 10:
            _photograph(originals, number, (48, 48)).save(path, quality=90)
        else:
            os.link(folder / f"{number % 10:06d}.jpg", path)
    image_list.write_text("".join(f"{folder}/{number:06d}.jpg\n" for number in range(count)))


def classes(folder: Path, count: int) -> None:
    originals = _originals()
    for number in range(count):
        path = folder / f"{number % 200:03d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        _photograph(originals, number, (64, 64)).save(path, quality=90)


def _originals() -> list[Image]:
    import skimage.data
    from PIL import Image

    folder = Path(skimage.data.__file__).parent
    return [Image.open(folder / name).convert("RGB") for name in PHOTOGRAPHS]


def _photograph(originals: list[Image], number: int, size: tuple[int, int]) -> Image:
    """Make variation ``number``. The same number gives the same image."""
    import numpy as np
    from PIL import Image, ImageEnhance

    rng = np.random.default_rng(number)
    original = originals[number % len(originals)]
    scale = rng.uniform(0.55, 0.95) * min(original.width / size[0], original.height / size[1])
    width, height = size[0] * scale, size[1] * scale
    left, top = rng.uniform(0, original.width - width), rng.uniform(0, original.height - height)
    image = original.resize(size, Image.Resampling.BICUBIC, (left, top, left + width, top + height))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.8, 1.2))
    return _add_grain(image, rng)


def _add_grain(image: Image, rng: np.random.Generator) -> Image:
    import numpy as np
    from PIL import Image

    pixels = np.asarray(image, np.float32)
    pixels = pixels + rng.standard_normal(pixels.shape, np.float32) * GRAIN
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


KINDS = {
    function.__name__: function
    for function in (weights, varied_weights, small_weights, photographs, large_photographs, small_images, classes)
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make an input of the benchmarks.")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("path", type=Path)
    parser.add_argument("argument", nargs="*", help="number of images, or a checkpoint")
    args = parser.parse_args()
    KINDS[args.kind](args.path, *(int(value) if value.isdecimal() else value for value in args.argument))
