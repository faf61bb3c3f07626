"""Class folders: which images there are, which class each shows, and what the classes are called."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from densenet_cli import labels
from densenet_cli.errors import UsageError
from densenet_cli.images.walking import Found, walk

if TYPE_CHECKING:
    Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Collection:
    """Images and their classes.

    Attributes:
        folder: what all of them lie below.
        classes: names of the class folders, sorted; the position is the class.
        paths: of the images, each class's sorted.
        targets: int64 (images,), the class of each.
    """

    folder: Path
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    targets: Indices

    def __len__(self) -> int:
        return len(self.paths)

    def fingerprint(self) -> str:
        """Changes with the images' names and classes, not with the place where the folder lies."""
        names = [os.fsencode(os.path.relpath(path, self.folder)).hex() for path in self.paths]
        return hashlib.sha256(json.dumps([self.classes, names]).encode()).hexdigest()


def scan(folder: Path, classes: tuple[str, ...] | None = None) -> Collection:
    """The images of ``folder/<class>/``, searched recursively.

    ``classes`` are given where they are known already (a folder for validation, which may lack some). Raises
    ``UsageError``: fewer than two classes, a class without an image, one that is not among ``classes``, a folder that
    can't be listed, a name that can't be a label.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise UsageError(f"The folder {folder} can't be listed: {error.strerror}.") from None
    if classes is None:
        if len(names) < 2:
            raise UsageError(
                f"{folder} has {'only one class folder' if names else 'no class folders'}, and training needs two or "
                "more: FOLDER/<class>/<image>."
            )
        classes = tuple(names)
    elif strangers := sorted(set(names) - set(classes)):
        raise UsageError(f"{folder} has the class {strangers[0]!r}, which the training images lack.")
    elif not names:
        raise UsageError(f"{folder} has no class folders.")
    paths: list[str] = []
    targets: list[int] = []
    for name in names:
        found = _images(folder / name)
        paths += found
        targets += [classes.index(name)] * len(found)
    return Collection(folder, classes, tuple(paths), np.array(targets, np.int64))


def _images(folder: Path) -> list[str]:
    if not labels.is_valid(folder.name) or folder.name != folder.name.encode(errors="replace").decode():
        raise UsageError(f"The class folder {str(folder)!r} has a name that can't be a label: give it another.")
    found = [entry for entry in walk(str(folder)) if isinstance(entry, Found)]
    for entry in found:
        if entry.error:
            raise UsageError(f"The class folder {entry.path} can't be used: {entry.error}")
    return [entry.path for entry in found]


def class_labels(classes: tuple[str, ...]) -> labels.Labels:
    """ImageNet's labels where every folder is named by one of its WordNet ids, else the folders' names."""
    known = {label.id: label for label in labels.imagenet()}
    if all(name in known for name in classes):
        return tuple(known[name] for name in classes)
    return tuple(labels.ClassLabel(index, None, name) for index, name in enumerate(classes))
