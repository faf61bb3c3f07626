"""The contents of archive members: where they are in the archive, and how they are read, by any thread.

Contents describe a part of an archive and hold no bytes. ``ReadContents`` are those of an archive that can only be read
in sequence: they hold their bytes until these are used for the first time.
"""

from __future__ import annotations

import dataclasses
import io
import os
import threading
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, ClassVar, Protocol

from densenet_cli.errors import SourceNotFoundError, SourceUnreadableError, UnreadableImageError
from densenet_cli.images.files import open_file
from densenet_cli.paths import is_remote

if TYPE_CHECKING:
    from densenet_cli.storage import Stream

CHUNK_SIZE = 1 << 20

LOCAL_HEADER_SIZE = 30
"""Bytes before the name in the header of a zip member."""

STORED, DEFLATED, BZIP2 = 0, 8, 12
"""Methods of compression in zip archives."""


class ByteStream(Protocol):
    """What archives are read from. ``read`` returns fewer bytes than requested only at the end of the file."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to an offset from the start, or with 2 from the end, and return it from the start."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""


StreamOpener = Callable[[], AbstractContextManager[ByteStream]]
"""Opens an archive again, at its start."""


class Contents(Protocol):
    """The contents of a member."""

    @property
    def size(self) -> int:
        """Number of bytes."""

    @property
    def is_repeatable(self) -> bool:
        """Whether they can be read again, and in any order, at no cost."""

    def read(self, limit: int) -> bytes:
        """Return all bytes, or ``limit + 1`` bytes of longer contents. Thread-safe.

        Raises:
            ImageError: The archive cannot be opened, or is damaged here.
        """


@dataclass(frozen=True, slots=True)
class LocalFile:
    """Opens an archive on a local disk, and only as long as it is the same file.

    Attributes:
        path: Its path.
        identity: Size and time of modification when it was opened first; None before that.
    """

    path: str
    identity: tuple[int, int] | None = None

    def __call__(self) -> IO[bytes]:
        """Open the file.

        Raises:
            SourceNotFoundError, SourceUnreadableError: It cannot be opened, is not a regular file, or has changed.
        """
        file = open_file(self.path)
        if self.identity and self.identity != _identity(os.fstat(file.fileno())):
            file.close()
            raise SourceUnreadableError("The archive changed while it was read.")
        return file

    def identify(self) -> LocalFile:
        """Return the file with its identity. Raises the errors of a call."""
        with self() as file:
            return LocalFile(self.path, _identity(os.fstat(file.fileno())))


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """Opens an archive in object storage, and only as long as it is the same file.

    Attributes:
        url: Its URL.
        identity: Size and version when ``identify`` was called; None before that.
    """

    url: str
    identity: tuple[int, str] | None = None

    def __call__(self) -> Stream:
        """Open the file. Raises ``ImageError`` if it cannot be opened, or has changed."""
        from densenet_cli.storage import open_stream

        stream = open_stream(self.url)
        if self.identity and stream.status and self.identity != (stream.status.size, stream.status.version):
            stream.__exit__()
            raise SourceUnreadableError("The archive changed while it was read.")
        return stream

    def identify(self) -> RemoteFile:
        """Return the file with its identity. Raises ``ImageError`` if there is none."""
        from densenet_cli.storage import status

        found = status(self.url)
        if not found or found.is_folder:
            raise SourceNotFoundError("No such file.")
        return RemoteFile(self.url, (found.size, found.version))


def open_archive(path: str) -> LocalFile | RemoteFile:
    """Return what opens an archive on this machine or in object storage."""
    return RemoteFile(path) if is_remote(path) else LocalFile(path)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True, slots=True)
class TarContents:
    """Contents that are a part of a file as they are.

    Attributes:
        open_stream: Opens the archive.
        offset: Where the contents start.
        size: Number of bytes.
    """

    is_repeatable: ClassVar[bool] = True
    open_stream: StreamOpener
    offset: int
    size: int

    def read(self, limit: int) -> bytes:
        """See ``Contents``."""
        with self.open_stream() as stream:
            return self.read_from(stream, limit)

    def read_from(self, stream: ByteStream, limit: int) -> bytes:
        """Read the contents from the open archive. See ``read``."""
        stream.seek(self.offset)
        data = stream.read(min(self.size, limit + 1))
        if len(data) < min(self.size, limit + 1):
            raise UnreadableImageError("The archive ends within this member.")
        return data


@dataclass(frozen=True, slots=True)
class ZipContents:
    """Contents of a zip member, which may be compressed.

    Attributes:
        open_stream: Opens the archive.
        offset: Where the header of the member starts.
        compressed_size: Number of bytes in the archive.
        size: Number of bytes without compression.
        checksum: CRC-32 of the contents.
        method: ``STORED``, ``DEFLATED``, or ``BZIP2``.
    """

    is_repeatable: ClassVar[bool] = True
    open_stream: StreamOpener
    offset: int
    compressed_size: int
    size: int
    checksum: int
    method: int

    def read(self, limit: int) -> bytes:
        """See ``Contents``."""
        with self.open_stream() as stream:
            return self.read_from(stream, limit)

    def read_from(self, stream: ByteStream, limit: int) -> bytes:
        """Read the contents from the open archive. See ``read``."""
        stream.seek(self.offset)
        header = stream.read(LOCAL_HEADER_SIZE)
        if len(header) < LOCAL_HEADER_SIZE or header[:4] != b"PK\3\4":
            raise UnreadableImageError("The archive is damaged: the member is not where its directory says.")
        name_length, extra_length = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
        stream.seek(self.offset + LOCAL_HEADER_SIZE + name_length + extra_length)
        limit = min(limit, self.size)  # one byte more shows that the directory is wrong
        data = self._decompress(stream, limit + 1)
        if limit == self.size and (len(data) != self.size or zlib.crc32(data) != self.checksum):
            raise UnreadableImageError("The archive is damaged: the member has another size or checksum.")
        return data

    def _decompress(self, stream: ByteStream, max_size: int) -> bytes:
        """Return the contents up to this size, without holding all compressed bytes."""
        if self.method == STORED:
            return stream.read(min(self.compressed_size, max_size))
        decompress = _inflater() if self.method == DEFLATED else _bzip2_decompressor()
        output = io.BytesIO()
        remaining = self.compressed_size
        while remaining and output.tell() < max_size:
            piece = stream.read(min(remaining, CHUNK_SIZE))
            if not piece:
                break
            remaining -= len(piece)
            output.write(decompress(piece, max_size - output.tell()))
        return output.getvalue()


def _inflater() -> Callable[[bytes, int], bytes]:
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress


def _bzip2_decompressor() -> Callable[[bytes, int], bytes]:
    import bz2

    decompressor = bz2.BZ2Decompressor()
    return lambda data, size: b"" if decompressor.eof else decompressor.decompress(data, size)


class ReadContents:
    """Contents that are read in the order of the archive, and hold their bytes until the first ``read``.

    Later calls read the archive again. If it is compressed, that is fast only in the order of the archive.

    Args:
        contents: Reads the contents again.
    """

    is_repeatable = False

    def __init__(self, contents: TarContents | ZipContents) -> None:
        self._contents = contents
        self._data: list[bytes] = []
        self.size = contents.size

    def load(self, stream: ByteStream, limit: int) -> None:
        """Read the contents from the open archive."""
        self._data.append(self._contents.read_from(stream, limit))

    def read(self, limit: int) -> bytes:
        """See ``Contents``."""
        try:
            return self._data.pop()  # atomic
        except IndexError:
            return _reopened.read(self._contents, limit)

    def release(self) -> None:
        """Free the bytes."""
        self._data.clear()


class _ReopenedArchive:
    """The archive that was opened again last. It stays open, because its next member may be needed next."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files = ExitStack()
        self._open_stream: StreamOpener | None = None
        self._stream: Any = None

    def read(self, contents: TarContents | ZipContents, limit: int) -> bytes:
        """Read contents, from where the archive is if they are behind it."""
        with self._lock:
            try:
                if contents.open_stream is self._open_stream:
                    with suppress(ValueError):  # the stream cannot go back
                        return contents.read_from(self._stream, limit)
                self._files.close()
                self._open_stream = None
                self._stream = self._files.enter_context(contents.open_stream())
                data = contents.read_from(self._stream, limit)
                self._open_stream = contents.open_stream
                return data
            finally:
                if self._open_stream is None:
                    self._files.close()


_reopened = _ReopenedArchive()


def to_json(contents: Any, folder: str | None = None) -> list[Any] | None:
    """Return JSON from which another process can read contents, or None if only this process can.

    Args:
        contents: The contents.
        folder: What to put before a relative path; None for nothing.
    """
    if not isinstance(contents, TarContents | ZipContents) or not isinstance(contents.open_stream, LocalFile):
        return None
    file = contents.open_stream
    path = os.path.join(folder, file.path) if folder else file.path
    fields = [getattr(contents, field.name) for field in dataclasses.fields(contents)[1:]]
    return [type(contents).__name__, path, file.identity, *fields]


def from_json(values: list[Any]) -> TarContents | ZipContents:
    """Return the contents from which ``to_json`` made JSON."""
    kind, path, identity, *fields = values
    return KINDS[kind](LocalFile(path, identity and tuple(identity)), *fields)


KINDS = {kind.__name__: kind for kind in (TarContents, ZipContents)}
