"""Class folders: one folder per class, and datasets that are already split into training and validation."""

# ruff: noqa: PTH118 -- a Path would normalize what was given

from __future__ import annotations

import os
from collections.abc import Collection, Iterator

from densenet_cli.datasets.base import Dataset
from densenet_cli.errors import EmptySourceError, ImageError, UsageError
from densenet_cli.images.sources import Source, from_entry
from densenet_cli.images.walking import (
    Entry,
    Folders,
    SkippedFiles,
    describe_os_error,
    has_image_suffix,
    image_suffixes,
    is_folder,
    is_ignored,
    walk,
)
from densenet_cli.paths import is_remote
from densenet_cli.text import join_names, plural, to_unicode

CHECKS = 32
"""Folders in object storage that are looked into at the same time."""

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Recognized folder names of a dataset that is already split, in lower case."""


class ClassFolders(Dataset):
    """One folder per class, named after the class, with images at any depth: ``folder/<class>/.../<image>``.

    A folder without images is not a class, and neither are hidden folders and system folders.

    Args:
        folder: The folder that contains the class folders, also the URL of one in object storage.
        suffixes: File name extensions of images, in addition to the known ones.

    Raises:
        UsageError: The folder cannot be listed or contains no class folder.
    """

    def __init__(self, folder: str, suffixes: Collection[str] = ()) -> None:
        self.folder = folder
        self._suffixes = image_suffixes(suffixes)
        self._unsorted = 0
        self._system_folders = 0
        self._skipped = SkippedFiles(0)
        name = to_unicode(shown_name(folder))
        self.description = f"class folders in {name}"
        try:
            names = self._list_folders()
        except NotADirectoryError:
            raise UsageError(f"{name} is not a folder. Use `csv` to read a table of paths and labels.") from None
        except FileNotFoundError:
            raise UsageError(f"There is no file or folder {name}.") from None
        except OSError as error:
            raise UsageError(f"Cannot list the folder {name}: {describe_os_error(error)}") from None
        except ImageError as error:
            raise UsageError(f"Cannot list the folder {name}: {error}") from None
        are_classes = dict(zip(names, self._have_images(names), strict=True))
        self.classes = tuple(name for name in names if are_classes[name])
        self._empty = [name for name in names if not are_classes[name]]
        if not self.classes:
            images = f", only {plural(self._unsorted, 'image')}" if self._unsorted else ""
            raise UsageError(
                f"There are no class folders with images in {name}{images}. Create one folder per class, named after "
                "the class, and put its images there."
            )

    def _list_folders(self) -> list[str]:
        folders = []
        for name, is_subfolder in _list_names(self.folder):
            if is_ignored(name):
                self._system_folders += is_subfolder and not name.startswith(".")
            elif is_subfolder:
                folders.append(name)
            elif has_image_suffix(name, self._suffixes):
                self._unsorted += 1
        return sorted(folders)

    def _have_images(self, names: list[str]) -> list[bool]:
        """Return which folders contain images."""
        if not is_remote(self.folder):
            return list(map(self._has_images, names))
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(CHECKS) as pool:  # each takes a request
            return list(pool.map(self._has_images, names))

    def _has_images(self, name: str) -> bool:
        first = next(self._walk(name))
        return isinstance(first, SkippedFiles) or not isinstance(first.error, EmptySourceError)

    def _walk(self, name: str) -> Iterator[Entry | SkippedFiles]:
        folders: Folders | None = None
        if is_remote(self.folder):
            from densenet_cli.images.remote import REMOTE

            folders = REMOTE
        return walk(os.path.join(self.folder, name), self._suffixes, folders)

    def images(self) -> Iterator[tuple[str, Source]]:
        """See ``Dataset``. A folder that cannot be listed is a source with an error."""
        self._skipped = SkippedFiles(0, self._system_folders)
        for name in self.classes:
            for entry in self._walk(name):
                if isinstance(entry, SkippedFiles):
                    self._skipped = self._skipped.plus(entry)
                else:
                    yield name, from_entry(entry)

    def warnings(self) -> list[str]:
        """See ``Dataset``."""
        warnings = []
        if self._unsorted:
            warnings.append(f"Ignored {plural(self._unsorted, 'image')} outside of class folders.")
        if self._empty:
            folders = plural(len(self._empty), "class folder")
            warnings.append(f"Ignored {folders} without images: {join_names(self._empty)}.")
        if any(self._skipped):
            warnings.append(str(self._skipped))
        common = self._common_folders()
        if len(self.classes) > 1 and len(common) > 1:
            warnings.append(
                f"Warning: All class folders ({join_names(self.classes)}) contain the folders "
                f"{join_names(common)}. If those are the classes, use one of the class folders instead of "
                f"{to_unicode(shown_name(self.folder))}."
            )
        return warnings

    def _common_folders(self) -> list[str]:
        """Return the names of the folders that all class folders contain."""
        common: set[str] | None = None
        for name in self.classes:
            folders = _list_folders(os.path.join(self.folder, name))
            common = common.intersection(folders) if common is not None else set(folders)
            if not common:
                break
        return sorted(common or ())


def find_splits(folder: str, suffixes: Collection[str] = ()) -> dict[str, str]:
    """Return the folders of a dataset that is already split, as a mapping of "train", "val", or "test" to a path.

    A folder is split if all folders with images in it have names in ``SPLITS``, and one of them contains folders.
    Otherwise, the result is empty.

    Raises:
        UsageError: There are split folders and other class folders, two folders for one split, or several split
            folders without class folders.
    """
    split_of = {name: split for split, names in SPLITS.items() for name in names}
    names = [name for name in _list_folders(folder) if name.lower() in split_of]
    if not names:
        return {}
    classes = ClassFolders(folder, suffixes).classes
    others = [name for name in classes if name not in names]
    names = [name for name in classes if name in names]
    has_classes = any(_list_folders(os.path.join(folder, name)) for name in names)
    if len(names) < 2 and (others or not has_classes):
        return {}
    listed = f"{to_unicode(folder)} contains the folders {join_names(names)}"
    if others:
        if not has_classes:
            return {}
        raise UsageError(f"{listed}, but also {join_names(others)}. Use the folder that contains the class folders.")
    if not has_classes:
        raise UsageError(f"{listed}, which contain no class folders. Create one per class, named after the class.")
    splits: dict[str, str] = {}
    for name in names:
        if splits.setdefault(split_of[name.lower()], path := os.path.join(folder, name)) != path:
            raise UsageError(f"{listed}. Use one of them.")
    return {split: splits[split] for split in SPLITS if split in splits}


def _list_folders(folder: str) -> list[str]:
    """Return the subfolders that can be classes, or none if the folder cannot be listed, which is reported later."""
    try:
        return [name for name, is_subfolder in _list_names(folder) if is_subfolder and not is_ignored(name)]
    except (OSError, ImageError):
        return []


def _list_names(folder: str) -> Iterator[tuple[str, bool]]:
    """Yield the names in a folder, and whether each is a folder. Raises OSError, or for a URL ``ImageError``."""
    if is_remote(folder):
        from densenet_cli.storage import list_folder

        yield from list_folder(folder)
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry.name, is_folder(entry)


def shown_name(folder: str) -> str:
    """Return a folder for messages: a URL without credentials."""
    if not is_remote(folder):
        return folder
    from densenet_cli.storage import redact

    return redact(folder)
