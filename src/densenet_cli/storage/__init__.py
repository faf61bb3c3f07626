"""Object storage and other remote file systems, through fsspec: ``s3://``, ``gs://``, ``az://``, and many more.

fsspec and the packages for each scheme are imported when the first URL is opened. Credentials come from where those
packages look for them. No message contains credentials, or text of a server or a library, which may contain them.

Functions that read raise an ``ImageError``, and functions that write raise ``OutputError``. ``file_systems.py`` opens
file systems, ``listing.py`` lists folders in order and page by page, and ``errors.py`` describes errors.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, NamedTuple, Self

from densenet_cli.errors import OutputError, SourceUnreadableError, UsageError
from densenet_cli.paths import is_remote
from densenet_cli.storage.errors import MISSING, StorageError, image_error, redact, storage_errors
from densenet_cli.storage.file_systems import FileSystem, call, open_filesystem, run
from densenet_cli.storage.listing import Listed, list_folder, list_tree

__all__ = [
    "FileStatus",
    "Listed",
    "Stream",
    "check_readable",
    "check_writable",
    "download",
    "exists",
    "is_remote",
    "join",
    "list_folder",
    "list_tree",
    "open_filesystem",
    "open_stream",
    "output_errors",
    "put",
    "read",
    "redact",
    "remove",
    "status",
    "upload",
]

READ_TIMEOUT = 120.0
"""Seconds in which a file must be read. Single requests have shorter limits of their own."""

_ATOMIC = frozenset(("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "hf", "oss", "oci", "tos", "memory"))
"""Schemes of storage where a file is replaced at once when it is complete."""

_BLOCK_SIZE = 8 << 20

_MAX_BLOCKS = 4
"""Blocks of a stream that are held in memory."""


class FileStatus(NamedTuple):
    """What is at a URL.

    Attributes:
        is_folder: Whether it is a folder.
        size: The number of bytes of a file.
        version: Changes with the contents of a file: its ETag or time of modification; empty if unknown.
    """

    is_folder: bool
    size: int = 0
    version: str = ""


def join(url: str, *names: str) -> str:
    """Return the URL of a file or folder below the folder ``url``."""
    return "/".join([url.rstrip("/") if not url.endswith("://") else url[:-1], *names])


def status(url: str) -> FileStatus | None:
    """Return what is at a URL, or None. Raises ``ImageError``."""
    try:
        with storage_errors(url):
            return _status(open_filesystem(url))
    except StorageError as error:
        if error.kind == MISSING:
            return None
        raise image_error(error) from None
    except UsageError as error:
        raise SourceUnreadableError(str(error)) from None


def _status(files: FileSystem) -> FileStatus:
    return _to_status(files.fs.info(files.path))


def _to_status(info: Mapping[str, Any]) -> FileStatus:
    version = next((info[key] for key in ("ETag", "etag", "md5Hash", "sha", "commit", "mtime") if info.get(key)), None)
    version = version or next((info[key] for key in ("LastModified", "last_modified", "created") if info.get(key)), "")
    return FileStatus(info["type"] == "directory", info.get("size") or 0, str(version))


def exists(url: str) -> bool:
    """Return whether there is a file or folder. Raises ``ImageError`` if that cannot be found out."""
    return status(url) is not None


def read(url: str, limit: int) -> bytes:
    """Return the contents of a file, or ``limit + 1`` bytes of a longer one. Thread-safe.

    Raises:
        SourceNotFoundError, SourceUnreadableError, DownloadFailedError: The file cannot be read.
    """
    try:
        with storage_errors(url):
            files = open_filesystem(url)
            if (reader := files.reader) is not None:
                return run(files.fs, lambda: reader.read(files.path, limit + 1), READ_TIMEOUT)
            return bytes(call(files.fs, "cat_file", files.path, start=0, end=limit + 1, timeout=READ_TIMEOUT))
    except StorageError as error:
        if error.code == "InvalidRange":  # an empty file has no range of bytes
            return b""
        raise image_error(error) from None
    except UsageError as error:
        raise SourceUnreadableError(str(error)) from None


class Stream:
    """A file, read in blocks, of which the next one is read ahead. A context manager, which closes it.

    Raises:
        ImageError: It cannot be opened. All methods raise it.

    Attributes:
        status: What was opened, or None if that is unknown.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._file: Any = None
        self._file = self._call(self._open)
        info = getattr(self._file, "details", None)  # which were requested to open the file
        self.status = _to_status(info) if isinstance(info, Mapping) and "type" in info else None

    def _open(self) -> Any:
        files = open_filesystem(self._url)
        options: dict[str, Any] = {"cache_type": "background", "cache_options": {"maxblocks": _MAX_BLOCKS}}
        return files.fs.open(files.path, "rb", block_size=_BLOCK_SIZE, **options)

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, fewer at the end of the file."""
        data: bytes = self._call(lambda: self._file.read(size))
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to an offset, and return it from the start."""
        position: int = self._call(lambda: self._file.seek(offset, whence))
        return position

    def _call(self, method: Callable[[], Any]) -> Any:
        try:
            with storage_errors(self._url):
                return method()
        except StorageError as error:
            raise image_error(error) from None
        except UsageError as error:
            raise SourceUnreadableError(str(error)) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def open_stream(url: str) -> Stream:
    """Open a file for reading. Raises ``ImageError``."""
    return Stream(url)


@contextmanager
def output_errors(url: str, hint: str = "") -> Iterator[None]:
    """Turn every error of storage in the block into an OutputError.

    Args:
        url: The URL that the message names.
        hint: A sentence that tells the user what is kept or what to do.
    """
    try:
        with storage_errors(url):
            yield
    except StorageError as error:
        raise OutputError(f"Cannot write {redact(url)}: {error}. {hint}".rstrip()) from None


def put(url: str, data: bytes) -> None:
    """Create or replace a file, completely or not at all. Missing folders are created.

    Raises:
        OutputError: The file cannot be written.
    """
    with output_errors(url):
        files = open_filesystem(url)
        _replace(files, lambda path: files.fs.pipe_file(path, data))


def upload(path: str | os.PathLike[str], url: str, size: int | None = None) -> None:
    """Create or replace a file with the contents of a local one, or its first ``size`` bytes. Like ``put``.

    Raises:
        OutputError: The file cannot be written.
        OSError: The local file cannot be read.
    """
    with open(path, "rb") as file:
        length = os.fstat(file.fileno()).st_size if size is None else size
        if length <= _BLOCK_SIZE:
            put(url, file.read(length))
            return
        with output_errors(url):
            files = open_filesystem(url)
            _replace(files, lambda target: _copy(files.fs, file, target, length))


def _copy(fs: Any, file: IO[bytes], path: str, length: int) -> None:
    target = fs.open(path, "wb", block_size=4 * _BLOCK_SIZE)
    try:
        while length and (data := file.read(min(_BLOCK_SIZE, length))):
            target.write(data)
            length -= len(data)
    except BaseException:
        if hasattr(target, "discard"):  # an upload that is never completed
            target.discard()
            target.closed = True
        raise
    target.close()


def _replace(files: FileSystem, write: Any) -> None:
    """Call ``write`` with the path to write to. Where a file is visible while it is written, it is renamed after it."""
    if files.scheme in _ATOMIC:
        write(files.path)
        return
    parent = files.path.rpartition("/")[0]
    if parent:
        files.fs.makedirs(parent, exist_ok=True)
    partial = f"{files.path}.part"
    write(partial)
    try:
        files.fs.mv(partial, files.path)
    except OSError:  # some servers do not replace a file
        files.fs.rm_file(files.path)
        files.fs.mv(partial, files.path)


def download(url: str, path: str | os.PathLike[str]) -> None:
    """Copy a file to this machine.

    Raises:
        OutputError: The file cannot be read, or not be written here.
    """
    try:
        with storage_errors(url):
            files = open_filesystem(url)
            files.fs.get_file(files.path, os.fspath(path))
    except StorageError as error:
        raise OutputError(f"Cannot read {redact(url)}: {error}.") from None


def remove(url: str) -> None:
    """Delete a file, if it exists. Raises ``OutputError``."""
    try:
        with storage_errors(url):
            files = open_filesystem(url)
            files.fs.rm_file(files.path)
    except StorageError as error:
        if error.kind != MISSING:
            raise OutputError(f"Cannot delete {redact(url)}: {error}.") from None


def check_writable(url: str) -> None:
    """Check that a file can be written, without leaving anything behind.

    Raises:
        OutputError: It cannot, for example because the bucket does not exist or permission is denied.
        UsageError: The package for the scheme is missing.
    """
    with output_errors(url):
        files = open_filesystem(url)
        if files.is_s3:
            # An upload in parts that is never completed needs the permission to write, and creates nothing.
            bucket, key, _ = files.fs.split_path(files.path)
            upload = files.fs.call_s3("create_multipart_upload", Bucket=bucket, Key=key)
            files.fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload["UploadId"])
            return
        parent = files.path.rpartition("/")[0]
        if files.scheme not in _ATOMIC and parent:
            files.fs.makedirs(parent, exist_ok=True)
        probe = f"{files.path}.part"
        files.fs.pipe_file(probe, b"")
        files.fs.rm_file(probe)


def check_readable(url: str) -> None:
    """Check that storage can be accessed. A file or folder that is missing in an existing bucket is no error.

    Raises:
        UsageError: The package for the scheme or a bucket is missing, or access is denied.
    """
    try:
        with storage_errors(url):
            files = open_filesystem(url)
            if not files.path:
                raise UsageError(f"{redact(url)} does not name a bucket or a path.")
            try:
                files.fs.info(files.path)
            except Exception:
                # S3 sends no reason with the headers of an object: a list of one shows whether the bucket is missing,
                # or what is wrong with the credentials.
                if files.is_s3:
                    bucket = files.fs.split_path(files.path)[0]
                    files.fs.call_s3("list_objects_v2", Bucket=bucket, MaxKeys=1)
                raise
    except StorageError as error:
        if error.kind == MISSING and error.code != "NoSuchBucket":
            return
        raise UsageError(f"Cannot read {redact(url)}: {error}.") from None
