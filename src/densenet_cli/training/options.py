"""Run options, which do not affect the result of a run, and the progress that a run reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StepInfo:
    """The progress of a run after a step.

    Attributes:
        epoch, batch: Number of the epoch and of the batch in it, counted from 1.
        epochs, batches: Number of epochs in the run and of batches in an epoch.
        size: Side of the images in pixels.
        loss, accuracy: Means over the epoch so far.
        seconds_left: Estimated time until the end of the run.
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
class RunOptions:
    """Options that do not affect the result of a run.

    Attributes:
        threads: Number of threads that prepare images.
        cache_limit: Maximum size of the decoded images on disk in megabytes. A larger dataset is decoded again in every
            epoch.
        save_every: Seconds between two checkpoints of the state within an epoch.
        skip_unreadable: Skip images that cannot be decoded: train on others instead, and do not validate on them.
            Otherwise, they are errors.
        tensorboard: Folder for the metrics as event files of TensorBoard.
        on_message: Called with sentences about the images: what they are, what was skipped, and warnings.
        on_decoded: Called with the number of decoded images and the number of all images.
        on_features: Called with the number of images whose features are computed and the number of all images.
        on_rate: Called with the number of steps of a learning rate test so far and their maximum number.
        on_step: Called after each step.
        on_epoch: Called after each epoch with its row of the log.
    """

    threads: int = 2
    cache_limit: int = 8000
    save_every: float = 180.0
    skip_unreadable: bool = False
    tensorboard: Path | None = None
    on_message: Callable[[str], None] = lambda message: None
    on_decoded: Callable[[int, int], None] = lambda done, total: None
    on_features: Callable[[int, int], None] = lambda done, total: None
    on_rate: Callable[[int, int], None] = lambda done, total: None
    on_step: Callable[[StepInfo], None] = lambda info: None
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None
