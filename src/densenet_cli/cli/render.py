"""An image's labels as one small table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from densenet_cli.cli.console import has_unicode, printable, stdout_console

if TYPE_CHECKING:
    from densenet_cli.results import Prediction

BAR_WIDTH = 16
EIGHTHS = " ▏▎▍▌▋▊▉"
ROOM_FOR_BAR = 68
ROOM_FOR_ID = 46
"""Columns of a terminal below which the bar, and then the id, are left out: the label is what people came for."""


class Tables:
    """Prints predictions one by one, as they come."""

    def __init__(self) -> None:
        self._console = stdout_console()
        self._unicode = has_unicode(self._console)

    def show(self, prediction: Prediction) -> None:
        """Print one image's table. A failed image has none: its reason stands on standard error."""
        if prediction.error:
            return
        from rich.box import ASCII, SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        title = Text(printable(prediction.source), style="bold", overflow="fold")
        title.append(f"  {printable(prediction.model)}", style="dim")
        self._console.print(title)
        if not prediction.scores:
            self._console.print("  no label is that probable", style="dim")
            return
        table = Table(box=SIMPLE_HEAD if self._unicode else ASCII, pad_edge=False, show_edge=False)
        table.add_column("#", justify="right")
        table.add_column("Label", overflow="fold")
        with_id, with_bar = self._console.width >= ROOM_FOR_ID, self._console.width >= ROOM_FOR_BAR
        if with_id:
            table.add_column("WordNet id", no_wrap=True)
        table.add_column("Probability", justify="right", no_wrap=True)
        if with_bar:
            table.add_column("", no_wrap=True, width=BAR_WIDTH)
        for score in prediction.scores:
            cells: list[str | Text] = [str(score.rank), printable(score.label)]
            if with_id:
                cells.append(printable(score.id or ""))
            cells.append(f"{score.probability:.2%}")
            if with_bar:
                cells.append(Text(self._bar(score.probability), style="green"))
            table.add_row(*cells)
        self._console.print(table)
        self._console.print()

    def _bar(self, probability: float) -> str:
        if not self._unicode:
            return "#" * round(probability * BAR_WIDTH)
        whole, part = divmod(round(probability * BAR_WIDTH * 8), 8)
        return ("█" * whole + EIGHTHS[part]).rstrip()
