"""Take screenshots of a ``predict --html`` page for ``docs/images/report.png``: ``python -m scripts.report_image``.

Requires Chromium and its driver. Run it by hand after a change of the page's appearance. No check compares the image,
because its pixels depend on the browser and the fonts.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from tests.support.browser import open_browser, why_unavailable

ROOT = Path(__file__).parents[1]
IMAGE = ROOT / "docs" / "images" / "report.png"
VIEWS = ((1040, 780, False), (390, 780, True))
"""Width, height, and dark color scheme of each window: a desktop and a phone."""
GAP = 24
COLORS = 255
MAX_BYTES = 200_000


def take_screenshots(page: Path, profile: Path) -> list[Image.Image]:
    """Take a screenshot of the page in each of ``VIEWS``."""
    with open_browser(profile) as browser:
        images = []
        for width, height, dark in VIEWS:
            browser.open(page, width, height, dark=dark)
            browser.run("document.documentElement.style.scrollbarWidth = 'none'")
            browser.run("return new Promise(done => setTimeout(done, 500))")
            images.append(Image.open(io.BytesIO(browser.screenshot())).convert("RGBA"))
    return images


def join(images: list[Image.Image]) -> Image.Image:
    """Put images side by side, with a transparent gap between them."""
    width = sum(image.width for image in images) + GAP * (len(images) - 1)
    joined = Image.new("RGBA", (width, max(image.height for image in images)))
    left = 0
    for image in images:
        joined.paste(image, (left, 0))
        left += image.width + GAP
    return joined


def main() -> int:
    """Write the image. Return 1 if there is no browser or the file is larger than ``MAX_BYTES``."""
    if reason := why_unavailable():
        print(reason)
        return 1
    with TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        command = [sys.executable, "-m", "densenet_cli", "predict", "sample_images", "--variant", "tiny", "-k", "4"]
        environment = os.environ | {"DENSENET_CACHE": folder}
        subprocess.run([*command, "--html", page], cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        image = join(take_screenshots(page, Path(folder) / "profile"))
    image.quantize(COLORS, Image.Quantize.FASTOCTREE).save(IMAGE, optimize=True)
    print(IMAGE.relative_to(ROOT), IMAGE.stat().st_size, "bytes")
    return int(IMAGE.stat().st_size > MAX_BYTES)


if __name__ == "__main__":
    sys.exit(main())
