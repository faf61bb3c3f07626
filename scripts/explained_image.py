"""Draw what ``densenet explain`` makes of a sample image into ``docs/images/explained.jpg``: part of ``make docs``.

With ``--check``, only say whether it is old.
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
SHOWN = ROOT / "sample_images" / "red_panda.jpg"
QUALITY = 85
MOST_BYTES = 150_000
TOLERANCE = 2.0
"""Mean difference of the pixels, of 255: JPEG and other processors' rounding stay below it, another map does not."""


def drawn() -> Image.Image:
    """The sheet that the command draws, of the small network that ships."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        arguments = ["explain", str(SHOWN), "--variant", "tiny", "-o", folder, "--quiet"]
        if status := densenet.main(arguments, prog_name="densenet", standalone_mode=False):
            raise SystemExit(f"densenet explain ended with {status}")
        (sheet,) = Path(folder).rglob("*.png")
        return Image.open(sheet).convert("RGB")


def alike(one: Image.Image, other: Image.Image) -> bool:
    """Whether two sheets show the same."""
    if one.size != other.size:
        return False
    return bool(np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32)).mean() <= TOLERANCE)


def main(arguments: list[str]) -> int:
    """Draw or check; 1 where ``--check`` finds it out of date, or it grows too large."""
    new = drawn()
    if IMAGE.is_file() and alike(Image.open(IMAGE).convert("RGB"), new):
        return 0
    if "--check" in arguments:
        print(IMAGE.name, "is out of date")
        return 1
    new.save(IMAGE, quality=QUALITY, optimize=True)
    print(IMAGE.name, f"drawn, {IMAGE.stat().st_size:,} bytes")
    return 0 if IMAGE.stat().st_size <= MOST_BYTES else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
