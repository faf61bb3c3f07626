"""Images in the terminal: two pixels a character, the upper one in the letter's color, the lower one behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.color import Color
from rich.segment import Segment, Segments
from rich.style import Style
from rich.text import Text

from densenet_cli.cli.console import has_unicode, printable

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import Console

    from densenet_cli.explain.cam import Explanation
    from densenet_cli.explain.drawing import HeatMap

SHADES = {True: " ░▒▓█", False: " .:*#"}
"""From least to most: where there is Unicode, and where there isn't."""
MOST_COLUMNS = 60
"""Of one image, however wide the terminal is."""
GAP = 2
LEAST_ROWS, ROWS_BESIDE = 8, 4
"""Of one image, and what the terminal's height keeps for words."""


def show(console: Console, explanation: Explanation) -> None:
    """Print each map laid on the original, the original beside it, as wide and high as the terminal allows.

    A terminal without colors gets the map alone, in shades.
    """
    from densenet_cli.explain.drawing import overlay

    if explanation.image is None:
        return
    unicode = has_unicode(console)
    colored = console.color_system is not None and unicode
    columns = min(MOST_COLUMNS, (console.width - GAP) // 2 if colored else console.width - 1)
    photo = _fitted(explanation.image, columns, max(LEAST_ROWS, console.height - ROWS_BESIDE))
    for map_ in explanation.maps:
        if colored:
            segments = _in_colors([photo, overlay(photo, map_.heat_map)])
        else:
            segments = _in_shades(map_.heat_map, (photo.width, photo.height // 2), SHADES[unicode])
        console.print(Segments(segments), Text(printable(map_.score.label), style="dim"), "", sep="\n")


def _fitted(image: Image, columns: int, rows: int) -> Image:
    """The image at a pixel a column and two a row, its shape kept."""
    scale = min(columns / image.width, 2 * rows / image.height)
    return image.resize((max(1, round(image.width * scale)), max(2, round(image.height * scale / 2) * 2)))


def _in_colors(images: list[Image]) -> list[Segment]:
    segments = []
    for row in range(0, images[0].height, 2):
        for image in images:
            for column in range(image.width):
                upper, lower = (Color.from_rgb(*_pixel(image, column, row + below)) for below in (0, 1))
                segments.append(Segment("▀", Style(color=upper, bgcolor=lower)))
            segments.append(Segment("\n" if image is images[-1] else " " * GAP))
    return segments


def _pixel(image: Image, column: int, row: int) -> tuple[int, int, int]:
    red, green, blue = image.getpixel((column, row))  # type: ignore[misc]
    return red, green, blue


def _in_shades(heat_map: HeatMap, size: tuple[int, int], shades: str) -> list[Segment]:
    """The map where it lies in the image: a space is the least of it, or what the network did not see."""
    from PIL import Image

    levels, box = heat_map.resize(size)
    whole = Image.new("L", size)
    whole.paste(levels, box)
    data = whole.tobytes()
    lines = [data[start : start + size[0]] for start in range(0, len(data), size[0])]
    return [Segment("".join(shades[level * len(shades) // 256] for level in line) + "\n") for line in lines]
