"""Maps as images: colors laid on the original, the original beside them, a caption below each."""

from __future__ import annotations

from functools import cache
from math import ceil, log
from pathlib import Path
from typing import TYPE_CHECKING

from densenet_cli.explain import captions

if TYPE_CHECKING:
    from PIL.Image import Image

    from densenet_cli.explain.cam import ClassMap, Explanation

COLORS_FILE = Path(__file__).parent.parent / "data" / "inferno.txt"
STRENGTH = 0.6
"""Share of the color in the drawing; the rest is the photograph in gray, whose own colors would falsify the map's."""
UNSEEN = 0.35
"""Brightness that is left of what the network did not see."""

MOST_SIDE, LEAST_SIDE = 800, 320
"""Pixels of a panel's longer side: a small image is enlarged, so that there is room for words."""
LEAST_WIDTH = 240
MARGIN = 12
SHAPE = 2.0
"""Width to height that a sheet of several panels comes as close to as it can."""
PAPER = "#ffffff"


def sheet(explanation: Explanation) -> Image:
    """All of an explanation on one sheet in RGB: the original, a panel for each map, words below each.

    With one map it is no more than 1,636 pixels wide. Raises ``ValueError`` where there is an error instead of maps.
    """
    from PIL import Image, ImageDraw

    if explanation.image is None:
        raise ValueError(f"{explanation.source} has no maps: {explanation.error}")
    photo = _sized(explanation.image, len(explanation.maps) + 1)
    width = max(photo.width, LEAST_WIDTH)
    size = 20 if width >= 400 else 16
    panels = [(photo, captions.original(explanation, size, width))]
    panels += [(overlay(photo, explanation, map_), captions.of_map(map_, size, width)) for map_ in explanation.maps]
    line = round(size * 1.3)
    step = width + MARGIN, photo.height + MARGIN + line * max(len(lines) for _, lines in panels) + MARGIN
    columns = _columns(len(panels), *step)
    rows = ceil(len(panels) / columns)
    paper = Image.new("RGB", (step[0] * columns + MARGIN, step[1] * rows + MARGIN), PAPER)
    draw = ImageDraw.Draw(paper)
    for number, (panel, lines) in enumerate(panels):
        left, top = MARGIN + number % columns * step[0], MARGIN + number // columns * step[1]
        paper.paste(panel, (left + (width - panel.width) // 2, top))
        for row, (text, font, ink) in enumerate(lines):
            draw.text((left, top + photo.height + MARGIN // 2 + row * line), text, ink, font)
    return paper


def overlay(photo: Image, explanation: Explanation, map_: ClassMap) -> Image:
    """One map laid on the original: dark where there is least of the class, bright where there is most.

    Args:
        photo: the original at any size.
        explanation: where the map lies on it.
        map_: one of its maps.
    """
    from PIL import Image

    heat, box = placed(explanation, map_, photo.size)
    heat.putpalette(_palette())
    gray = photo.convert("L")
    result = gray.point(lambda level: level * UNSEEN).convert("RGB")
    result.paste(Image.blend(gray.crop(box).convert("RGB"), heat.convert("RGB"), STRENGTH), box)
    return result


def placed(explanation: Explanation, map_: ClassMap, size: tuple[int, int]) -> tuple[Image, tuple[int, int, int, int]]:
    """A map's levels from 0 to 255 in mode L, and where they lie on the original drawn at ``size``."""
    from PIL import Image

    across, down = size[0] / explanation.size[0], size[1] / explanation.size[1]
    left, top, right, bottom = explanation.seen
    start = min(round(left * across), size[0] - 1), min(round(top * down), size[1] - 1)
    box = (*start, max(round(right * across), start[0] + 1), max(round(bottom * down), start[1] + 1))
    levels = Image.fromarray((map_.levels * 255).round().astype("uint8"))
    return levels.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BICUBIC), box


@cache
def _palette() -> bytes:
    """256 colors, three bytes each: ``data/README.md`` tells whose they are."""
    return bytes.fromhex(COLORS_FILE.read_text(encoding="ascii"))


def _sized(image: Image, panels: int) -> Image:
    """The original at the size of a panel; of many panels each is smaller."""
    from PIL.Image import Resampling

    longer = max(image.size)
    most = MOST_SIDE if panels <= 4 else max(LEAST_SIDE, MOST_SIDE * 2 // ceil(panels**0.5))
    scale = min(max(longer, LEAST_SIDE), most) / longer
    if scale == 1:
        return image
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), Resampling.BICUBIC)


def _columns(panels: int, width: int, height: int) -> int:
    """In how many columns the sheet comes closest to ``SHAPE``."""
    return min(
        range(1, panels + 1), key=lambda columns: abs(log(columns * width / (ceil(panels / columns) * height) / SHAPE))
    )
