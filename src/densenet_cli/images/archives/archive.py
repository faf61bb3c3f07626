"""An archive whose members are walked, and read on the way if they cannot be read later."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Self

from densenet_cli.errors import SourceUnreadableError, UnreadableImageError, guard
from densenet_cli.images.archives.compression import (
    CompressedFile,
    DecompressedStream,
    find_decompressor,
)
from densenet_cli.images.archives.contents import (
    ByteStream,
    LocalFile,
    ReadContents,
    RemoteFile,
    StreamOpener,
    TarContents,
    ZipContents,
)
from densenet_cli.images.archives.members import Member
from densenet_cli.images.files import MAX_STREAM_BYTES
from densenet_cli.images.walking import Entry

ZIP_STARTS = (b"PK\3\4", b"PK\5\6", b"PK\7\x08")
TAR_MAGIC, TAR_MAGIC_OFFSET = b"ustar", 257
LFS_START = b"version https://git-lfs"
ZSTANDARD_START = b"\x28\xb5\x2f\xfd"


class OpenArchive:
    """An archive that is walked once, from its start. Its format is found by its contents.

    Args:
        name: Its name, which only matters for a zip archive with something before it.
        open_stream: Opens it. Each call returns another stream.
        in_order: Whether to read members during the walk. Compressed tar archives are always read like this.
    """

    def __init__(self, name: str, open_stream: StreamOpener, in_order: bool = False) -> None:
        self._is_zip = name.lower().endswith(".zip")
        self._open_stream = open_stream
        self._in_order = in_order
        self._stream: ByteStream | None = None
        self._files = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def __iter__(self) -> Iterator[Member]:
        """Yield the members.

        Raises:
            ImageError: The archive cannot be opened, or is damaged after the members before. The message says where.
        """
        open_stream = self._open_stream
        if isinstance(open_stream, LocalFile | RemoteFile) and not open_stream.identity:
            open_stream = open_stream.identify()
        stream = self._stream = self._files.enter_context(open_stream())
        start = stream.read(TAR_MAGIC_OFFSET + len(TAR_MAGIC))
        if start.startswith(LFS_START):
            raise SourceUnreadableError("The file is a Git LFS pointer. Run git lfs pull to download the archive.")
        if start.startswith(ZSTANDARD_START):
            raise SourceUnreadableError("Archives that are compressed with Zstandard are not supported.")
        if decompressor := find_decompressor(start):
            from densenet_cli.images.archives.tar import read_members as read_tar

            self._in_order = True
            stream.seek(0)
            self._stream = DecompressedStream(lambda: nullcontext(stream), decompressor)
            yield from read_tar(self._stream, CompressedFile(open_stream, decompressor), None)
            return
        file_size = stream.seek(0, io.SEEK_END)
        if file_size and (start.startswith(ZIP_STARTS) or (self._is_zip and not start.endswith(TAR_MAGIC))):
            from densenet_cli.images.archives.zip import read_members as read_zip

            yield from read_zip(stream, open_stream, file_size)
        else:
            from densenet_cli.images.archives.tar import read_members as read_tar

            yield from read_tar(stream, open_stream, file_size)

    def entry(self, member: Member, path: str) -> Entry:
        """Return the entry of the member that was yielded last, whose contents are read if this must happen in order.

        It has an error if the member must not be read, or is damaged.

        Args:
            member: The member.
            path: What to call it.

        Raises:
            ImageError: The archive cannot be read any further.
        """
        if error := member.find_error(member.path):
            return Entry(path, error)
        try:
            return Entry(path, contents=guard(partial(self._read, member)))
        except UnreadableImageError as damage:
            return Entry(path, damage.with_traceback(None))

    def _read(self, member: Member) -> TarContents | ZipContents | ReadContents:
        if not self._in_order:
            return member.contents
        assert self._stream is not None
        contents = ReadContents(member.contents)
        contents.load(self._stream, MAX_STREAM_BYTES)
        return contents
