"""Resumable download of one file with a known checksum.

The checksum identifies the content, so any server and any later process can continue a partial file, and no ETag is
compared. If the partial file belongs to something else, the checksum shows it and the download restarts once.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import urlsplit

from densenet_cli.errors import WeightsUnavailableError
from densenet_cli.http import CHUNK_SIZE, Body, Timeouts, open_url
from densenet_cli.output import atomic
from densenet_cli.transfer_errors import TransferError
from densenet_cli.weights.file_identity import hash_file

if TYPE_CHECKING:
    from densenet_cli._types import DownloadProgress

T = TypeVar("T")

TIMEOUTS = Timeouts(connect=10, read=30, total=None)

RETRY_DELAYS = (0.5, 2.0)
"""Seconds to wait before each retry after a transient error. After the last retry the URL is given up."""

MIN_PROGRESS = 256 * 1024
"""Bytes. An attempt that receives as many resets the retries, so a bad connection is used as long as it makes progress.
"""

MAX_SIZE = 1 << 32
"""Bytes. Stops an endless response; every DenseNet checkpoint is much smaller."""


class ExpectedFile(NamedTuple):
    """A file to download.

    Attributes:
        name: The name that progress is reported with.
        checksum: The checksum in hexadecimal digits.
        algorithm: A key of ``file_identity.CHECKSUM_LENGTHS``.
        size: The size in bytes, or None if it is unknown.
    """

    name: str
    checksum: str
    algorithm: str
    size: int | None = None


def retry(request: Callable[[], T]) -> T:
    """Return the result of a request, which is retried after transient errors. Raises ``TransferError``."""
    for delay in RETRY_DELAYS:
        try:
            return request()
        except TransferError as error:
            if not error.transient:
                raise
            time.sleep(delay)
    return request()


def download_file(
    url: str, partial: Path, expected: ExpectedFile, progress: DownloadProgress | None, token: str | None = None
) -> None:
    """Complete the file ``partial`` from ``url``.

    Args:
        url: An http, https, or file URL.
        partial: The partial file, which need not exist. It is kept if the transfer stops, and deleted if it is complete
            but has the wrong checksum.
        expected: The complete file.
        progress: Called after each chunk.
        token: A bearer token for the host of ``url``.

    Raises:
        TransferError: The URL does not provide the file.
        OSError: If ``partial`` cannot be written.
    """
    if expected.size is not None and _size(partial) > expected.size:
        partial.unlink()
    delays = iter(RETRY_DELAYS)
    restarted = False
    while not _is_complete(partial, expected):
        size_before = _size(partial)
        try:
            _continue(url, partial, expected, progress, token)
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
            checksum = hash_file(partial, expected.algorithm)
            content = f"{_size(partial):,} bytes with {describe_checksum(expected.algorithm, checksum)}"
            partial.unlink()
            if restarted or not size_before:
                raise TransferError(f"the server sent a different file ({content}, expected {expected.checksum})")
            restarted = True


def storage_error(error: OSError, folder: Path, full: str, variable: str) -> WeightsUnavailableError:
    """Return the error for a file that cannot be stored.

    Args:
        error: The cause.
        folder: Where it is to be stored.
        full: A sentence that says that the disk is full.
        variable: The environment variable that sets the folder.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return WeightsUnavailableError(
            f"{full} Free some space and try again, which resumes the download, or set {variable} to a folder on"
            " another disk."
        )
    return WeightsUnavailableError(
        f"Cannot write to {folder}: {error.strerror or error}. Set {variable} to a writable folder."
    )


def describe_checksum(algorithm: str, checksum: str) -> str:
    """Return a checksum with the usual name of its algorithm."""
    return f"{ {'md5': 'MD5', 'sha256': 'SHA-256', 'git-sha1': 'Git blob ID'}[algorithm] } {checksum}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _continue(
    url: str, partial: Path, expected: ExpectedFile, progress: DownloadProgress | None, token: str | None
) -> None:
    """Append to ``partial``. If the server ignores the range, overwrite it without truncating it before the end."""
    max_size = MAX_SIZE if expected.size is None else expected.size
    with _open(url, _size(partial), token) as body, _open_partial(partial) as file:
        file.seek(body.start)
        done = body.start
        for chunk in body.chunks:
            file.write(chunk)
            done += len(chunk)
            if progress:
                progress(expected.name, done, body.total if expected.size is None else expected.size)
            if done > max_size:
                raise TransferError(f"the file has more than {max_size:,} bytes")
        file.truncate()
        file.flush()
        atomic.sync(file.fileno())


def _open_partial(partial: Path) -> IO[bytes]:
    partial.touch()
    return partial.open("r+b")


@contextmanager
def _open(url: str, start: int, token: str | None) -> Iterator[Body]:
    if not url.lower().startswith("file:"):
        with open_url(url, start=start, timeouts=TIMEOUTS, token=token) as body:
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


def _is_complete(partial: Path, expected: ExpectedFile) -> bool:
    # Read back from the disk instead of computed during the transfer, because this is the check that decides.
    size = _size(partial)
    if expected.size is None:
        return size > 0 and hash_file(partial, expected.algorithm) == expected.checksum
    return size == expected.size and partial.exists() and hash_file(partial, expected.algorithm) == expected.checksum
