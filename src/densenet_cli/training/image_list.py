"""The images of a training run: listed, described, and compared."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from densenet_cli import labels
from densenet_cli.datasets import ClassFolders, Dataset
from densenet_cli.errors import UsageError
from densenet_cli.images.sources import Source
from densenet_cli.paths import PathNormalizer
from densenet_cli.text import join_names, plural, quote, to_unicode

if TYPE_CHECKING:
    from densenet_cli._types import IntArray

MAX_LISTED = 5
"""Unreadable images that one message lists."""

MIN_IMBALANCE = 10
"""Ratio of class sizes from which there is a warning."""

MAX_CLASSES = 12
"""Up to this number of classes, a description lists how many images each class has."""


@dataclass(frozen=True)
class ImageList:
    """The images of a dataset, completely listed.

    Attributes:
        folder: The folder that paths start from.
        classes: The class names. The position of a name is its target.
        paths: Paths of the images; for class folders, sorted within each class.
        targets: The target of each image.
        warnings: Messages about ignored files and similar class names.
    """

    folder: str
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    targets: tuple[int, ...]
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def target_array(self) -> IntArray:
        """Return the targets, int64 (images,)."""
        return np.array(self.targets, np.int64)

    def names(self) -> list[str]:
        """Return the paths relative to ``folder``."""
        return [os.path.relpath(path, self.folder or ".") for path in self.paths]

    def fingerprint(self) -> str:
        """Return a hash of the classes, the paths relative to ``folder``, and, unless paths imply them, the targets."""
        names = self.names()
        content: list[object] = [self.classes, [os.fsencode(name).hex() for name in names]]
        folders = (name.partition(os.sep)[0] for name in names)
        if any(folder != self.classes[target] for folder, target in zip(folders, self.targets, strict=True)):
            content.append(self.targets)
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def count_common(self, other: ImageList) -> int:
        """Return the number of images that are also in another list, however their paths are spelled."""
        normalize = PathNormalizer()
        return len(set(map(normalize, self.paths)).intersection(map(normalize, other.paths)))

    def class_sizes(self) -> list[int]:
        """Return the number of images of each class."""
        counts = Counter(self.targets)
        return [counts[target] for target in range(len(self.classes))]

    def imbalance_warning(self) -> str | None:
        """Return a warning if the largest class is much larger than the smallest one."""
        sizes = dict(zip(self.classes, self.class_sizes(), strict=True))
        largest, smallest = max(sizes, key=sizes.__getitem__), min(sizes, key=sizes.__getitem__)
        high, low = sizes[largest], sizes[smallest]
        if not low:
            return f"Warning: No training image has the class {quote(smallest)}."
        if high < MIN_IMBALANCE * low:
            return None
        return (
            f"Warning: The class {quote(largest)} has {high / low:.0f} times as many images as {quote(smallest)}. "
            "Consider `class_weights`."
        )

    def describe(self) -> str:
        """Return the number of images and how they are distributed over the classes."""
        counts = Counter(self.targets)
        total = f"{plural(len(self), 'image')} in {plural(len(counts), 'class', 'classes')}"
        if len(counts) <= MAX_CLASSES:
            return f"{total} ({', '.join(f'{self.classes[target]} {counts[target]:,}' for target in sorted(counts))})"
        low, high = min(counts.values()), max(counts.values())
        return f"{total}, {low:,} {f'to {high:,} ' if high > low else ''}per class"


def list_images(dataset: Dataset | str, classes: tuple[str, ...] | None = None) -> ImageList:
    """List the images of a dataset for training or validation.

    Args:
        dataset: The dataset, or the path of a folder of class folders.
        classes: The classes of the training images, if the images are for validation. Some may be missing. Names are
            compared as in an evaluation.

    Raises:
        UsageError: There are fewer than two classes, a class is not in ``classes``, a folder cannot be listed, an image
            is a URL, or a class name is not a valid label.
    """
    if isinstance(dataset, str):
        dataset = ClassFolders(dataset)
    if classes is None:
        classes = dataset.classes
        if len(classes) < 2:
            raise UsageError(
                f"There is only one class: {quote(classes[0])} of the {dataset.description}. Training needs at least "
                "two."
            )
        warnings = check_names(classes, dataset.description)
        positions = {name: position for position, name in enumerate(classes)}
    else:
        warnings = []
        resolver = labels.ClassResolver(labels.from_class_names(classes), "the training images")
        positions = resolver.resolve_all(dataset.classes, dataset.description)
    paths: list[str] = []
    targets: list[int] = []
    for class_name, source in dataset.images():
        if source.error:
            raise UsageError(f"Cannot use the class folder {to_unicode(source.name)}: {source.error}")
        paths.append(check_local(source))
        targets.append(positions[class_name])
    warnings += dataset.warnings()
    return ImageList(dataset.folder, classes, tuple(paths), tuple(targets), tuple(warnings))


def check_local(source: Source) -> str:
    """Return the path of an image. Raises ``UsageError`` if it is a URL, in an archive, or a page."""
    if source.kind in ("url", "remote"):
        raise UsageError(f"Training needs files, but {source.name} is a URL. Download the images first.")
    if source.kind == "member":
        raise UsageError(f"Training needs files, but {to_unicode(source.name)} is in an archive. Extract it first.")
    if source.error:
        raise UsageError(f"{to_unicode(source.name)}: {source.error}")
    if source.page:
        raise UsageError(f"Training uses the first page of a file, not {to_unicode(source.name)}.")
    path: str = source.origin
    return path


def check_names(classes: tuple[str, ...], description: str) -> list[str]:
    """Return warnings about similar class names. Raise ``UsageError`` for a name that cannot be a label."""
    similar = []
    nfc_names: dict[str, str] = {}
    names: dict[str, str] = {}
    for name in classes:
        if not labels.is_valid(name):
            raise UsageError(
                f"One of the {description} is not a valid label: {quote(name)}. Rename it. A label is UTF-8 text "
                "without control characters."
            )
        if nfc_names.setdefault(unicodedata.normalize("NFC", name), name) != name:
            raise UsageError(f"Two of the {description} are {quote(name)} in different Unicode forms. Merge them.")
        if (other := names.setdefault(labels.normalize(name), name)) != name:
            similar.append(f"{quote(other)}/{quote(name)}")
    if not similar:
        return []
    listed = join_names(similar)
    return [
        f"Warning: Some classes differ only in case, underscores, or spaces: {listed}. Merge them if they are the same."
    ]


def unreadable_images_message(errors: Sequence[str], total: int) -> str:
    """Return an error message about images that cannot be decoded.

    Args:
        errors: The error message of each, which names it.
        total: Number of all images.
    """
    listed = " ".join(errors[:MAX_LISTED])
    more = f" And {len(errors) - MAX_LISTED} more." if len(errors) > MAX_LISTED else ""
    return (
        f"{len(errors):,} of {total:,} images cannot be decoded: {listed}{more} Repair or remove them, or use "
        "`skip_unreadable`."
    )
