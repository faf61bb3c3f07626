"""An image's maps on the screen: a small table, and above it, where asked for, the maps themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from densenet_cli.cli.console import has_unicode, printable, stdout_console
from densenet_cli.text import to_unicode

if TYPE_CHECKING:
    from densenet_cli.explain.cam import Explanation

ROOM_FOR_ID = 90
"""Columns of a terminal below which the WordNet id is left out."""


class Explanations:
    """Prints explanations one by one, as they come.

    Args:
        with_maps: draw them in the terminal.
    """

    def __init__(self, with_maps: bool) -> None:
        self._with_maps = with_maps
        self._console = stdout_console()
        self._unicode = has_unicode(self._console)

    def show(self, explanation: Explanation) -> None:
        """Print one image's. A failed image has none: its reason stands on standard error."""
        if explanation.error:
            return
        from rich.box import ASCII, SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        title = Text(printable(explanation.source), style="bold", overflow="fold")
        title.append(f"  {printable(explanation.model)}", style="dim")
        self._console.print(title)
        if self._with_maps:
            from densenet_cli.cli import half_blocks

            half_blocks.show(self._console, explanation)
        table = Table(box=SIMPLE_HEAD if self._unicode else ASCII, pad_edge=False, show_edge=False)
        table.add_column("#", justify="right")
        table.add_column("Label", overflow="fold")
        with_id = self._console.width >= ROOM_FOR_ID
        if with_id:
            table.add_column("WordNet id", no_wrap=True)
        for name in ("Probability", "Peak", "Box"):
            table.add_column(name, justify="right" if name == "Probability" else "left", no_wrap=True)
        for map_ in explanation.maps:
            score = map_.score
            left, top, right, bottom = map_.box
            table.add_row(
                str(score.rank),
                printable(score.label),
                *([printable(score.id or "")] if with_id else []),
                f"{score.probability:.2%}",
                "{}, {}".format(*map_.peak),
                f"{left}, {top} to {right}, {bottom}",
            )
        self._console.print(table)
        if explanation.drawing:
            self._console.print(
                Text(f"  {printable(to_unicode(str(explanation.drawing)))}", style="dim", overflow="fold")
            )
        self._console.print()
