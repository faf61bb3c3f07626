"""Batches, made on threads beside the step. Each is a function of seed, epoch and number: no random state to save."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from densenet_cli.errors import ImageError, UsageError
from densenet_cli.images.preprocessing import Preprocessing, apply, normalize
from densenet_cli.training.augmentation import augment
from densenet_cli.training.image_cache import Images
from densenet_cli.training.settings import Settings

if TYPE_CHECKING:
    FloatArray = np.ndarray[Any, np.dtype[np.float32]]
    Indices = np.ndarray[Any, np.dtype[np.int64]]

LEAST_SHARE = 5
"""Of a class that has few images, one in so many at most is kept for validation."""

AHEAD = 4
"""Batches that are being made, or wait for their step, beside one for each thread."""


@dataclass(frozen=True)
class Part:
    """Some images out of many.

    Attributes:
        images: all of them.
        indices: int64 (n,), which ones.
        targets: int64 (n,), the class of each.
    """

    images: Images
    indices: Indices
    targets: Indices

    def __len__(self) -> int:
        return len(self.indices)

    def select(self, chosen: np.ndarray[Any, np.dtype[np.bool_]]) -> Part:
        """Those of its images for which ``chosen`` is true."""
        return Part(self.images, self.indices[chosen], self.targets[chosen])


def split(part: Part, classes: tuple[str, ...], a_class: int, seed: int) -> tuple[Part, Part]:
    """``part`` in two, for training and for validation.

    Of each class ``a_class`` images, or a fifth where that is fewer, are chosen by ``seed`` for validation. Raises
    ``UsageError`` for a class of fewer than five images.
    """
    generator = np.random.default_rng(seed)
    held = np.zeros(len(part), dtype=bool)
    for index, name in enumerate(classes):
        members = np.flatnonzero(part.targets == index)
        count = min(a_class, len(members) // LEAST_SHARE)
        if count < 1:
            raise UsageError(
                f"The class {name!r} has {len(members)} images, too few to split some off for validation (at least "
                f"{LEAST_SHARE}): add some, or give --val FOLDER."
            )
        held[generator.permutation(members)[:count]] = True
    return part.select(~held), part.select(held)


class Batch(NamedTuple):
    """Normalized images, float32 (n, size, size, 3), and their classes, int64 (n,)."""

    pixels: FloatArray
    targets: Indices


class TrainingBatches:
    """The augmented batches of the epochs of a run.

    Args:
        part: the images to train on.
        settings: of the run.
        threads: that make batches.
        skip_unreadable: put another image of the same class in the place of one that can't be decoded.
    """

    def __init__(self, part: Part, settings: Settings, threads: int, skip_unreadable: bool = False) -> None:
        self._part = part
        self._settings = settings
        self._threads = threads
        self._skip_unreadable = skip_unreadable

    def __len__(self) -> int:
        """Batches in an epoch. What doesn't fill a last one is left out, another few images each time."""
        return max(1, len(self._part) // self._settings.batch_size)

    def make(self, epoch: int, number: int) -> Batch:
        """Batch ``number`` of ``epoch``, both counted from 0: the same at every call. Raises ``ImageError``."""
        settings, size = self._settings, self._settings.size_at(epoch)
        order = np.random.default_rng((settings.seed, epoch)).permutation(len(self._part))
        chosen = order[number * settings.batch_size : (number + 1) * settings.batch_size]
        pixels = np.empty((len(chosen), size, size, 3), np.uint8)
        for place, member in enumerate(chosen):
            generator = np.random.default_rng((settings.seed, epoch, member))
            pixels[place] = augment(self._image(member, generator), size, settings, generator)
        return Batch(normalize(pixels), self._part.targets[chosen])

    def _image(self, member: int, generator: np.random.Generator) -> Any:
        part = self._part
        try:
            return part.images[part.indices[member]]
        except ImageError:
            if not self._skip_unreadable:
                raise
        same = generator.permutation(np.flatnonzero(part.targets == part.targets[member]))
        for other in same[same != member]:
            try:
                return part.images[part.indices[other]]
            except ImageError:
                continue
        raise ImageError("No image of its class can be decoded.")

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of ``epoch`` from number ``first`` on."""
        waiting: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(self._threads) as pool:
            try:
                for number in range(first, len(self)):
                    waiting.append(pool.submit(self.make, epoch, number))
                    if len(waiting) >= self._threads + AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def measuring_batches(
    part: Part, preprocessing: Preprocessing, batch_size: int, threads: int, skip_unreadable: bool = False
) -> Iterator[Batch]:
    """All images of ``part`` once, in order, as ``predict`` prepares them. Raises ``ImageError``."""

    def see(index: int) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
        try:
            pixels: np.ndarray[Any, np.dtype[np.uint8]] = apply(part.images[index], preprocessing)[0]
            return pixels
        except ImageError:
            if not skip_unreadable:
                raise
            return None

    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(part), batch_size):
            place = slice(first, first + batch_size)
            seen = [
                (pixels, target)
                for pixels, target in zip(pool.map(see, part.indices[place]), part.targets[place], strict=True)
                if pixels is not None
            ]
            if seen:
                yield Batch(
                    normalize(np.stack([pixels for pixels, _ in seen])), np.array([target for _, target in seen])
                )
