"""The learning rate as a function of how far a run is: nothing to save, nothing to lose."""

from __future__ import annotations

import math

from densenet_cli.training.settings import Settings


def learning_rate(settings: Settings, progress: float) -> float:
    """The rate after ``progress`` epochs (a fraction counts), in [0, ``settings.learning_rate``].

    Linear warm-up, then ``cosine`` (Loshchilov and Hutter, "SGDR", 2017, without restarts) or the DenseNet paper's
    ``step``: divided by 10 at 50 % and at 75 % of the run.
    """
    if progress < settings.warmup:
        return settings.learning_rate * progress / settings.warmup
    share = min(1.0, progress / settings.epochs)
    if settings.schedule == "step":
        return settings.learning_rate * (0.01 if share >= 0.75 else 0.1 if share >= 0.5 else 1.0)
    rest = (progress - settings.warmup) / max(1e-9, settings.epochs - settings.warmup)
    return settings.learning_rate * (1 + math.cos(math.pi * min(1.0, rest))) / 2
