"""Augmentation, and batches of images prepared by threads while the network trains.

A batch is a function of the seed, the epoch, and its number, so a run has no random state to save.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL.Image import Resampling

from densenet_cli.errors import ImageError
from densenet_cli.images.normalization import MEAN, normalize, pad_color
from densenet_cli.images.preprocessing import INTERPOLATIONS, DecodedImage, Preprocessing, preprocess
from densenet_cli.training.image_cache import Images
from densenet_cli.training.mixing import erase, mix
from densenet_cli.training.randaugment import randaugment
from densenet_cli.training.settings import Settings

if TYPE_CHECKING:
    from densenet_cli._types import BoolArray, Box, FloatArray, IntArray, UInt8Array

MIN_CLASS_SIZE = 5
"""Images that a class must have for one to be held out; at most one in as many is held out."""

PREFETCH = 4
"""Batches to prepare ahead of the training step, in addition to one per thread."""

ASPECT_RATIOS = (3 / 4, 4 / 3)
"""Range of width / height of a random resized crop (Szegedy et al., "Going Deeper with Convolutions", CVPR 2015)."""

MIXING_STREAM = 1
"""Part of the seed of mixes, whose random numbers differ from those of the images."""

PADDING_DIVISOR = 8
"""A padded crop shifts by up to 1 / 8 of the side: 4 of 32 pixels, as on C10+ in the DenseNet paper."""


@dataclass(frozen=True)
class Subset:
    """Some of the images of a dataset.

    Attributes:
        images: All images of the dataset.
        indices: int64 (n,), the indices of the images in this subset.
        targets: int64 (n,), the class of each image in this subset; or (n, classes), where 1 is a class of the image,
            0 another class, and -1 unknown.
    """

    images: Images
    indices: IntArray
    targets: IntArray

    def __len__(self) -> int:
        return len(self.indices)

    def select(self, mask: BoolArray) -> Subset:
        """Return the images for which ``mask``, bool (n,), is true."""
        return Subset(self.images, self.indices[mask], self.targets[mask])

    def readable(self) -> Subset:
        """Return the images that can be decoded, as far as this is known."""
        return self.select(~np.isin(self.indices, list(self.images.errors())))


def held_out_count(class_size: int, per_class: int) -> int:
    """Return how many images of a class are held out for validation."""
    return min(per_class, class_size // MIN_CLASS_SIZE)


def split_validation(subset: Subset, classes: int, per_class: int, seed: int) -> tuple[Subset, Subset]:
    """Split images randomly for training and validation.

    Args:
        subset: The images to split.
        classes: The number of classes.
        per_class: Images per class to hold out for validation; at most a fifth of a class is held out.
        seed: Random seed.

    Returns:
        The training subset and the validation subset, which has no images of a class with fewer than
        ``MIN_CLASS_SIZE``.
    """
    generator = np.random.default_rng(seed)
    is_validation = np.zeros(len(subset), dtype=bool)
    if subset.targets.ndim == 2:  # images with any number of classes
        count = held_out_count(len(subset), per_class * classes)
        is_validation[generator.permutation(len(subset))[:count]] = True
        return subset.select(~is_validation), subset.select(is_validation)
    for index in range(classes):
        members = np.flatnonzero(subset.targets == index)
        count = held_out_count(len(members), per_class)
        is_validation[generator.permutation(members)[:count]] = True
    return subset.select(~is_validation), subset.select(is_validation)


def class_weights(targets: IntArray, classes: int) -> FloatArray:
    """Return a weight for each class, inversely proportional to its frequency; the mean over all images is 1."""
    counts = np.bincount(targets, minlength=classes)
    return (len(targets) / (np.count_nonzero(counts) * np.maximum(counts, 1))).astype(np.float32)


class Batch(NamedTuple):
    """Images and their targets.

    Attributes:
        pixels: Normalized images, float32 (n, size, size, 3).
        targets: Their targets (see ``Subset``).
        partners: The position of the image that each image is mixed with, int64 (n,), or None.
        share: The share of an image itself in its mix.
    """

    pixels: FloatArray
    targets: IntArray
    partners: IntArray | None = None
    share: float = 1.0

    def one_hot(self, classes: int) -> FloatArray:
        """Return the targets as probabilities, float32 (n, classes). Targets of multi-label models stay as they are."""
        if self.targets.ndim == 2:
            return self.targets.astype(np.float32)
        one_hot = np.eye(classes, dtype=np.float32)[self.targets]
        return self.mix(one_hot)

    def weighted_one_hot(self, class_weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the targets of images as probabilities, and the weights of their losses, (n,).

        The weight of a class is that of its share of a mixed image, because cross-entropy is linear in the targets:
        the weighted loss is ``share * w_i * loss_i + (1 - share) * w_j * loss_j``.
        """
        weights = class_weights[self.targets]
        shares = self.mix(np.eye(len(class_weights), dtype=np.float32)[self.targets] * weights[:, np.newaxis])
        weights = self.mix(weights)
        return shares / weights[:, np.newaxis], weights

    def mix(self, values: FloatArray) -> FloatArray:
        """Mix values of the images, (n, ...), like the images."""
        if self.partners is None:
            return values
        return np.float32(self.share) * values + np.float32(1 - self.share) * values[self.partners]


class TrainingBatches:
    """The augmented batches of a run.

    Args:
        subset: The images to train on.
        settings: The settings of the run.
        threads: Number of threads that prepare batches.
        skip_unreadable: Replace an image that cannot be decoded by another one of its class. With several labels per
            image, it is one with the same labels if possible.
    """

    def __init__(self, subset: Subset, settings: Settings, threads: int, skip_unreadable: bool = False) -> None:
        self._subset = subset
        self._settings = settings
        self._threads = threads
        self._skip_unreadable = skip_unreadable

    def __len__(self) -> int:
        """The number of batches in an epoch. An incomplete last batch is dropped."""
        return max(1, len(self._subset) // self._settings.batch_size)

    def make(self, epoch: int, number: int) -> Batch:
        """Return batch ``number`` of ``epoch``, both counted from 0.

        Raises:
            ImageError: An image cannot be decoded.
        """
        settings, size = self._settings, self._settings.size_at(epoch)
        order = np.random.default_rng((settings.seed, epoch)).permutation(len(self._subset))
        members = order[number * settings.batch_size : (number + 1) * settings.batch_size]
        pixels = np.empty((len(members), size, size, 3), np.uint8)
        for row, member in enumerate(members):
            generator = np.random.default_rng((settings.seed, epoch, member))
            members[row], image = self._decode(member, generator)
            pixels[row] = augment(image, size, settings, generator)
        normalized, targets = normalize(pixels, settings.mean, settings.std), self._subset.targets[members]
        if not settings.mixup and not settings.cutmix:
            return Batch(normalized, targets)
        mixed = mix(normalized, settings, np.random.default_rng((settings.seed, epoch, number, MIXING_STREAM)))
        return Batch(mixed.pixels, targets, mixed.partners, mixed.share)

    def _decode(self, member: int, generator: np.random.Generator) -> tuple[int, DecodedImage]:
        """Return an image and its number in the subset, which is ``member`` unless the image is replaced."""
        images, indices, targets = self._subset.images, self._subset.indices, self._subset.targets
        try:
            return member, images[indices[member]]
        except ImageError:
            if not self._skip_unreadable:
                raise
        is_same = (targets == targets[member]).reshape(len(targets), -1).all(axis=1)
        candidates = generator.permutation(np.flatnonzero(is_same))
        if targets.ndim == 2:  # labels that no other image may have
            candidates = np.concatenate([candidates, generator.permutation(np.flatnonzero(~is_same))])
        for other in candidates[candidates != member]:
            try:
                return other, images[indices[other]]
            except ImageError:
                continue
        raise ImageError("No image of the class can be decoded.")

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of ``epoch``, starting at number ``first``."""
        pending: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(self._threads) as pool:
            try:
                for number in range(first, len(self)):
                    pending.append(pool.submit(self.make, epoch, number))
                    if len(pending) >= self._threads + PREFETCH:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def validation_batches(
    subset: Subset, preprocessing: Preprocessing, batch_size: int, threads: int, skip_unreadable: bool = False
) -> Iterator[Batch]:
    """Yield all images in order, preprocessed as for inference.

    Raises:
        ImageError: An image cannot be decoded, unless ``skip_unreadable`` is true.
    """

    def load(index: int) -> UInt8Array | None:
        try:
            pixels: UInt8Array = preprocess(subset.images[index], preprocessing)[0]
            return pixels
        except ImageError:
            if not skip_unreadable:
                raise
            return None

    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(subset), batch_size):
            rows = slice(first, first + batch_size)
            loaded = [
                (pixels, target)
                for pixels, target in zip(pool.map(load, subset.indices[rows]), subset.targets[rows], strict=True)
                if pixels is not None
            ]
            if loaded:
                pixels = normalize(np.stack([pixels for pixels, _ in loaded]), preprocessing.mean, preprocessing.std)
                yield Batch(pixels, np.array([target for _, target in loaded]))


def augment(decoded: DecodedImage, size: int, settings: Settings, generator: np.random.Generator) -> UInt8Array:
    """Return a training image, uint8 (size, size, 3), augmented as ``settings`` specify."""
    if settings.unresized and generator.random() < settings.unresized and min(_sides(decoded)) >= size:
        pixels = unresized_crop(decoded, size, generator)
    elif settings.augmentation == "crop":
        pixels = random_resized_crop(decoded, size, settings.crop_area, generator, settings.interpolation)
    elif settings.augmentation == "pad":
        pixels = padded_crop(decoded, size, generator, settings.interpolation, settings.mean)
    else:
        pixels = _resize(decoded, _center_square(decoded), size, settings.interpolation)
    if settings.flip and generator.random() < 0.5:
        pixels = pixels[:, ::-1]
    if settings.randaugment:
        pixels = randaugment(pixels, settings, generator)
    if settings.erase and generator.random() < settings.erase:
        pixels = erase(pixels, settings.mean, generator)
    return pixels


def random_resized_crop(
    decoded: DecodedImage,
    size: int,
    min_area: float,
    generator: np.random.Generator,
    interpolation: str = INTERPOLATIONS[0],
) -> UInt8Array:
    """Crop a part of random area, aspect ratio, and position, and resize it to ``size``.

    The area is between ``min_area`` and 1, as a fraction of the image. The result is uint8 (size, size, 3).
    """
    left, top, right, bottom = decoded.box
    width, height = right - left, bottom - top
    area = width * height * generator.uniform(min_area, 1)
    aspect = math.exp(generator.uniform(math.log(ASPECT_RATIOS[0]), math.log(ASPECT_RATIOS[1])))
    crop_width, crop_height = min(width, math.sqrt(area * aspect)), min(height, math.sqrt(area / aspect))
    left += generator.random() * (width - crop_width)
    top += generator.random() * (height - crop_height)
    box = (left, top, min(right, left + crop_width), min(bottom, top + crop_height))
    return _resize(decoded, box, size, interpolation)


def unresized_crop(decoded: DecodedImage, size: int, generator: np.random.Generator) -> UInt8Array:
    """Cut out a square of ``size`` pixels at a random position. The image must be at least as large."""
    left, top = (int(generator.integers(side - size, endpoint=True)) for side in _sides(decoded))
    return np.asarray(decoded.image.crop((left, top, left + size, top + size)))


def _sides(decoded: DecodedImage) -> tuple[int, int]:
    """Return the width and height of complete pixels. The box begins in the corner of the image."""
    return int(decoded.box[2]), int(decoded.box[3])


def padded_crop(
    decoded: DecodedImage,
    size: int,
    generator: np.random.Generator,
    interpolation: str = INTERPOLATIONS[0],
    mean: tuple[float, ...] = MEAN,
) -> UInt8Array:
    """Shift the center square by up to an eighth of its side, filling with the mean color, which normalizes to zero."""
    pixels = _resize(decoded, _center_square(decoded), size, interpolation)
    margin = max(1, size // PADDING_DIVISOR)
    padded = np.empty((size + 2 * margin, size + 2 * margin, 3), np.uint8)
    padded[:] = pad_color(mean)
    padded[margin:-margin, margin:-margin] = pixels
    top, left = generator.integers(0, 2 * margin, 2, endpoint=True)
    return padded[top : top + size, left : left + size]


def _center_square(decoded: DecodedImage) -> Box:
    left, top, right, bottom = decoded.box
    side = min(right - left, bottom - top)
    left, top = (left + right - side) / 2, (top + bottom - side) / 2
    return left, top, left + side, top + side


def _resize(decoded: DecodedImage, box: Box, size: int, interpolation: str) -> UInt8Array:
    return np.asarray(decoded.image.resize((size, size), Resampling[interpolation.upper()], box))
