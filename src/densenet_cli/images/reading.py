"""Where an image's bytes come from: a file, a URL, standard input, memory. Only regular files are opened."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from densenet_cli.errors import SourceNotFoundError, SourceUnreadableError, UnreadableImageError
from densenet_cli.images.sources import Source, read_bytes
from densenet_cli.images.walking import explain

BYTES_LIMIT = 64 << 20
"""The largest image, in bytes, taken from a URL, standard input or a file object: those are held in memory."""


@dataclass(frozen=True)
class Encoded:
    """An image's file, open.

    Attributes:
        stream: its bytes, at their beginning; it can seek.
        size: their number.
        in_memory: whether they are in memory as a whole.
    """

    stream: IO[bytes]
    size: int
    in_memory: bool


@contextmanager
def opened(source: Source) -> Iterator[Encoded]:
    """The bytes of a source of kind path, url, stdin, bytes or file.

    Raises:
        SourceNotFound, SourceUnreadable: a file that can't be opened, or is no regular one.
        UnreadableImage: more than ``BYTES_LIMIT`` bytes, or none of a file object's.
        DownloadFailed: a URL that gives nothing.
    """
    if source.kind == "path":
        with _open_file(source.origin) as stream:
            yield Encoded(stream, os.fstat(stream.fileno()).st_size, in_memory=False)
    else:
        data = read(source)
        yield Encoded(io.BytesIO(data), len(data), in_memory=True)


def _open_file(path: str) -> IO[bytes]:
    """Open a regular file and nothing else: a FIFO would wait for ever, and a device may do anything."""
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise SourceUnreadableError(f"Not a regular file: {_kind(mode)}.")
        # Should it have become a FIFO since, opening it doesn't wait.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, NotADirectoryError):
        raise SourceNotFoundError(
            "A symbolic link to nothing." if os.path.islink(path) else "No such file or folder."
        ) from None
    except (OSError, ValueError) as error:
        raise SourceUnreadableError(explain(error)) from None
    stream = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        stream.close()
        raise SourceUnreadableError("Not a regular file.")
    return stream


def _kind(mode: int) -> str:
    for is_kind, name in (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    ):
        if is_kind(mode):
            return name
    return "something else"


def read(source: Source) -> bytes:
    """The bytes of a source of kind url, stdin, bytes or file. Raises as ``opened`` does."""
    match source.kind:
        case "url":
            from densenet_cli.http import fetch

            return fetch(source.origin, max_bytes=BYTES_LIMIT)
        case "stdin":
            data: bytes = source.origin.read(BYTES_LIMIT)
        case "file":
            data = read_bytes(source.origin, BYTES_LIMIT)
        case _:
            return bytes(source.origin)
    if len(data) > BYTES_LIMIT:
        raise UnreadableImageError(f"More than {BYTES_LIMIT >> 20} MiB, the most that is read from a stream.")
    return data
