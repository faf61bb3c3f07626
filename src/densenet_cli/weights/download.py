"""Resumable download of one published file.

The published MD5 identifies the content, so any server and any later process can continue a partial file, and no ETag
is needed. If the partial file belongs to something else, the MD5 shows it and the download restarts once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

from densenet_cli.http import CHUNK_SIZE, Body, Timeouts, TransferError, open_url
from densenet_cli.output import atomic
from densenet_cli.weights.file_identity import hash_md5

if TYPE_CHECKING:
    from densenet_cli._types import DownloadProgress
    from densenet_cli.variants import WeightsFile

TIMEOUTS = Timeouts(connect=10, read=30, total=None)

RETRY_DELAYS = (0.5, 2.0)
"""Seconds to wait before each retry after a transient error. After the last retry the URL is given up."""

MIN_PROGRESS = 256 * 1024
"""Bytes. An attempt that receives as many resets the retries, so a bad connection is used as long as it makes progress.
"""

MAX_SIZE = 1 << 32
"""Bytes. Stops an endless response; every DenseNet checkpoint is much smaller."""


def download_file(url: str, partial: Path, expected: WeightsFile, progress: DownloadProgress | None) -> None:
    """Complete the file ``partial`` from ``url``.

    Args:
        url: An http, https, or file URL.
        partial: The partial file, which need not exist. It is kept if the transfer stops, and deleted if it is complete
            but has the wrong MD5.
        expected: The complete file.
        progress: Called after each chunk.

    Raises:
        TransferError: The URL does not provide the file.
        OSError: If ``partial`` cannot be written.
    """
    delays = iter(RETRY_DELAYS)
    restarted = False
    while not _is_complete(partial, expected):
        size_before = _size(partial)
        try:
            _continue(url, partial, expected.name, progress)
        except TransferError as error:
            if _size(partial) - size_before >= MIN_PROGRESS:
                delays = iter(RETRY_DELAYS)
            delay = next(delays, None)
            if _is_complete(partial, expected):
                return
            if delay is None or not error.transient:
                raise
            time.sleep(delay)
            continue
        if not _is_complete(partial, expected):
            content = f"{_size(partial):,} bytes with MD5 {hash_md5(partial)}, expected {expected.md5}"
            partial.unlink()
            if restarted or not size_before:
                raise TransferError(f"the server sent a different file ({content})")
            restarted = True


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _continue(url: str, partial: Path, name: str, progress: DownloadProgress | None) -> None:
    """Append to ``partial``. If the server ignores the range, overwrite it without truncating it before the end."""
    with _open(url, _size(partial)) as body, _open_partial(partial) as file:
        file.seek(body.start)
        done = body.start
        for chunk in body.chunks:
            file.write(chunk)
            done += len(chunk)
            if progress:
                progress(name, done, body.total)
            if done > MAX_SIZE:
                raise TransferError(f"the file has more than {MAX_SIZE:,} bytes")
        file.truncate()
        file.flush()
        atomic.sync(file.fileno())


def _open_partial(partial: Path) -> IO[bytes]:
    partial.touch()
    return partial.open("r+b")


@contextmanager
def _open(url: str, start: int) -> Iterator[Body]:
    if not url.lower().startswith("file:"):
        with open_url(url, start=start, timeouts=TIMEOUTS) as body:
            yield body
        return
    from urllib.request import url2pathname

    path = Path(url2pathname(urlsplit(url).path))
    if not path.is_file():
        raise TransferError("the file does not exist")
    with _read_errors():
        file = path.open("rb")
    with file:
        total = os.fstat(file.fileno()).st_size
        start = min(start, total)
        file.seek(start)
        yield Body(start, total, _chunks(file))


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    with _read_errors():
        while chunk := file.read(CHUNK_SIZE):
            yield chunk


@contextmanager
def _read_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TransferError(f"cannot read the file: {error.strerror}") from error


def _is_complete(partial: Path, expected: WeightsFile) -> bool:
    # Read back from the disk instead of computed during the transfer, because this is the check that decides.
    return _size(partial) > 0 and hash_md5(partial) == expected.md5
