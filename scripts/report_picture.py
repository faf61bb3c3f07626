"""Photograph the page of ``predict --html`` into ``docs/pictures/report.png``: ``python -m scripts.report_picture``.

It needs Chromium and its driver, and is run by hand when the page's looks have changed: no two browsers and fonts draw
the same pixels, so nothing checks it.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from tests.support.browser import missing, opened

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "pictures" / "report.png"
VIEWS = ((1040, 780, False), (390, 780, True))
"""Width, height, and whether by somebody who likes it dark: a desk and a phone, side by side."""
GAP = 24
COLOURS = 255
MOST_BYTES = 200_000


def views(page: Path, profile: Path) -> list[Image.Image]:
    """The page as it is seen."""
    with opened(profile) as browser:
        pictures = []
        for width, height, dark in VIEWS:
            browser.open(page, width, height, dark=dark)
            browser.run("document.documentElement.style.scrollbarWidth = 'none'")
            browser.run("return new Promise(done => setTimeout(done, 500))")
            pictures.append(Image.open(io.BytesIO(browser.screenshot())).convert("RGBA"))
    return pictures


def beside(pictures: list[Image.Image]) -> Image.Image:
    """Several pictures in one, nothing between them."""
    width = sum(picture.width for picture in pictures) + GAP * (len(pictures) - 1)
    whole = Image.new("RGBA", (width, max(picture.height for picture in pictures)))
    left = 0
    for picture in pictures:
        whole.paste(picture, (left, 0))
        left += picture.width + GAP
    return whole


def main() -> int:
    """Make the picture; 1 where there is no browser, or it grows too large."""
    if reason := missing():
        print(reason)
        return 1
    with TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        command = [sys.executable, "-m", "densenet_cli", "predict", "sample_images", "--variant", "tiny", "-k", "4"]
        environment = os.environ | {"DENSENET_CACHE": folder}
        subprocess.run([*command, "--html", page], cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        picture = beside(views(page, Path(folder) / "profile"))
    picture.quantize(COLOURS, Image.Quantize.FASTOCTREE).save(PICTURE, optimize=True)
    print(PICTURE.relative_to(ROOT), PICTURE.stat().st_size, "bytes")
    return int(PICTURE.stat().st_size > MOST_BYTES)


if __name__ == "__main__":
    sys.exit(main())
