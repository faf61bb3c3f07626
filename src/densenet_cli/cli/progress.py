"""Progress bars, on standard error and only where somebody looks at it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from densenet_cli.cli.console import show_progress, stderr_console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


PATIENCE = 1.0
"""Seconds of work before a counter shows itself."""


class DownloadBar:
    """A bar a file, each from its first byte; nothing is drawn (or imported) before one arrives."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()

    def update(self, name: str, done: int, total: int | None) -> None:
        """Show that ``done`` of ``total`` bytes of the file ``name`` are here."""
        if self._progress is None:
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(24),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=stderr_console(),
            )
            self._progress.start()
        if name not in self._tasks:
            # The whole name of a published file leaves no room for a bar in 80 columns.
            self._tasks[name] = self._progress.add_task(name.partition("_")[0], total=total)
        self._progress.update(self._tasks[name], completed=done, total=total)


class Counter(Protocol):
    """Counts what is done."""

    def advance(self) -> None:
        """One more is done."""


class _Silent:
    def advance(self) -> None:
        pass


@contextmanager
def counting(what: str, quietly: bool = False) -> Iterator[Counter]:
    """A line with the number done, the rate and the time since the start; nothing where nobody would see it.

    It is drawn (and Rich's part for it imported) only once the work has taken a second.
    """
    if quietly or not show_progress():
        yield _Silent()
        return
    bar = _CountingBar(what)
    try:
        yield bar
    finally:
        bar.stop()


class _CountingBar:
    def __init__(self, what: str) -> None:
        self._what = what
        self._start = time.monotonic()
        self._done = 0
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def advance(self) -> None:
        """See ``Counter``."""
        self._done += 1
        elapsed = time.monotonic() - self._start
        if self._progress is None:
            if elapsed < PATIENCE:
                return
            from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            text = TextColumn("{task.completed:,.0f} {task.description}, {task.fields[rate]:.0f}/s")
            self._progress = Progress(
                SpinnerColumn(), text, TimeElapsedColumn(), console=stderr_console(), transient=True
            )
            self._progress.start()
            self._task = self._progress.add_task(self._what, total=None, rate=0.0)
        assert self._task is not None
        self._progress.update(self._task, completed=self._done, rate=self._done / elapsed)

    def stop(self) -> None:
        """Take the line away."""
        if self._progress:
            self._progress.stop()


class ShareBar:
    """A bar for work of which one knows how much of it is done; nothing where nobody would see it."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        if show_progress():
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

            columns = (BarColumn(24), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
            self._progress = Progress(*columns, console=stderr_console(), transient=True)
            self._task = self._progress.add_task("", total=1.0)
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()

    def update(self, what: str, done: float) -> None:
        """Show ``what`` is being done, and the share, in [0, 1], that is ``done``."""
        if self._progress:
            self._progress.update(self._task, description=what, completed=done)
