"""The images of a training run: listed, described, and split into training and validation."""

# ruff: noqa: PTH118 -- paths are strings, as in ``datasets``

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from densenet_cli import labels
from densenet_cli.datasets import ClassFolders, Dataset
from densenet_cli.errors import UsageError
from densenet_cli.images.walking import is_folder, is_ignored
from densenet_cli.text import plural, to_unicode

SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
"""Usual names of the folders of a dataset that is already split, in lower case."""

MAX_LISTED = 5
"""Names that one message lists."""

MAX_CLASSES = 12
"""Up to this number of classes, a description lists how many images each class has."""


@dataclass(frozen=True)
class ImageList:
    """The images of a dataset, completely listed.

    Attributes:
        folder: The folder that paths start from.
        classes: The class names. The position of a name is its target.
        paths: Paths of the images, in class folders sorted within each class.
        targets: The target of each image.
        warnings: What was skipped, as sentences.
    """

    folder: str
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    targets: tuple[int, ...]
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def names(self) -> list[str]:
        """Return the paths relative to ``folder``."""
        return [os.path.relpath(path, self.folder or ".") for path in self.paths]

    def fingerprint(self) -> str:
        """Return a hash of the classes, the paths relative to ``folder``, and the targets if paths do not tell them."""
        names = self.names()
        content: list[object] = [self.classes, [os.fsencode(name).hex() for name in names]]
        folders = (name.partition(os.sep)[0] for name in names)
        if any(folder != self.classes[target] for folder, target in zip(folders, self.targets, strict=True)):
            content.append(self.targets)
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

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
                f"There is only one class: {classes[0]!r} of the {dataset.description}. Training needs at least two."
            )
        _check_names(classes, dataset.description)
        positions = {name: position for position, name in enumerate(classes)}
    else:
        resolver = labels.ClassResolver(labels.from_class_names(classes), "the training images")
        positions = resolver.resolve_all(dataset.classes, dataset.description)
    targets: dict[str, int] = {}
    count = 0
    for class_name, source in dataset.images():
        if source.error:
            raise UsageError(f"Cannot use the class folder {to_unicode(source.name)}: {source.error}")
        if source.kind == "url":
            raise UsageError(f"Training needs files, but {source.name} is a URL. Download the images first.")
        targets[source.origin] = positions[class_name]
        count += 1
    warnings = dataset.warnings()
    if any(dataset.skipped):
        warnings.append(str(dataset.skipped))
    if count > len(targets):
        warnings.append(f"Ignored {plural(count - len(targets), 'image')} that the table lists more than once.")
    return ImageList(dataset.folder, classes, tuple(targets), tuple(targets.values()), tuple(warnings))


def _check_names(classes: tuple[str, ...], description: str) -> None:
    names: dict[str, str] = {}
    for name in classes:
        if not labels.is_valid(name) or to_unicode(name) != name:
            raise UsageError(f"One of the {description} is not a valid label: {name!r}. Rename it.")
        other = names.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            raise UsageError(f"Two of the {description} are {name!r}, in different Unicode forms. Merge them.")


def find_splits(folder: str, suffixes: Collection[str] = ()) -> dict[str, str]:
    """Return the folders of a dataset that is already split: "train", "val", "test" -> path.

    A folder is split if all its class folders have the names in ``SPLITS`` and contain folders. Otherwise, the result
    is empty.

    Raises:
        UsageError: A folder has split folders and other class folders, or two folders for one split.
    """
    splits_by_name = {name: split for split, names in SPLITS.items() for name in names}
    try:
        names = {name for name in _list_folders(folder) if name.lower() in splits_by_name}
    except OSError:
        return {}  # reported when the folder is read
    if not any(_has_folders(os.path.join(folder, name)) for name in names):
        return {}
    classes = ClassFolders(folder, suffixes).classes
    if others := [name for name in classes if name not in names]:
        if "train" not in {splits_by_name[name.lower()] for name in names} or len(names) < 2:
            return {}
        raise UsageError(
            f"{to_unicode(folder)} contains {join_names(sorted(names))} and also {join_names(others)}. Name the folder "
            "whose folders are the classes."
        )
    splits: dict[str, str] = {}
    for name in classes:
        if splits.setdefault(splits_by_name[name.lower()], path := os.path.join(folder, name)) != path:
            raise UsageError(f"{to_unicode(folder)} contains {join_names(list(classes))}. Name the one to use.")
    return {split: splits[split] for split in SPLITS if split in splits}


def _has_folders(folder: str) -> bool:
    try:
        return any(not is_ignored(name) for name in _list_folders(folder))
    except OSError:
        return False


def _list_folders(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if is_folder(entry)]


def join_names(names: Sequence[str]) -> str:
    """Return up to ``MAX_LISTED`` names as text: ``a, b and c``."""
    listed = [to_unicode(name) for name in names[:MAX_LISTED]] + ["..."] * (len(names) > MAX_LISTED)
    return ", ".join(listed[:-1]) + f" and {listed[-1]}" if len(listed) > 1 else "".join(listed)
