"""How a training run shows itself: a bar on a terminal, else a line now and then; a line an epoch in any case."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from densenet_cli.cli.console import say, show_progress, stderr_console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from densenet_cli.training.settings import StepInfo

EVERY = 60.0
"""Seconds between two lines where there is no terminal."""


def duration(seconds: float) -> str:
    """``3:07:05``, ``7:05``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class TrainingProgress:
    """Listens to a run (``training.settings.RunOptions``) and to the decoding before it."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._doing = ""
        self._said = time.monotonic()

    def __enter__(self) -> Self:
        if show_progress():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[detail]}"),
                console=stderr_console(),
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def decoded(self, done: int, total: int) -> None:
        """``done`` of ``total`` images are decoded."""
        self._show("Decoding", done, total, "")

    def step(self, step: StepInfo) -> None:
        """A step is done."""
        self._show(
            f"Epoch {step.epoch}/{step.epochs} at {step.size}",
            step.batch,
            step.batches,
            f"loss {step.loss:.3f}, accuracy {step.accuracy:.1%}, {duration(step.seconds_left)} left",
        )

    def epoch(self, row: dict[str, float]) -> None:
        """An epoch is done."""
        say(
            f"Epoch {row['epoch']} at {row['size']}: loss {row['loss']:.3f}, accuracy {row['accuracy']:.1%}; "
            f"validation: loss {row['val_loss']:.3f}, accuracy {row['val_accuracy']:.1%}, top-5 {row['val_top5']:.1%}; "
            f"{duration(row['seconds'])} so far"
        )

    def _show(self, doing: str, done: int, total: int, detail: str) -> None:
        if self._bar:
            if self._task is None or doing != self._doing:
                if self._task is not None:
                    self._bar.remove_task(self._task)
                self._task, self._doing = self._bar.add_task(doing, total=total, detail=detail), doing
            self._bar.update(self._task, completed=done, total=total, detail=detail)
        elif time.monotonic() - self._said > EVERY:
            self._said = time.monotonic()
            say(f"{doing}: {done} of {total}{', ' * bool(detail)}{detail}")
