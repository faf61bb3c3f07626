"""Archives as sources: the images in tar files, which may be compressed, and in zip files, without extracting them.

``archive.py`` walks an archive with ``tar.py`` or ``zip.py``, which find the members, and ``contents.py`` reads one.
``index.py`` finds a member by its name. An archive is walked one member at a time, so that memory does not grow with
their number.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from densenet_cli.errors import EmptySourceError, ImageError, SourceNotFoundError, guard
from densenet_cli.images.archives.archive import OpenArchive
from densenet_cli.images.archives.contents import ReadContents, StreamOpener, open_archive
from densenet_cli.images.archives.members import MAX_PATH_LENGTH, normalize
from densenet_cli.images.walking import SUFFIXES, SYSTEM_FOLDERS, Entry, SkippedFiles, has_image_suffix
from densenet_cli.paths import is_archive, is_remote
from densenet_cli.text import plural


def expand_archive(
    name: str,
    open_stream: StreamOpener,
    suffixes: Collection[str] = SUFFIXES,
    *,
    folder: str = "",
    in_order: bool = False,
) -> Iterator[Entry | SkippedFiles]:
    """Yield the images in an archive in its order, as ``walking.walk`` yields those in a folder.

    Hidden members and those in system folders are ignored, and archives in the archive are not opened. A member that
    must not, or cannot, be read yields an entry with an error. So does an archive that is damaged or truncated, after
    the members before that place, and one without images. What was skipped comes last.

    Args:
        name: The name of the archive. A member is named after it: ``photos.tar/cats/1.jpg``.
        open_stream: Opens the archive as a seekable stream of its own.
        suffixes: The file name extensions of images.
        folder: Yield only what is in this folder of the archive.
        in_order: Read members while the archive is walked, for streams that are slow to open or to go back. Compressed
            tar archives are always read like this. The bytes are freed when the next entry is requested, unless they
            were read before.
    """
    search = _Search(folder, suffixes)
    with OpenArchive(name, open_stream, in_order) as archive:
        members = iter(archive)
        is_empty = True
        while True:
            try:
                member = guard(lambda: next(members, None))
                if member is None:
                    break
                if not search.is_image(member.path):
                    continue
                entry = archive.entry(member, f"{name}/{member.path[:MAX_PATH_LENGTH]}")
            except ImageError as failure:
                is_empty = False
                yield Entry(name, failure.with_traceback(None))
                break
            is_empty = False
            yield entry
            if isinstance(entry.contents, ReadContents):
                entry.contents.release()
    if is_empty:
        yield search.empty_entry(name)
    if any(search.skipped):
        yield search.skipped


def expand_archive_file(path: str, suffixes: Collection[str], folder: str = "") -> Iterator[Entry | SkippedFiles]:
    """Yield the images in an archive on this machine or in object storage, from which it is read in order."""
    open_stream = open_archive(path)
    name = path
    if is_remote(path):
        from densenet_cli.storage import redact

        name = redact(path)
    yield from expand_archive(name, open_stream, suffixes, folder=folder, in_order=is_remote(path))


class _Search:
    """Decides which members are images, and counts the others.

    Attributes:
        skipped: What was skipped.
    """

    def __init__(self, folder: str, suffixes: Collection[str]) -> None:
        folder = normalize(folder).lstrip("/")
        self._prefix = f"{folder}/" if folder else ""
        self._suffixes = suffixes
        self._system_folder = ""
        self._is_found = not folder
        self.skipped = SkippedFiles(0)

    def is_image(self, path: str) -> bool:
        """Return whether a member is an image of the search."""
        if not path.startswith(self._prefix):
            return False
        self._is_found = True
        ignored = _ignored_folder(path[len(self._prefix) :])
        if ignored is not None:
            if ignored and ignored != self._system_folder:
                self._system_folder = ignored
                self.skipped = self.skipped.plus(SkippedFiles(0, 1))
            return False
        if is_archive(path) or not has_image_suffix(path, self._suffixes):
            self.skipped = self.skipped.plus(SkippedFiles(1))
            return False
        return True

    def empty_entry(self, name: str) -> Entry:
        """Return the entry for an archive in which no image was found."""
        name = f"{name}/{self._prefix}".rstrip("/")
        if not self._is_found:
            return Entry(name, SourceNotFoundError("The archive contains no file or folder of this name."))
        others = f", only {plural(self.skipped.files, 'other file')}" if self.skipped.files else ""
        kind = "folder" if self._prefix else "archive"
        return Entry(name, EmptySourceError(f"The {kind} contains no images{others}."))


def _ignored_folder(path: str) -> str | None:
    """Return the system folder that contains a member, "" if the member is hidden, or None if it is not ignored."""
    folders = path.split("/")
    for count, part in enumerate(folders, start=1):
        if part.startswith(".") and part != "..":
            return ""
        if part.lower() in SYSTEM_FOLDERS and count < len(folders):
            return "/".join(folders[:count])
    return None
