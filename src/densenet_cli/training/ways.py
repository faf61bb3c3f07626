"""How a run is carried out, and what it tells those who listen; none of it changes what it computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """What a listener hears after each step.

    Attributes:
        epoch, batch: both counted from 1.
        epochs, batches: of the run, and in an epoch.
        size: side in pixels of the images.
        loss, accuracy: means over the epoch so far.
        seconds_left: estimate for the rest of the run.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    size: int
    loss: float
    accuracy: float
    seconds_left: float


@dataclass(frozen=True)
class Ways:
    """How to carry a run out.

    Attributes:
        threads: that prepare images.
        save_every: seconds between two savings of the state within an epoch.
        skip_unreadable: go on without images that can't be decoded.
        on_step, on_epoch: listeners; the second gets the epoch's row of the log.
    """

    threads: int = 2
    save_every: float = 180.0
    skip_unreadable: bool = False
    on_step: Callable[[Step], None] = lambda step: None
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None
