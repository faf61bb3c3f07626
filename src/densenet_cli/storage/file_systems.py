"""Opening file systems: the package for a scheme, its time limits, and one connection pool for all threads."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, TypeVar

from densenet_cli.errors import UsageError
from densenet_cli.storage.errors import has_credentials, redact
from densenet_cli.storage.presigned import PresignedReader
from densenet_cli.text import to_printable

T = TypeVar("T")

CONNECTIONS = 64
"""Connections that a file system may open at the same time."""

CONNECT_TIMEOUT = 5
READ_TIMEOUT = 20
"""Seconds without any data. The libraries retry a failed request a few times."""

_ATTEMPTS = 3
"""Of botocore for each request, and of s3fs for each request and for reading the body of its response."""

_S3 = ("s3", "s3a")

_PACKAGES = {
    **dict.fromkeys(_S3, "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), "adlfs"),
    "hf": "huggingface_hub",
    "oss": "ossfs",
    "oci": "ocifs",
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
    "smb": "smbprotocol",
    "hdfs": "pyarrow",
    "github": "requests",
    "dropbox": "dropboxdrivefs",
    "webdav": "webdav4",
}
"""Scheme -> the package to install for it, beside fsspec."""

_SERVER = re.compile(r"[^/:]*:[0-9]{1,5}(/|$)")
"""What is a server and a port, not a bucket."""

_lock = threading.Lock()
_opened: dict[tuple[str, str], tuple[Any, PresignedReader | None]] = {}
_thread = threading.local()


class FileSystem(NamedTuple):
    """A file system, and the path on it that a URL names.

    Attributes:
        fs: The ``fsspec.AbstractFileSystem``.
        path: The path, without the scheme.
        scheme: The scheme in lower case.
        reader: Reads objects of S3.
    """

    fs: Any
    path: str
    scheme: str
    reader: PresignedReader | None = None

    @property
    def is_s3(self) -> bool:
        """Whether it has the API of S3."""
        return self.scheme in _S3


def open_filesystem(url: str) -> FileSystem:
    """Return the file system of a URL, and the path on it.

    All threads share a file system that works asynchronously, such as that of S3, and its connections. Of others, for
    example FTP, each thread has its own.

    Raises:
        UsageError: The scheme is unknown, its package is missing, or the URL contains credentials for S3.
        Exception: The file system cannot be opened. See ``errors.storage_errors``.
    """
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    url = f"{scheme}{separator}{rest}"  # libraries expect it in lower case
    if scheme in _S3 and has_credentials(url):
        raise UsageError(
            f"{redact(url)} was given with credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead."
        )
    if scheme in _S3 and _SERVER.match(rest):
        raise UsageError(f"{to_printable(url)} names a server. Set AWS_ENDPOINT_URL to it, and omit it in URLs.")
    cls = _file_system_class(scheme)
    options = cls._get_kwargs_from_urls(url)
    path: str = cls._strip_protocol(url)
    key = scheme, repr(sorted(options.items()))
    if getattr(cls, "async_impl", False):
        with _lock:
            if key not in _opened:
                fs = cls(**_settings(scheme), **options)
                reader = None
                if scheme in _S3:
                    fs.retries = _ATTEMPTS
                    reader = PresignedReader(fs, CONNECTIONS, CONNECT_TIMEOUT, READ_TIMEOUT)
                _opened[key] = fs, reader
            fs, reader = _opened[key]
            return FileSystem(fs, path, scheme, reader)
    opened = vars(_thread).setdefault("opened", {})
    if key not in opened:
        opened[key] = cls(**_settings(scheme), **options)
    return FileSystem(opened[key], path, scheme)


def _file_system_class(scheme: str) -> Any:
    try:
        import fsspec
    except ImportError:
        package = _PACKAGES.get(scheme, "")
        raise UsageError(f"{scheme}:// needs other packages. Run: pip install {f'fsspec {package}'.strip()}") from None
    try:
        return fsspec.get_filesystem_class(scheme)
    except ImportError:
        hint = f" Run: pip install {_PACKAGES[scheme]}" if scheme in _PACKAGES else " See the documentation of fsspec."
        raise UsageError(f"{scheme}:// needs another package.{hint}") from None
    except ValueError:
        raise UsageError(f"The URL scheme {to_printable(scheme)[:20]}:// is not supported.") from None


def _settings(scheme: str) -> dict[str, Any]:
    """Return the arguments of a file system besides those in the URL. None of them caches what was listed."""
    settings: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme in _S3:
        settings["config_kwargs"] = {
            "signature_version": "s3v4",  # presigned URLs would have an older one, which many servers refuse
            "connect_timeout": CONNECT_TIMEOUT,
            "read_timeout": READ_TIMEOUT,
            "max_pool_connections": CONNECTIONS,
            "retries": {"mode": "standard", "total_max_attempts": _ATTEMPTS},
        }
    return settings


def close_all() -> None:
    """Forget all shared file systems, so that later ones use the environment of that time. For tests."""
    with _lock:
        _opened.clear()


def call(fs: Any, method: str, *args: Any, timeout: float, **kwargs: Any) -> Any:
    """Call a method of a file system, for at most ``timeout`` seconds if the file system allows to stop it.

    Raises:
        TimeoutError: It took longer.
        Exception: The method failed.
    """
    if getattr(fs, "async_impl", False) and hasattr(fs, f"_{method}"):
        return run(fs, lambda: getattr(fs, f"_{method}")(*args, **kwargs), timeout)
    return getattr(fs, method)(*args, **kwargs)


def run(fs: Any, function: Callable[[], Coroutine[Any, Any, T]], timeout: float) -> T:
    """Run a coroutine in the event loop of a file system for at most ``timeout`` seconds, and return its result.

    Raises:
        TimeoutError: It took longer.
    """
    import asyncio

    from fsspec.asyn import sync

    async def limited() -> T:
        async with asyncio.timeout(timeout):  # unlike wait_for, without another task
            return await function()

    result: T = sync(fs.loop, limited)
    return result
