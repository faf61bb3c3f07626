"""Files and streams that may hold images. Only regular files are opened."""

from __future__ import annotations

import os
import stat
import threading
from typing import IO, Any

from densenet_cli.errors import SourceNotFoundError, SourceUnreadableError, UnreadableImageError
from densenet_cli.images.walking import describe_os_error

OFFLINE = "The image was not downloaded because network access is disabled (offline)."
"""The error of an image that would have to be downloaded."""

MAX_STREAM_BYTES = 64 << 20
"""Largest image from a URL, object storage, standard input, a file object, or an archive, which are held in memory."""


def open_file(path: str) -> IO[bytes]:
    """Open a regular file. Anything else is rejected: a FIFO could block forever, and a device could do anything.

    Raises:
        SourceNotFoundError: There is no such file.
        SourceUnreadableError: The file cannot be opened, or is not a regular file.
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise SourceUnreadableError(f"Not a regular file but {_file_type(mode)}.")
        # O_NONBLOCK, in case the file has become a FIFO since.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, NotADirectoryError):
        message = "Broken symbolic link." if os.path.islink(path) else "No such file or folder."
        raise SourceNotFoundError(message) from None
    except (OSError, ValueError) as error:
        raise SourceUnreadableError(describe_os_error(error)) from None
    stream = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        stream.close()
        raise SourceUnreadableError("Not a regular file.")
    return stream


def _file_type(mode: int) -> str:
    for is_type, name in (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    ):
        if is_type(mode):
            return name
    return "something else"


class StandardInput:
    """The image on standard input. A stream can be read only once, so its bytes are kept for a second ``-``."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._data: bytes | None = None

    def read(self, limit: int) -> bytes:
        """Return all bytes, or ``limit + 1`` bytes of a longer stream."""
        with self._lock:
            if self._data is None:
                self._data = read_stream(self._stream, limit)
            return self._data


def read_stream(stream: Any, limit: int) -> bytes:
    """Read a file object to its end, in however many pieces, but stop after ``limit`` bytes have been exceeded.

    Raises:
        UnreadableImageError: The file object returns text.
    """
    pieces: list[bytes] = []
    remaining = limit + 1
    while remaining > 0:
        piece = stream.read(remaining)
        if not isinstance(piece, bytes | bytearray | memoryview | None):
            raise UnreadableImageError("The file object returns text. Open it in binary mode.")
        if not piece:
            break
        pieces.append(bytes(piece))
        remaining -= len(pieces[-1])
    return b"".join(pieces)
