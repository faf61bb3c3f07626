"""Draw the result of ``densenet explain`` on a sample image to ``docs/images/explained.jpg``. ``make docs`` runs this.

With ``--check``, only report whether the image is out of date.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from densenet_cli.cli import densenet

ROOT = Path(__file__).parents[1]
IMAGE = ROOT / "docs" / "images" / "explained.jpg"
SAMPLE = ROOT / "sample_images" / "red_panda.jpg"
QUALITY = 85
MAX_BYTES = 150_000
TOLERANCE = 2.0
"""Mean difference of the pixels (0 to 255). JPEG and rounding on other processors stay below it; other maps do not."""


def draw() -> Image.Image:
    """Return the drawing that the command makes with the bundled model."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        arguments = ["explain", str(SAMPLE), "--variant", "tiny", "-o", folder, "--quiet"]
        if status := densenet.main(arguments, prog_name="densenet", standalone_mode=False):
            raise SystemExit(f"densenet explain exited with status {status}.")
        (path,) = Path(folder).rglob("*.png")
        return Image.open(path).convert("RGB")


def is_similar(first: Image.Image, second: Image.Image) -> bool:
    """Return whether two drawings differ by at most ``TOLERANCE``."""
    if first.size != second.size:
        return False
    return bool(np.abs(np.asarray(first, np.float32) - np.asarray(second, np.float32)).mean() <= TOLERANCE)


def main(arguments: list[str]) -> int:
    """Draw or check the image. Return 1 if ``--check`` finds it out of date, or if it is larger than ``MAX_BYTES``."""
    drawing = draw()
    if IMAGE.is_file() and is_similar(Image.open(IMAGE).convert("RGB"), drawing):
        return 0
    if "--check" in arguments:
        print(IMAGE.name, "is out of date")
        return 1
    drawing.save(IMAGE, quality=QUALITY, optimize=True)
    print(IMAGE.name, f"drawn, {IMAGE.stat().st_size:,} bytes")
    return 0 if IMAGE.stat().st_size <= MAX_BYTES else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
