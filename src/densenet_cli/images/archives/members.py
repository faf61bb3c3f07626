"""Members of archives, and which of them are not read."""

from __future__ import annotations

from typing import NamedTuple

from densenet_cli.errors import ImageError, SourceUnreadableError, UnreadableImageError
from densenet_cli.images.archives.contents import TarContents, ZipContents
from densenet_cli.images.files import MAX_STREAM_BYTES

MAX_PATH_LENGTH = 4096
"""Characters. Linux allows no longer paths."""


class Member(NamedTuple):
    """A member of an archive that is not a folder.

    Attributes:
        name: Its name, as the archive states it. Bytes that are not UTF-8 are surrogates.
        contents: Where its contents are.
        error: Why they cannot be read, or None.
    """

    name: str
    contents: TarContents | ZipContents
    error: ImageError | None = None

    @property
    def path(self) -> str:
        """The name in the spelling that ``normalize`` returns."""
        return normalize(self.name)

    def find_error(self, path: str) -> ImageError | None:
        """Return why the member must not, or cannot, be read, or None. ``path`` is its path."""
        if path.startswith("/"):
            return SourceUnreadableError("Members with absolute paths are not read.")
        if ".." in path.split("/"):
            return SourceUnreadableError("Members with .. in their paths are not read.")
        if len(path) > MAX_PATH_LENGTH:
            return SourceUnreadableError(f"Paths of members can have up to {MAX_PATH_LENGTH:,} characters.")
        if not self.error and self.contents.size > MAX_STREAM_BYTES:
            size, limit = -(-self.contents.size >> 20), MAX_STREAM_BYTES >> 20
            return UnreadableImageError(f"The member has {size:,} MiB, more than the limit of {limit} MiB.")
        return self.error


def normalize(name: str) -> str:
    """Return the path of a member without redundant slashes and dots."""
    path = "/".join(part for part in name.split("/") if part not in ("", "."))
    return f"/{path}" if name.startswith("/") else path
