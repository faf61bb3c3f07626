"""Results on the terminal: tables of predictions and explanations, and class activation maps in characters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.color import Color
from rich.segment import Segment, Segments
from rich.style import Style
from rich.table import Column, Table
from rich.text import Text

from densenet_cli.cli.console import printable

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import Console

    from densenet_cli.explain.cam import Explanation
    from densenet_cli.explain.drawing import HeatMap
    from densenet_cli.results import Prediction

BAR_WIDTH = 16
EIGHTHS = " ▏▎▍▌▋▊▉"
MIN_WIDTH_FOR_BAR = 68
MIN_WIDTH_FOR_ID = 46
MIN_WIDTH_FOR_ID_AND_BOX = 90
"""Columns of a terminal below which the bar, and then the WordNet ID, are left out to keep room for the label."""

SHADES, ASCII_SHADES = " ░▒▓█", " .:*#"
"""Characters from the minimum to the maximum of a map."""
MAX_IMAGE_COLUMNS = 60
IMAGE_GAP = 2
MIN_IMAGE_ROWS, TEXT_ROWS = 8, 4
"""Minimum rows of an image, and the rows of the terminal that are left for text."""


def create_table(*columns: Column, title: str | None = None, show_header: bool = True) -> Table:
    """Create a table in the style of all commands. Rich draws it in ASCII where the console lacks Unicode."""
    return Table(
        *columns,
        title=title,
        box=SIMPLE_HEAD,
        show_header=show_header,
        show_edge=False,
        pad_edge=False,
        title_justify="left",
        title_style="bold",
    )


def text_column(name: str) -> Column:
    """Return a column of text that is wrapped where it does not fit."""
    return Column(name, overflow="fold")


def fixed_column(name: str) -> Column:
    """Return a column of text that is never wrapped."""
    return Column(name, no_wrap=True)


def number_column(name: str) -> Column:
    """Return a column of right-aligned numbers."""
    return Column(name, justify="right", no_wrap=True)


def heading(name: str, detail: str) -> Text:
    """Return a heading: a name in bold, followed by a dim detail."""
    text = Text(printable(name), style="bold", overflow="fold")
    return text.append(f"  {printable(detail)}", style="dim")


def print_prediction(console: Console, prediction: Prediction, min_prob: float | None) -> None:
    """Print the most probable classes of one image, or that none reaches ``min_prob``. A failed image has no table.

    ``min_prob`` is None if each class has its own threshold. The labels of the set are marked and all shown, and a gap
    follows the last one.
    """
    if prediction.error:
        return
    console.print(heading(prediction.source, prediction.model))
    if prediction.unsure:
        console.print("  Unsure: a label could exceed the error limit.", style="yellow")
    label_set = prediction.set or ()
    if prediction.set == ():
        console.print("  The set is empty: no label is probable enough.", style="yellow")
    scores = sorted({*prediction.scores, *label_set}, key=lambda score: score.rank)
    if not scores:
        message = (
            "No class reaches its threshold."
            if min_prob is None
            else (f"No class has a probability of at least {min_prob:g}.")
        )
        console.print(f"  {message}", style="dim")
        console.print()
        return
    has_id = console.width >= MIN_WIDTH_FOR_ID and any(score.id for score in scores)
    has_bar = console.width >= MIN_WIDTH_FOR_BAR
    columns = [number_column("#"), text_column("Label")]
    if has_id:
        columns.append(fixed_column("WordNet ID"))
    columns.append(number_column("Probability"))
    if label_set:
        columns.insert(1, fixed_column("Set"))
    if has_bar:
        columns.append(Column("", no_wrap=True, width=BAR_WIDTH))
    table = create_table(*columns)
    for score in scores:
        cells: list[str | Text] = [str(score.rank), printable(score.label)]
        if has_id:
            cells.append(printable(score.id or ""))
        cells.append(f"{score.probability:.2%}")
        if has_bar:
            cells.append(Text(_bar(score.probability, console.options.ascii_only), style="green"))
        if label_set:
            cells.insert(1, ("x" if console.options.ascii_only else "✓") * (score in label_set))
        table.add_row(*cells, end_section=bool(label_set) and score == label_set[-1])
    console.print(table)
    console.print()


def _bar(share: float, ascii_only: bool) -> str:
    if ascii_only:
        return "#" * round(share * BAR_WIDTH)
    whole, part = divmod(round(share * BAR_WIDTH * 8), 8)
    return ("█" * whole + EIGHTHS[part]).rstrip()


def print_explanation(console: Console, explanation: Explanation, draw_maps: bool) -> None:
    """Print the class activation maps of one image as a table, and draw them on request.

    A failed image has no table.
    """
    if explanation.error:
        return
    console.print(heading(explanation.source, explanation.model))
    if draw_maps:
        _draw_maps(console, explanation)
    columns = [number_column("#"), text_column("Label")]
    has_id = console.width >= MIN_WIDTH_FOR_ID_AND_BOX
    if has_id:
        columns.append(fixed_column("WordNet ID"))
    table = create_table(*columns, number_column("Probability"), fixed_column("Peak"), fixed_column("Box"))
    for class_map in explanation.maps:
        score = class_map.score
        left, top, right, bottom = class_map.box
        table.add_row(
            str(score.rank),
            printable(score.label),
            *([printable(score.id or "")] if has_id else []),
            f"{score.probability:.2%}",
            "{}, {}".format(*class_map.peak),
            f"{left}, {top} to {right}, {bottom}",
        )
    console.print(table)
    if explanation.drawing:
        console.print(Text(f"  {printable(str(explanation.drawing))}", style="dim", overflow="fold"))
    console.print()


def _draw_maps(console: Console, explanation: Explanation) -> None:
    """Draw each map over the image, next to the image itself, as large as the terminal allows.

    A character shows two pixels: the upper one in its foreground color, the lower one in its background color. A
    terminal without colors gets only the map, in shades.
    """
    from densenet_cli.explain.drawing import overlay

    if explanation.image is None:
        return
    ascii_only = console.options.ascii_only
    has_color = console.color_system is not None and not ascii_only
    columns = min(MAX_IMAGE_COLUMNS, (console.width - IMAGE_GAP) // 2 if has_color else console.width - 1)
    image = _fit(explanation.image, columns, max(MIN_IMAGE_ROWS, console.height - TEXT_ROWS))
    for class_map in explanation.maps:
        if has_color:
            segments = _color_segments([image, overlay(image, class_map.heat_map)])
        else:
            shades = ASCII_SHADES if ascii_only else SHADES
            segments = _shade_segments(class_map.heat_map, (image.width, image.height // 2), shades)
        console.print(Segments(segments), Text(printable(class_map.score.label), style="dim"), "", sep="\n")


def _fit(image: Image, columns: int, rows: int) -> Image:
    """Resize an image to fit into characters of one column and two rows of pixels each."""
    scale = min(columns / image.width, 2 * rows / image.height)
    return image.resize((max(1, round(image.width * scale)), max(2, round(image.height * scale / 2) * 2)))


def _color_segments(images: list[Image]) -> list[Segment]:
    segments = []
    for row in range(0, images[0].height, 2):
        for image in images:
            for column in range(image.width):
                upper, lower = (Color.from_rgb(*_pixel(image, column, row + offset)) for offset in (0, 1))
                segments.append(Segment("▀", Style(color=upper, bgcolor=lower)))
            segments.append(Segment("\n" if image is images[-1] else " " * IMAGE_GAP))
    return segments


def _pixel(image: Image, column: int, row: int) -> tuple[int, int, int]:
    red, green, blue = image.getpixel((column, row))  # type: ignore[misc]
    return red, green, blue


def _shade_segments(heat_map: HeatMap, size: tuple[int, int], shades: str) -> list[Segment]:
    """Return a map in shades at its place in the image. What the model did not see is blank, like the minimum."""
    from PIL import Image

    levels, box = heat_map.resize(size)
    canvas = Image.new("L", size)
    canvas.paste(levels, box)
    data = canvas.tobytes()
    lines = [data[start : start + size[0]] for start in range(0, len(data), size[0])]
    return [Segment("".join(shades[level * len(shades) // 256] for level in line) + "\n") for line in lines]
