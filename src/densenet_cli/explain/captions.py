"""The words below a drawing's panels: what is in it, in a font that has its letters, in lines that fit."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import TYPE_CHECKING

from densenet_cli.results import unicode

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

    from densenet_cli.explain.cam import ClassMap, Explanation

    Font = FreeTypeFont | ImageFont
    Line = tuple[str, Font, str]

INK, FAINT = "#1a1a1a", "#6a6a6a"
MOST_LINES = 2
"""Of a label. A file's name is longer, and has one."""

OTHER_FONTS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "Arial Unicode.ttf"),
    *("NotoSansCJK-Regular.ttc", "NotoSansCJKjp-Regular.otf", "msyh.ttc", "PingFang.ttc"),
)
"""Where the system has them, for what Pillow's own font lacks: it has little beyond English."""


def original(explanation: Explanation, size: int, width: int) -> list[Line]:
    """The image's name and size, in a font of ``size`` and lines of at most ``width`` pixels."""
    name = explanation.source.replace("\\", "/").rstrip("/").rpartition("/")[2] or explanation.source
    across, down = explanation.size
    return _lines(name, f"{across:,} x {down:,} pixels", size, width, 1)


def of_map(map_: ClassMap, size: int, width: int) -> list[Line]:
    """The class's label, probability and rank."""
    score = map_.score
    return _lines(score.label, f"{score.probability:.1%}, rank {score.rank:,}", size, width, MOST_LINES)


def _lines(title: str, below: str, size: int, width: int, most: int) -> list[Line]:
    text, font = _legible("".join(char if char.isprintable() else "?" for char in unicode(title)), size)
    own = _font(size)
    return [
        *((line, font, INK) for line in _wrapped(text, font, width, most)),
        (_fitting(below, own, width), own, FAINT),
    ]


@cache
def _font(size: int) -> Font:
    from PIL import ImageFont

    return ImageFont.load_default(size)


@cache
def _other_fonts(size: int) -> list[Font]:
    from PIL import ImageFont

    found: list[Font] = []
    for name in OTHER_FONTS:
        try:
            found.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return found


def _legible(text: str, size: int) -> tuple[str, Font]:
    """A font that has all of the text's letters; where there is none, the text in plain ones, ``?`` for the others."""
    own = _font(size)
    if text.isascii():
        return text, own
    for font in (own, *_other_fonts(size)):
        if all(_has(font, char) for char in set(text)):
            return text, font
    plain = unicodedata.normalize("NFKD", text)
    return "".join(char if char.isascii() else "?" for char in plain if not unicodedata.combining(char)), own


def _has(font: Font, char: str) -> bool:
    """Whether it draws another thing than what stands for a letter that it lacks."""
    drawn, lacking = font.getmask(char), font.getmask("\uffff")
    return drawn.size != lacking.size or bytes(drawn) != bytes(lacking)


def _wrapped(text: str, font: Font, width: int, most: int) -> list[str]:
    """The text in at most so many lines, broken between words."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width and len(lines) < most:
            lines.append(word)
        else:
            lines[-1] = longer
    return [_fitting(line, font, width) for line in lines]


def _fitting(line: str, font: Font, width: int) -> str:
    """The line, or as much of its beginning and its end as fits."""
    if font.getlength(line) <= width:
        return line
    low, high = 0, len(line)
    while low + 1 < high:
        kept = (low + high) // 2
        low, high = (kept, high) if font.getlength(_without_middle(line, kept)) <= width else (low, kept)
    return _without_middle(line, low)


def _without_middle(line: str, kept: int) -> str:
    return f"{line[: kept - kept // 2]}...{line[len(line) - kept // 2 :]}"
