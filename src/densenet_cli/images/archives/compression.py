"""Compressed files as streams that can only be read forward: gzip, bzip2, and xz.

The modules of the standard library have no limit on the memory that an xz file may request, or on how far a file may
expand.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from densenet_cli.errors import SourceUnreadableError
from densenet_cli.images.archives.contents import CHUNK_SIZE, StreamOpener

INPUT_SIZE = 1 << 17
"""Compressed bytes to read at once."""

MAX_XZ_MEMORY = 256 << 20
"""Memory for decompressing xz. The highest level of ``xz`` needs 65 MiB."""

MAX_RATIO = 1000
UNLIMITED_BYTES = 1 << 30
"""Files that expand to more bytes than this may expand to ``MAX_RATIO`` times their size."""


class _GzipDecompressor:
    """Has the interface of those in ``bz2`` and ``lzma``."""

    def __init__(self) -> None:
        self._object = zlib.decompressobj(16 + zlib.MAX_WBITS)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._object.decompress(self._object.unconsumed_tail + data, max_length)

    @property
    def needs_input(self) -> bool:
        return not self._object.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data


def _bzip2_decompressor() -> Any:
    import bz2

    return bz2.BZ2Decompressor()


def _xz_decompressor() -> Any:
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_XZ_MEMORY)


DECOMPRESSORS: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": _GzipDecompressor,
    b"BZh": _bzip2_decompressor,
    b"\xfd7zXZ\0": _xz_decompressor,
}
"""First bytes of a file -> function that creates a decompressor."""


MAX_MAGIC_LENGTH = max(map(len, DECOMPRESSORS))


def find_decompressor(start: bytes) -> Callable[[], Any] | None:
    """Return the function that creates the decompressor of a file with these first bytes; None if it has none."""
    return next((create for magic, create in DECOMPRESSORS.items() if start.startswith(magic)), None)


class DecompressedStream:
    """The contents of a compressed file, to be read forward. Closing it closes the file.

    Args:
        open_stream: Opens the compressed file.
        create_decompressor: Creates the decompressor. The file may consist of several compressed parts.

    Attributes:
        position: Number of bytes read so far.
    """

    def __init__(self, open_stream: StreamOpener, create_decompressor: Callable[[], Any]) -> None:
        self._files = ExitStack()
        self._file = self._files.enter_context(open_stream())
        self._create = create_decompressor
        self._decompressor = create_decompressor()
        self._compressed_bytes = 0
        self.position = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._files.close()

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go forward to an offset from the start, or to the end if it comes first. Return where that is."""
        if whence or offset < self.position:
            raise ValueError("The stream cannot go back.")
        while (remaining := offset - self.position) and self.read(min(remaining, CHUNK_SIZE)):
            pass
        return self.position

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, fewer only at the end.

        Raises:
            SourceUnreadableError: The file is damaged, truncated, or expands too far.
        """
        pieces = []
        while size and (piece := self._read_piece(size)):
            pieces.append(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read_piece(self, max_size: int) -> bytes:
        """Return some of the next bytes, or none at the end."""
        while True:
            if self._decompressor.eof and not self._begin_part():
                return b""
            needs_input = self._decompressor.needs_input
            data = self._read_input() if needs_input else b""
            try:
                piece: bytes = self._decompressor.decompress(data, max_size)
            except Exception as error:  # each module has its own types
                reason = "needs too much memory" if "emory" in str(error) else "is damaged"
                raise self._error(f"The compressed archive {reason}") from None
            if piece:
                self.position += len(piece)
                if self.position > max(UNLIMITED_BYTES, MAX_RATIO * self._compressed_bytes):
                    raise self._error(f"The compressed archive expands to more than {MAX_RATIO:,} times its size")
                return piece
            if needs_input and not data and not self._decompressor.eof:
                raise self._error("The compressed archive is truncated")

    def _read_input(self) -> bytes:
        data = self._file.read(INPUT_SIZE)
        self._compressed_bytes += len(data)
        return data

    def _begin_part(self) -> bool:
        """Begin the next compressed part of the file. Return whether there is one. Zeros between parts are ignored."""
        rest: bytes = self._decompressor.unused_data.lstrip(b"\0")
        while len(rest) < MAX_MAGIC_LENGTH and (data := self._read_input()):
            rest = (rest + data).lstrip(b"\0")
        if find_decompressor(rest) is not self._create:
            return False
        self._decompressor = _Prefixed(self._create(), rest)
        return True

    def _error(self, message: str) -> SourceUnreadableError:
        return SourceUnreadableError(f"{message}: reading ended at byte {self._compressed_bytes:,} of the file.")


class _Prefixed:
    """A decompressor with data that was read before it was created."""

    def __init__(self, decompressor: Any, data: bytes) -> None:
        self._decompressor, self._data = decompressor, data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        data, self._data = self._data + data, b""
        result: bytes = self._decompressor.decompress(data, max_length)
        return result

    @property
    def needs_input(self) -> bool:
        return not self._data and self._decompressor.needs_input

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decompressor, name)


@dataclass(frozen=True, slots=True, eq=False)
class CompressedFile:
    """Opens the contents of a compressed file."""

    open_stream: StreamOpener
    create_decompressor: Callable[[], Any]

    def __call__(self) -> DecompressedStream:
        """Open the file again, at the start of its contents."""
        return DecompressedStream(self.open_stream, self.create_decompressor)
