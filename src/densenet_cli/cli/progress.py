"""Progress on standard error: bars on a terminal, otherwise a few lines."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from densenet_cli.cli.console import echo_error, is_quiet, stderr_console

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID

Kind = Literal["count", "download", "share", "steps"]

COUNT_DELAY = 1.0
"""Seconds before a counter is shown, so that short runs neither show it nor import Rich for it."""
LINE_INTERVAL = 60.0
"""Seconds between two lines about steps where standard error is not a terminal."""


class ProgressBar:
    """Shows the progress of one or several tasks; nothing with ``--quiet``.

    Rich is imported when the first bar is drawn. Without a terminal, a ``download`` prints one line per file and
    ``steps`` one line per minute.

    Args:
        kind: ``count`` (images so far and their rate), ``download`` (bytes of files), ``share`` (percentage), or
            ``steps`` (steps of an epoch, with details).
        hidden: Show nothing.
    """

    def __init__(self, kind: Kind, hidden: bool = False) -> None:
        self._kind = kind
        self._hidden = hidden or is_quiet()
        self._has_terminal = sys.stderr.isatty()
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._start = self._last_line = time.monotonic()
        self._announced: set[str] = set()
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Show nothing more. Only one bar can be on the terminal at a time."""
        if self._progress:
            self._progress.stop()
            self._progress = None

    def advance(self, description: str) -> None:
        """Count one more of the things that ``description`` names in plural."""
        self._count += 1
        if self._progress or time.monotonic() - self._start >= COUNT_DELAY:
            self.update(description, self._count)

    def update(self, description: str, completed: float, total: float | None = None, detail: str = "") -> None:
        """Show how much of a task is completed. Each file of a ``download`` is a task of its own."""
        if self._hidden:
            return
        if not self._has_terminal:
            self._print_line(description, completed, total, detail)
            return
        if self._progress is None:
            self._progress = self._create()
            self._progress.start()
        key = description if self._kind == "download" else ""
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task(description, total=total, detail=detail, rate=0.0)
        rate = completed / max(time.monotonic() - self._start, 1e-3)
        self._progress.update(
            self._tasks[key], description=description, completed=completed, total=total, detail=detail, rate=rate
        )

    def update_download(self, name: str, completed: int, total: int | None) -> None:
        """Show how many bytes of the file ``name`` have arrived (a ``DownloadProgress`` callback)."""
        # The whole name of a published file would leave no room for a bar on 80 columns.
        self.update(name.partition("_")[0] if self._has_terminal else name, completed, total)

    def _print_line(self, description: str, completed: float, total: float | None, detail: str) -> None:
        if self._kind == "download" and description not in self._announced:
            self._announced.add(description)
            echo_error(f"Downloading {description}{f' ({total / 1e6:.0f} MB)' if total else ''}")
        elif self._kind == "steps" and time.monotonic() - self._last_line > LINE_INTERVAL:
            self._last_line = time.monotonic()
            of_total = "" if total is None else f" of {total}"
            echo_error(f"{description}: {completed}{of_total}{', ' * bool(detail)}{detail}")

    def _create(self) -> Progress:
        from rich import progress

        text = progress.TextColumn
        columns: dict[Kind, tuple[ProgressColumn, ...]] = {
            "count": (
                progress.SpinnerColumn(),
                text("{task.completed:,.0f} {task.description}, {task.fields[rate]:.0f}/s"),
                progress.TimeElapsedColumn(),
            ),
            "download": (
                text("{task.description}"),
                progress.BarColumn(24),
                progress.DownloadColumn(),
                progress.TransferSpeedColumn(),
                progress.TimeRemainingColumn(),
            ),
            "share": (
                progress.BarColumn(24),
                progress.TaskProgressColumn(),
                progress.TimeElapsedColumn(),
                text("{task.description}"),
            ),
            "steps": (
                text("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                text("{task.fields[detail]}"),
            ),
        }
        return progress.Progress(*columns[self._kind], console=stderr_console(), transient=self._kind != "download")
