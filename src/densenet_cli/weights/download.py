"""One published file from one URL into a partial file beside its place: cut short, it goes on where it stopped.

The published MD5 says which bytes are wanted, so a partial file may be continued from any server and in any later
process, and needs no ETag: whatever was mixed up on the way is found in the end and fetched again from the start.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from densenet_cli.http import CHUNK, Body, Limits, TransferError, open_url
from densenet_cli.output import atomic
from densenet_cli.weights import Progress

LIMITS = Limits(connect=10, read=30, total=None)
PAUSES = (0.5, 2.0)
"""Seconds before each repeat after a passing failure; when they are used up the URL is given up."""

WORTHWHILE = 256 * 1024
"""Bytes. An attempt that brought as many counts as none failed: a bad line is used as long as it moves."""

MOST = 1 << 32
"""Bytes; no checkpoint of a DenseNet comes near, and an endless answer stops here."""


def bring(name: str, url: str, part: Path, md5: str, progress: Progress | None = None) -> None:
    """Make ``part`` the file whose MD5 is ``md5``, continuing what is in it.

    Args:
        name: what ``progress`` is told.
        url: http, https or file.
        part: the partial file; kept when the transfer stops, deleted when it is whole and wrong.
        md5: 32 hexadecimal digits.
        progress: told of every chunk.

    Raises:
        TransferError: this URL doesn't give the file, and why.
        OSError: ``part`` can't be written.
    """
    pauses = iter(PAUSES)
    restarted = False
    while not _is_whole(part, md5):
        before = size(part)
        try:
            _go_on(name, url, part, progress)
        except TransferError as error:
            if size(part) - before >= WORTHWHILE:
                pauses = iter(PAUSES)
            pause = next(pauses, None)
            if _is_whole(part, md5):
                return
            if pause is None or not error.passing:
                raise
            time.sleep(pause)
            continue
        if not _is_whole(part, md5):
            sent = f"{size(part):,} bytes with the MD5 {_md5(part)} instead of {md5}"
            part.unlink()
            if restarted or not before:
                raise TransferError(f"what it sent is not the published file: {sent}")
            restarted = True


def size(part: Path) -> int:
    """Bytes in a file, 0 where there is none."""
    try:
        return part.stat().st_size
    except FileNotFoundError:
        return 0


def _go_on(name: str, url: str, part: Path, progress: Progress | None) -> None:
    """Write what ``url`` sends over and behind what ``part`` has, which thus never gets shorter before the end."""
    with _open(url, size(part)) as body, _writing(part) as file:
        file.seek(body.start)
        done = body.start
        for chunk in body.chunks:
            file.write(chunk)
            done += len(chunk)
            if progress:
                progress(name, done, body.total)
            if done > MOST:
                raise TransferError(f"it sends more than {MOST:,} bytes")
        file.truncate()
        file.flush()
        atomic.sync(file.fileno())


def _writing(part: Path) -> IO[bytes]:
    part.touch()
    return part.open("r+b")


@contextmanager
def _open(url: str, start: int) -> Iterator[Body]:
    if not url.lower().startswith("file:"):
        with open_url(url, start=start, limits=LIMITS) as body:
            yield body
        return
    from urllib.request import url2pathname

    path = Path(url2pathname(urlsplit(url).path))
    if not path.is_file():
        raise TransferError("there is no such file")
    try:
        file = path.open("rb")
    except OSError as error:
        raise TransferError(f"it can't be read: {error.strerror}") from error
    with file:
        total = os.fstat(file.fileno()).st_size
        yield Body(min(start, total), total, _chunks(file, min(start, total)))


def _chunks(file: IO[bytes], start: int) -> Iterator[bytes]:
    try:
        file.seek(start)
        while chunk := file.read(CHUNK):
            yield chunk
    except OSError as error:
        raise TransferError(f"it can't be read: {error.strerror}") from error


def _is_whole(part: Path, md5: str) -> bool:
    return size(part) > 0 and _md5(part) == md5


def _md5(part: Path) -> str:
    # Read back from the disk, not added up on the way: this is the check that decides.
    with part.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
