"""Access to the encoded bytes of an image: a file, URL, standard input, or memory. Only regular files are opened."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, NamedTuple

from densenet_cli.errors import SourceNotFoundError, SourceUnreadableError, UnreadableImageError
from densenet_cli.images.sources import Source, read_stream
from densenet_cli.images.walking import describe_os_error

MAX_STREAM_BYTES = 64 << 20
"""Largest image accepted from a URL, standard input, or a file object, which are held in memory."""


class EncodedImage(NamedTuple):
    """An opened image file.

    Attributes:
        stream: Its bytes, seekable and at the beginning.
        size: Their number.
        bytes_in_memory: How many of them are held in memory: all or none.
    """

    stream: IO[bytes]
    size: int
    bytes_in_memory: int


@contextmanager
def open_source(source: Source) -> Iterator[EncodedImage]:
    """Open a source of kind path, url, stdin, bytes, or file.

    Raises:
        SourceNotFoundError, SourceUnreadableError: The file cannot be opened or is not a regular file.
        UnreadableImageError: A stream has more than ``MAX_STREAM_BYTES`` bytes or returns text.
        DownloadFailedError: The URL cannot be fetched.
    """
    if source.kind == "path":
        with _open_file(source.origin) as stream:
            yield EncodedImage(stream, os.fstat(stream.fileno()).st_size, bytes_in_memory=0)
    else:
        data = read_source(source)
        yield EncodedImage(io.BytesIO(data), len(data), bytes_in_memory=len(data))


def _open_file(path: str) -> IO[bytes]:
    """Open a regular file. Anything else is rejected: a FIFO could block forever, and a device could do anything."""
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


def read_source(source: Source) -> bytes:
    """Return the bytes of a source of kind url, stdin, bytes, or file. Raises the same errors as ``open_source``."""
    match source.kind:
        case "url":
            from densenet_cli.http import fetch

            return fetch(source.origin, max_bytes=MAX_STREAM_BYTES)
        case "stdin":
            data: bytes = source.origin.read(MAX_STREAM_BYTES)
        case "file":
            data = read_stream(source.origin, MAX_STREAM_BYTES)
        case _:
            return bytes(source.origin)
    if len(data) > MAX_STREAM_BYTES:
        raise UnreadableImageError(f"The stream is longer than the limit of {MAX_STREAM_BYTES >> 20} MiB.")
    return data
