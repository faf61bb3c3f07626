"""Drawings of heat maps: the original image next to one overlay per class, each with a caption."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil, log
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from densenet_cli.text import to_unicode

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

    from densenet_cli._types import Box, FloatArray, Size

    Font = FreeTypeFont | ImageFont

COLORMAP_FILE = Path(__file__).parent.parent / "data" / "inferno.txt"
OVERLAY_ALPHA = 0.6
"""Opacity of the heat map. The photo below it is gray, because its colors would mix with those of the map."""
OUTSIDE_BRIGHTNESS = 0.35
"""Brightness, relative to the photo, of the parts that the network did not see."""

MAX_PANEL_SIDE = 800
"""Longer side of a panel in pixels, if there are up to four panels."""
MIN_PANEL_SIDE = 320
"""Smaller images are enlarged to this longer side, so that captions fit."""
MIN_PANEL_WIDTH = 240
MARGIN = 12
ASPECT_RATIO = 2.0
"""Desired width to height of a drawing."""
BACKGROUND = "#ffffff"

TITLE_COLOR, DETAIL_COLOR = "#1a1a1a", "#6a6a6a"
MAX_LABEL_LINES = 2
SYSTEM_FONTS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "Arial Unicode.ttf"),
    *("NotoSansCJK-Regular.ttc", "NotoSansCJKjp-Regular.otf", "msyh.ttc", "PingFang.ttc"),
)
"""Fonts to try for characters outside Pillow's built-in font, which covers little more than English."""


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A class activation map scaled for display, and the region of the image that it covers.

    Attributes:
        values: float32 (rows, columns) in [0, 1].
        region: Left, top, right, and bottom of the covered region, in pixels of the original image.
        image_size: Width and height of the original image.
    """

    values: FloatArray
    region: Box
    image_size: Size

    def resize(self, size: Size) -> tuple[Image.Image, tuple[int, int, int, int]]:
        """Fit the map to a copy of the image.

        Args:
            size: Width and height of the copy.

        Returns:
            The map with levels 0 to 255 (Pillow mode ``L``), and the box that it covers in the copy.
        """
        x_scale, y_scale = size[0] / self.image_size[0], size[1] / self.image_size[1]
        left, top, right, bottom = self.region
        corner = min(round(left * x_scale), size[0] - 1), min(round(top * y_scale), size[1] - 1)
        box = (*corner, max(round(right * x_scale), corner[0] + 1), max(round(bottom * y_scale), corner[1] + 1))
        levels = Image.fromarray((self.values * 255).round().astype("uint8"))
        return levels.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BICUBIC), box


class Panel(NamedTuple):
    """One panel of a drawing.

    Attributes:
        title: First part of the caption.
        detail: Last line of the caption.
        heat_map: The map to lay over the image; None to show the image itself.
    """

    title: str
    detail: str
    heat_map: HeatMap | None = None


class CaptionLine(NamedTuple):
    """A line of text with its font and color."""

    text: str
    font: Font
    color: str


def draw_panels(image: Image.Image, panels: Sequence[Panel]) -> Image.Image:
    """Draw panels in a grid.

    Args:
        image: The image that every panel shows, in RGB, at any size.
        panels: At least one.

    Returns:
        An RGB image. With two panels it is at most 1,636 pixels wide.
    """
    from PIL import ImageDraw

    photo = _resize_to_panel(image, len(panels))
    width = max(photo.width, MIN_PANEL_WIDTH)
    font_size = 20 if width >= 400 else 16
    captions = [caption(panel, font_size, width) for panel in panels]
    line_height = round(font_size * 1.3)
    x_step, y_step = width + MARGIN, photo.height + MARGIN + line_height * max(map(len, captions)) + MARGIN
    columns = _column_count(len(panels), x_step, y_step)
    rows = ceil(len(panels) / columns)
    drawing = Image.new("RGB", (x_step * columns + MARGIN, y_step * rows + MARGIN), BACKGROUND)
    pen = ImageDraw.Draw(drawing)
    for index, (panel, lines) in enumerate(zip(panels, captions, strict=True)):
        left, top = MARGIN + index % columns * x_step, MARGIN + index // columns * y_step
        content = photo if panel.heat_map is None else overlay(photo, panel.heat_map)
        drawing.paste(content, (left + (width - content.width) // 2, top))
        for row, line in enumerate(lines):
            pen.text((left, top + photo.height + MARGIN // 2 + row * line_height), line.text, line.color, line.font)
    return drawing


def overlay(photo: Image.Image, heat_map: HeatMap) -> Image.Image:
    """Lay a heat map over a photo, from dark (least evidence for the class) to bright (most).

    Args:
        photo: The original image at any size.
        heat_map: A map of that image.
    """
    heat, box = heat_map.resize(photo.size)
    heat.putpalette(_colormap())
    gray = photo.convert("L")
    result = gray.point(lambda level: level * OUTSIDE_BRIGHTNESS).convert("RGB")
    result.paste(Image.blend(gray.crop(box).convert("RGB"), heat.convert("RGB"), OVERLAY_ALPHA), box)
    return result


@cache
def _colormap() -> bytes:
    """Return the 256 RGB colors of inferno; ``data/README.md`` states their origin."""
    return bytes.fromhex(COLORMAP_FILE.read_text(encoding="ascii"))


def _resize_to_panel(image: Image.Image, panels: int) -> Image.Image:
    """Resize the image to the size of a panel. The more panels, the smaller each is."""
    longer_side = max(image.size)
    max_side = MAX_PANEL_SIDE if panels <= 4 else max(MIN_PANEL_SIDE, MAX_PANEL_SIDE * 2 // ceil(panels**0.5))
    scale = min(max(longer_side, MIN_PANEL_SIDE), max_side) / longer_side
    if scale == 1:
        return image
    return image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BICUBIC
    )


def _column_count(panels: int, width: int, height: int) -> int:
    """Return the number of columns that brings the drawing closest to ``ASPECT_RATIO``."""

    def distance(columns: int) -> float:
        return abs(log(columns * width / (ceil(panels / columns) * height) / ASPECT_RATIO))

    return min(range(1, panels + 1), key=distance)


def caption(panel: Panel, font_size: int, width: int) -> list[CaptionLine]:
    """Lay out a panel's caption in lines of at most ``width`` pixels. A long title is wrapped, then shortened."""
    title = "".join(char if char.isprintable() else "?" for char in to_unicode(panel.title))
    text, title_font = _choose_font(title, font_size)
    detail_font = _default_font(font_size)
    lines = _wrap(text, title_font, width, MAX_LABEL_LINES if panel.heat_map else 1)
    return [
        *(CaptionLine(line, title_font, TITLE_COLOR) for line in lines),
        CaptionLine(_shorten(panel.detail, detail_font, width), detail_font, DETAIL_COLOR),
    ]


@cache
def _default_font(size: int) -> Font:
    from PIL import ImageFont

    return ImageFont.load_default(size)


@cache
def _system_fonts(size: int) -> list[Font]:
    from PIL import ImageFont

    fonts: list[Font] = []
    for name in SYSTEM_FONTS:
        try:
            fonts.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return fonts


def _choose_font(text: str, size: int) -> tuple[str, Font]:
    """Return the text and a font that has all its characters.

    If there is no such font, return the text in ASCII, without accents and with ``?`` for other characters.
    """
    default = _default_font(size)
    if text.isascii():
        return text, default
    for font in (default, *_system_fonts(size)):
        if all(_has_glyph(font, char) for char in set(text)):
            return text, font
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(char if char.isascii() else "?" for char in decomposed if not unicodedata.combining(char)), default


def _has_glyph(font: Font, char: str) -> bool:
    """Return whether the font draws anything other than its symbol for missing glyphs."""
    glyph, missing = font.getmask(char), font.getmask("\uffff")
    return glyph.size != missing.size or bytes(glyph) != bytes(missing)


def _wrap(text: str, font: Font, width: int, max_lines: int) -> list[str]:
    """Break the text between words into at most ``max_lines`` lines, and shorten lines that do not fit."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width and len(lines) < max_lines:
            lines.append(word)
        else:
            lines[-1] = longer
    return [_shorten(line, font, width) for line in lines]


def _shorten(line: str, font: Font, width: int) -> str:
    """Replace as much of the line's middle with an ellipsis as needed to fit the width."""
    if font.getlength(line) <= width:
        return line
    fits, too_long = 0, len(line)
    while fits + 1 < too_long:
        middle = (fits + too_long) // 2
        if font.getlength(_elide(line, middle)) <= width:
            fits = middle
        else:
            too_long = middle
    return _elide(line, fits)


def _elide(line: str, length: int) -> str:
    """Keep ``length`` characters from the beginning and the end of the line."""
    return f"{line[: length - length // 2]}...{line[len(line) - length // 2 :]}"
