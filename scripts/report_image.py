"""Photograph the page of ``predict --html`` into ``docs/images/report.png``: ``python -m scripts.report_image``.

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
IMAGE = ROOT / "docs" / "images" / "report.png"
VIEWS = ((1040, 780, False), (390, 780, True))
"""Width, height, and whether by somebody who likes it dark: a desk and a phone, side by side."""
GAP = 24
COLORS = 255
MOST_BYTES = 200_000


def views(page: Path, profile: Path) -> list[Image.Image]:
    """The page as it is seen."""
    with opened(profile) as browser:
        images = []
        for width, height, dark in VIEWS:
            browser.open(page, width, height, dark=dark)
            browser.run("document.documentElement.style.scrollbarWidth = 'none'")
            browser.run("return new Promise(done => setTimeout(done, 500))")
            images.append(Image.open(io.BytesIO(browser.screenshot())).convert("RGBA"))
    return images


def beside(images: list[Image.Image]) -> Image.Image:
    """Several images in one, nothing between them."""
    width = sum(image.width for image in images) + GAP * (len(images) - 1)
    whole = Image.new("RGBA", (width, max(image.height for image in images)))
    left = 0
    for image in images:
        whole.paste(image, (left, 0))
        left += image.width + GAP
    return whole


def main() -> int:
    """Make the image; 1 where there is no browser, or it grows too large."""
    if reason := missing():
        print(reason)
        return 1
    with TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        command = [sys.executable, "-m", "densenet_cli", "predict", "sample_images", "--variant", "tiny", "-k", "4"]
        environment = os.environ | {"DENSENET_CACHE": folder}
        subprocess.run([*command, "--html", page], cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        image = beside(views(page, Path(folder) / "profile"))
    image.quantize(COLORS, Image.Quantize.FASTOCTREE).save(IMAGE, optimize=True)
    print(IMAGE.relative_to(ROOT), IMAGE.stat().st_size, "bytes")
    return int(IMAGE.stat().st_size > MOST_BYTES)


if __name__ == "__main__":
    sys.exit(main())
