"""Batches, made on a thread beside the step. A batch is a function of seed, epoch and number: no random state to save."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from densenet_cli.training.augmentation import augment, fit
from densenet_cli.training.settings import Settings
from densenet_cli.training.store import Pictures

AHEAD = 8
"""Batches that wait for their step."""

MEAN = np.array((0.485, 0.456, 0.406), np.float32)
DEVIATION = np.array((0.229, 0.224, 0.225), np.float32)


def normalize(pixels: np.ndarray) -> np.ndarray:
    """uint8 pixels as the network's float32 input."""
    return (pixels.astype(np.float32) / np.float32(255) - MEAN) / DEVIATION


class Batch(NamedTuple):
    """Normalised pictures, float32 (n, size, size, 3), and their classes, int64 (n,)."""

    pixels: np.ndarray
    targets: np.ndarray


class Batches:
    """The batches of a set of training pictures."""

    def __init__(self, pictures: Pictures, targets: np.ndarray, settings: Settings) -> None:
        self._pictures = pictures
        self._targets = targets
        self._settings = settings

    def __len__(self) -> int:
        """In an epoch; pictures that don't fill a last batch wait for the next epoch's order."""
        return max(1, len(self._targets) // self._settings.batch_size)

    def make(self, epoch: int, number: int) -> Batch:
        """Batch ``number`` of ``epoch``, the same at every call."""
        settings = self._settings
        order = np.random.default_rng((settings.seed, epoch)).permutation(len(self._targets))
        chosen = order[number * settings.batch_size : (number + 1) * settings.batch_size]
        generator = np.random.default_rng((settings.seed, epoch, number + 1))
        size = settings.size_at(epoch)
        pixels = np.stack([augment(self._pictures[i], size, settings, generator) for i in chosen])
        return Batch(normalize(pixels), self._targets[chosen])

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of ``epoch`` from number ``first`` on, made on a thread."""
        made: queue.Queue[Batch | BaseException] = queue.Queue(AHEAD)
        stopped = threading.Event()

        def put(item: Batch | BaseException) -> None:
            while not stopped.is_set():
                try:
                    return made.put(item, timeout=0.1)
                except queue.Full:
                    continue

        def work() -> None:
            try:
                for number in range(first, len(self)):
                    if stopped.is_set():
                        return
                    put(self.make(epoch, number))
            except BaseException as error:
                put(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            for _ in range(first, len(self)):
                item = made.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stopped.set()
            thread.join()


def whole(pictures: Pictures, indices: range, size: int) -> np.ndarray:
    """Normalised pictures as measuring sees them: nothing random, float32 (n, size, size, 3)."""
    return normalize(np.stack([fit(pictures[i], size) for i in indices]))
