"""Sidecar files: metadata and raw files that belong to an image and go where it goes."""

from __future__ import annotations

import os

METADATA_SUFFIXES = frozenset((".xmp", ".aae"))
RAW_SUFFIXES = frozenset(
    (
        *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw"),
        *(".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
    )
)
JPEG_SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe"))


class SidecarFinder:
    """Finds the sidecar files of images. Each folder is listed once."""

    def __init__(self) -> None:
        self._names: dict[str, dict[str, list[str]]] = {}

    def find(self, path: str) -> list[str]:
        """Return the files that belong to an image: ``.xmp`` and ``.aae`` files, and the raw file of a JPEG.

        Their names are that of the image with another or a further extension, in upper or lower case. A metadata file
        has no sidecar files. Otherwise, two of them could be sidecar files of each other.

        Raises:
            OSError: The folder of the image cannot be listed.
        """
        folder, name = os.path.split(path)
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in METADATA_SUFFIXES:
            return []
        suffixes = METADATA_SUFFIXES | (RAW_SUFFIXES if suffix.lower() in JPEG_SUFFIXES else frozenset())
        names = [
            other
            for base, accepted in ((stem, suffixes), (name, METADATA_SUFFIXES))
            for other in self._list(folder).get(base, ())
            if os.path.splitext(other)[1].lower() in accepted
        ]
        paths = [os.path.join(folder, other) for other in names]
        return [path for path in paths if os.path.isfile(path)]

    def _list(self, folder: str) -> dict[str, list[str]]:
        """Return the names of possible sidecar files in a folder, by their stems."""
        if folder not in self._names:
            names: dict[str, list[str]] = {}
            for name in sorted(os.listdir(folder)):
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in METADATA_SUFFIXES or suffix.lower() in RAW_SUFFIXES:
                    names.setdefault(stem, []).append(name)
            self._names[folder] = names
        return self._names[folder]
