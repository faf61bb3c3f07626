"""Class folders in an archive."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator

from densenet_cli.datasets.base import Dataset
from densenet_cli.datasets.folders import SPLITS, shown_name
from densenet_cli.errors import UsageError
from densenet_cli.images.archives import expand_archive_file
from densenet_cli.images.sources import Source, from_entry
from densenet_cli.images.walking import SkippedFiles, image_suffixes
from densenet_cli.text import join_names, plural, to_unicode


class ClassArchive(Dataset):
    """An archive with one folder per class, as ``ClassFolders``. Its images have the order of the archive.

    If all images are in several folders below one folder of the archive, these are the class folders.

    Args:
        archive: The archive.
        folder: The folder in it that contains the class folders; "" for the archive itself.
        suffixes: File name extensions of images, in addition to the known ones.

    Raises:
        UsageError: The archive is damaged, contains no class folder, or contains a dataset that is already split.
    """

    def __init__(self, archive: str, folder: str = "", suffixes: Collection[str] = ()) -> None:
        self._archive = archive
        self._suffixes = image_suffixes(suffixes)
        self._inner = folder.strip("/")
        self._unsorted = 0
        self._skipped = SkippedFiles(0)
        folders = self._find_folders()
        common = os.path.commonpath(folders) if folders else ""
        if common and common not in folders:
            self._inner = f"{self._inner}/{common}".lstrip("/")
            folders = {folder[len(common) + 1 :] for folder in folders}
        classes = {folder.partition("/")[0] for folder in folders}
        self.folder = f"{archive}/{self._inner}".rstrip("/")
        name = to_unicode(shown_name(self.folder))
        self.description = f"class folders in {name}"
        if not classes:
            images = f", only {plural(self._unsorted, 'image')}" if self._unsorted else ""
            raise UsageError(
                f"There are no class folders with images in {name}{images}. Create one folder per class, named after "
                "the class, and put its images there."
            )
        split_names = {split for names in SPLITS.values() for split in names}
        if all(name.lower() in split_names for name in classes) and classes.isdisjoint(folders):
            paths = [f"{name}/{split}" for split in sorted(classes)]
            raise UsageError(f"{name} is already split into {join_names(paths)}. Use one of them.")
        self.classes = tuple(sorted(classes))

    def _find_folders(self) -> set[str]:
        """Return the folders that directly contain images.

        Raises:
            UsageError: The archive is damaged or contains no images.
        """
        folders: set[str] = set()
        for path, source in self._walk():
            if source.error and not path:
                raise UsageError(f"Cannot read {to_unicode(source.name)}: {source.error}")
            if _has_class(path):
                folders.add(path.rpartition("/")[0])
            else:
                self._unsorted += 1
        return folders

    def _walk(self) -> Iterator[tuple[str, Source]]:
        """Yield the path below the folder, and the source, of each image. The path of an empty archive is empty."""
        self._skipped = SkippedFiles(0)
        name = shown_name(self._archive)
        prefix = f"{name}/{self._inner}/" if self._inner else f"{name}/"
        for entry in expand_archive_file(self._archive, self._suffixes, self._inner):
            if isinstance(entry, SkippedFiles):
                self._skipped = entry
            else:
                yield (entry.path[len(prefix) :] if entry.path.startswith(prefix) else ""), from_entry(entry)

    def images(self) -> Iterator[tuple[str, Source]]:
        """See ``Dataset``."""
        for path, source in self._walk():
            if _has_class(path):
                yield path.partition("/")[0], source

    def warnings(self) -> list[str]:
        """See ``Dataset``."""
        warnings = []
        if self._unsorted:
            warnings.append(f"Ignored {plural(self._unsorted, 'image')} outside of class folders.")
        if any(self._skipped):
            warnings.append(str(self._skipped))
        return warnings


def _has_class(path: str) -> bool:
    """Return whether an image is in a folder of the archive. Members outside of it are not read anyway."""
    return "/" in path.lstrip("/") and not path.startswith(("/", "../"))
