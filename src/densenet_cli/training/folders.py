"""Class folders: which pictures there are, which class each shows, and which are kept for validation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from densenet_cli.errors import UsageError

SUFFIXES = frozenset("jpg jpeg jpe jfif png gif webp bmp tif tiff avif heic heif jp2 j2k ppm pgm pbm pnm tga ico".split())


@dataclass(frozen=True)
class Collection:
    """Pictures and their classes.

    Attributes:
        classes: folder names, sorted; the position is the class.
        paths: one a picture.
        targets: int64 (pictures,), the class of each.
    """

    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, indices: np.ndarray) -> Collection:
        """Some of the pictures, all of the classes."""
        return Collection(self.classes, tuple(self.paths[i] for i in indices), self.targets[indices])


def _pictures(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if path.suffix[1:].lower() in SUFFIXES)
    return sorted(path for path in found if not path.name.startswith("."))


def scan(folder: Path, classes: tuple[str, ...] | None = None) -> Collection:
    """The pictures of ``folder/<class>/``, each class's sorted.

    ``classes`` is given where they are known already (a validation folder). Raises ``UsageError`` for fewer than two
    classes, a class without a picture, or one that is not among ``classes``.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}.")
    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if classes is None:
        if len(names) < 2:
            raise UsageError(
                f"{folder} has {'one class folder' if names else 'no class folder'}; "
                "training needs two or more, each with its pictures."
            )
        classes = names
    elif strangers := sorted(set(names) - set(classes)):
        raise UsageError(f"{folder} has a class {strangers[0]!r} that the training pictures lack.")
    paths: list[Path] = []
    targets: list[int] = []
    for name in names:
        pictures = _pictures(folder / name)
        if not pictures:
            raise UsageError(f"The class folder {folder / name} has no picture in it.")
        paths += pictures
        targets += [classes.index(name)] * len(pictures)
    return Collection(classes, tuple(paths), np.array(targets, dtype=np.int64))


def split(collection: Collection, a_class: int, seed: int) -> tuple[Collection, Collection]:
    """Training and validation pictures: of each class ``a_class`` chosen by ``seed`` are kept for validation.

    A class of few pictures gives at most a fifth of them; raises ``UsageError`` where that is not one.
    """
    generator = np.random.default_rng(seed)
    held = np.zeros(len(collection), dtype=bool)
    for index, name in enumerate(collection.classes):
        members = np.flatnonzero(collection.targets == index)
        count = min(a_class, len(members) // 5)
        if count < 1:
            raise UsageError(f"The class {name!r} has {len(members)} pictures, too few to split; give --val DIR.")
        held[generator.permutation(members)[:count]] = True
    return collection.select(np.flatnonzero(~held)), collection.select(np.flatnonzero(held))
