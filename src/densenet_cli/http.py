"""HTTP downloads with limits on size and time, and errors that contain no credentials.

``requests`` does the transfer and is imported when the first URL is opened. This module adds a limit for the time of
the whole transfer, redirects whose bodies are not read and which lead only to http and https, and short error messages.
A token is sent to the host of the URL only, never to one that it redirects to.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from densenet_cli.errors import DownloadFailedError
from densenet_cli.text import to_printable
from densenet_cli.transfer_errors import TooLargeError, TransferError, describe_status, transfer_error

if TYPE_CHECKING:
    from collections.abc import Mapping

CHUNK_SIZE = 64 * 1024
MAX_REDIRECTS = 10
HEADERS = {"User-Agent": "densenet-cli", "Accept-Encoding": "identity"}
"""No compression, so that a byte range is a range of the file. Servers that compress anyway are understood."""

_REDIRECT_STATUSES = {301, 302, 303, 307, 308}
_TRANSIENT_STATUSES = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Timeouts:
    """Time limits in seconds: to connect, between two reads, and for the whole transfer (None: no limit)."""

    connect: float = 10.0
    read: float = 20.0
    total: float | None = 60.0


@dataclass(frozen=True)
class Body:
    """The body of a response.

    Attributes:
        start: Offset in the file of the first byte of ``chunks``. It is 0 unless the server honored a range request.
        total: Size of the whole file in bytes, or None if the server does not state it.
        chunks: The bytes. Iteration raises ``TransferError`` if the transfer fails.
    """

    start: int
    total: int | None
    chunks: Iterator[bytes]


def fetch(url: str, *, max_bytes: int, timeouts: Timeouts = Timeouts()) -> bytes:
    """Return the body of an http or https URL.

    Raises:
        DownloadFailedError: The transfer fails or the body has more than ``max_bytes`` bytes.
    """
    try:
        return read_body(url, max_bytes=max_bytes, timeouts=timeouts)
    except TransferError as error:
        message = str(error)
        raise DownloadFailedError(f"{message[0].upper()}{message[1:]}.") from error


def read_body(url: str, *, max_bytes: int, timeouts: Timeouts = Timeouts(), token: str | None = None) -> bytes:
    """Return the body of an http or https URL. Raises ``TransferError``. See ``fetch`` and ``open_url``."""
    with open_url(url, timeouts=timeouts, token=token) as body:
        data = bytearray()
        if body.total is not None and body.total > max_bytes:
            raise TooLargeError(f"the file has {body.total:,} bytes; the limit is {max_bytes:,}")
        for chunk in body.chunks:
            data += chunk
            if len(data) > max_bytes:
                raise TooLargeError(f"the file has more than {max_bytes:,} bytes, which is the limit")
        return bytes(data)


@contextmanager
def open_url(url: str, *, start: int = 0, timeouts: Timeouts = Timeouts(), token: str | None = None) -> Iterator[Body]:
    """Request an http or https URL and follow redirects.

    Args:
        url: The URL. It may contain credentials.
        start: Offset of the first byte to request. A server may ignore it; ``Body.start`` is what it sends.
        timeouts: The time limits.
        token: A bearer token for the host of ``url``.

    Raises:
        TransferError: There is no successful response.
    """
    with Deadline(timeouts.total) as deadline, _session(deadline) as session:
        with _convert_errors(timeouts, deadline):
            response = _request(session, "GET", url, start, timeouts, token)
        try:
            yield _body(response, timeouts, deadline)
        finally:
            response.close()


def read_headers(
    url: str, *, stop_at: str, timeouts: Timeouts = Timeouts(), token: str | None = None
) -> Mapping[str, str]:
    """Return the headers of an http or https URL without its body. Their names are case-insensitive.

    Args:
        url: The URL.
        stop_at: The name of a header. A redirect that has it is not followed.
        timeouts: The time limits.
        token: A bearer token for the host of ``url``.

    Raises:
        TransferError: There is no successful response.
    """
    with Deadline(timeouts.total) as deadline, _session(deadline) as session, _convert_errors(timeouts, deadline):
        response = _request(session, "HEAD", url, 0, timeouts, token, stop_at)
        response.close()
        deadline.check()  # Headers that it cut off may be valid.
        headers: Mapping[str, str] = response.headers
        return headers


class Deadline:
    """Closes all connections of a transfer when its time is over.

    The read timeout of ``requests`` limits the time between two bytes, so a server that sends single bytes could keep a
    connection open forever. The deadline holds duplicates of the sockets, which are valid under TLS and during a
    blocking read.
    """

    def __init__(self, seconds: float | None) -> None:
        self.expired = False
        self.seconds = seconds
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._expire) if seconds is not None else None

    def __enter__(self) -> Deadline:
        if self._timer:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer.join()
        for connection in self._sockets:
            connection.close()

    def watch(self, connection: socket.socket) -> None:
        """Close this connection, too, when the time is over."""
        if self._timer:
            self._sockets.append(connection.dup())
            if self.expired:
                self._expire()

    def check(self) -> None:
        """Raise ``TransferError`` if the time is over."""
        if self.expired:
            raise TransferError(f"the transfer took longer than {self.seconds:g} s", transient=True)

    def _expire(self) -> None:
        self.expired = True
        for connection in list(self._sockets):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def _session(deadline: Deadline) -> Any:
    """Return a session whose connections, to servers and to proxies, are watched by ``deadline`` before TLS starts."""
    import requests
    from requests.adapters import HTTPAdapter

    def watched(pool: Any) -> Any:
        class Connection(pool.ConnectionCls):  # type: ignore[misc]
            def _new_conn(self) -> Any:
                connection = super()._new_conn()
                deadline.watch(connection)
                return connection

        return type(pool.__name__, (pool,), {"ConnectionCls": Connection})

    def watch(manager: Any) -> None:
        pools = manager.pool_classes_by_scheme
        manager.pool_classes_by_scheme = {scheme: watched(pool) for scheme, pool in pools.items()}

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, **kwargs)
            watch(self.poolmanager)

        def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
            is_new = proxy not in self.proxy_manager
            manager = super().proxy_manager_for(proxy, **kwargs)
            if is_new:
                watch(manager)
            return manager

    class Session(requests.Session):
        def get_redirect_target(self, resp: Any) -> None:
            """Return None: requests would read the body of a redirect, however long, even if told not to follow it."""

    session = Session()
    session.mount("http://", Adapter())
    session.mount("https://", Adapter())
    return session


def _request(
    session: Any, method: str, url: str, start: int, timeouts: Timeouts, token: str | None, stop_at: str = ""
) -> Any:
    """Return the first response with status 200, 206 with the requested range, or a redirect with header ``stop_at``.

    The token is dropped for good by the first redirect to another scheme, host, or port.
    """
    origin = _origin(url)
    for _ in range(MAX_REDIRECTS + 1):
        scheme = url.partition(":")[0].lower()
        if scheme not in ("http", "https"):
            raise TransferError(f"the URL scheme '{to_printable(scheme)[:20]}' is not supported; use http or https")
        if _origin(url) != origin:
            token = None
        headers = HEADERS | ({"Range": f"bytes={start}-"} if start else {})
        response = session.request(
            method,
            url,
            headers=headers,
            auth=_authorize(token) if token else None,
            stream=True,
            timeout=(timeouts.connect, timeouts.read),
        )
        status = response.status_code
        if status == 200 or (status == 206 and _range_start(response) == start):
            return response
        response.close()
        if status in (206, 416) and start:
            # The file has changed, or the server sent another range. Request the whole file.
            start = 0
        elif status in _REDIRECT_STATUSES and stop_at in response.headers:
            return response
        elif status in _REDIRECT_STATUSES and response.headers.get("Location"):
            url = urljoin(url, response.headers["Location"])
        else:
            raise TransferError(
                f"the server returned {describe_status(status)}",
                transient=status in _TRANSIENT_STATUSES,
                status=status,
                code=response.headers.get("X-Error-Code", ""),
            )
    raise TransferError(f"the server redirected more than {MAX_REDIRECTS} times")


def _origin(url: str) -> tuple[str, str, int | None]:
    """Return the scheme, host, and port of a URL."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(scheme)


def _authorize(token: str) -> Callable[[Any], Any]:
    """Return a function that adds a bearer token to a request. Unlike a header, it takes precedence over ``.netrc``."""

    def authorize(request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {token}"
        return request

    return authorize


def _body(response: Any, timeouts: Timeouts, deadline: Deadline) -> Body:
    if response.status_code == 206:
        total = _parse_size(response.headers["Content-Range"].rpartition("/")[2])
    else:
        total = None if _is_compressed(response) else _parse_size(response.headers.get("Content-Length", ""))

    def chunks() -> Iterator[bytes]:
        with _convert_errors(timeouts, deadline):
            yield from response.iter_content(CHUNK_SIZE)
            # Without a Content-Length, a connection that the deadline closed looks like the end of the body.
            deadline.check()

    return Body(_range_start(response) or 0, total, chunks())


def _range_start(response: Any) -> int | None:
    """Parse the offset of the first byte of a partial response from ``Content-Range: bytes 100-199/200``."""
    content_range = response.headers.get("Content-Range", "").strip()
    if response.status_code != 206 or not content_range.startswith("bytes") or _is_compressed(response):
        return None
    return _parse_size(content_range.removeprefix("bytes").partition("-")[0])


def _is_compressed(response: Any) -> bool:
    return response.headers.get("Content-Encoding", "").strip().lower() not in ("", "identity")


def _parse_size(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isdecimal() and len(text) < 20 else None


@contextmanager
def _convert_errors(timeouts: Timeouts, deadline: Deadline) -> Iterator[None]:
    """Convert the exceptions of requests, urllib3, http.client, and socket to ``TransferError``."""
    from http.client import HTTPException

    import requests
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (requests.RequestException, HTTPError, HTTPException, OSError, ValueError) as error:
        deadline.check()
        raise transfer_error(error, timeouts.connect, timeouts.read) from error
