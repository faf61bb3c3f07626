"""A learning rate range test: the loss of a few steps while the learning rate rises (Smith, WACV 2017)."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from densenet_cli.output.atomic import write_file

if TYPE_CHECKING:
    from densenet_cli.training.loop import TrainingRun

STEPS = 100
MIN_RATE, MAX_RATE = 1e-5, 10.0
"""The learning rate rises exponentially from the minimum to the maximum in ``STEPS`` steps."""

SMOOTHING = 0.1
"""Weight of the latest loss in the moving average."""

DIVERGENCE = 3.0
"""The test ends when the average is so many times its minimum (after ``MIN_STEPS``)."""

MIN_STEPS = 10
SAFETY = 4.0
"""The suggestion is that many times below the rate of the lowest loss, where the loss is still falling."""


@dataclass(frozen=True)
class RateTest:
    """The result of a test.

    Attributes:
        rates: Learning rate of each step.
        losses: Loss of each step. The last one can be NaN or infinite.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def smoothed(self) -> list[float]:
        """The moving average of the losses."""
        return smooth(self.losses)

    @property
    def suggestion(self) -> float | None:
        """A learning rate to train with, rounded to one digit, or None if no rate lowers the loss."""
        averages = self.smoothed
        best = min(range(len(averages)), key=lambda step: math.inf if math.isnan(averages[step]) else averages[step])
        if best < MIN_STEPS or averages[best] > 0.98 * averages[0]:
            return None
        return float(f"{self.rates[best] / SAFETY:.0e}")


def smooth(losses: Sequence[float]) -> list[float]:
    """Return the exponential moving average, without bias towards the first value."""
    average, averages = 0.0, []
    for step, loss in enumerate(losses, 1):
        average += SMOOTHING * (loss - average)
        averages.append(average / (1 - (1 - SMOOTHING) ** step))
    return averages


def run_rate_test(run: TrainingRun) -> RateTest:
    """Train the network of ``run`` for at most ``STEPS`` steps at rising learning rates. Its state does not change."""
    rates: list[float] = []
    losses: list[float] = []
    batches = (batch for epoch in count() for batch in run.batches.epoch(epoch))
    for step, batch in enumerate(islice(batches, STEPS)):
        rates.append(MIN_RATE * (MAX_RATE / MIN_RATE) ** (step / (STEPS - 1)))
        losses.append(run.step(batch, rates[-1]).loss)
        run.options.on_rate(step + 1, STEPS)
        averages = smooth(losses)
        if not math.isfinite(losses[-1]) or (step >= MIN_STEPS and averages[-1] > DIVERGENCE * min(averages)):
            break
    return RateTest(tuple(rates), tuple(losses))


def draw(path: Path, test: RateTest) -> None:
    """Plot the loss over the learning rate as a PNG file. Raises ``OutputError``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(test.rates, test.losses, color="0.75", label="loss of a step")
    axes.plot(test.rates, test.smoothed, label="moving average")
    if (suggestion := test.suggestion) is not None:
        axes.axvline(suggestion, color="tab:green", linestyle="--", label=f"suggestion: {suggestion:g}")
    averages = np.array(test.smoothed)
    finite = averages[np.isfinite(averages)]
    if len(finite):
        axes.set_ylim(0, 1.5 * max(finite[0], finite.min()))
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png")
    write_file(path, buffer.getvalue())
