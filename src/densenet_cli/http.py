"""Bytes from http and https, and nothing else: size limits, time limits, one-line reasons, no credentials in them.

``requests`` does the talking and is imported when the first URL comes. Added to it here: a time limit over the
whole transfer (its own is between two bytes, which a slow server can stretch for ever), redirects whose bodies
are never read and which lead to http and https only, and reasons fit for an error message.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urljoin, urlsplit

from densenet_cli.deadline import Deadline, watch_connections
from densenet_cli.errors import DownloadFailedError

CHUNK = 64 * 1024
MAX_REDIRECTS = 10
HEADERS = {"User-Agent": "densenet-cli", "Accept-Encoding": "identity"}
"""The encoding so that a byte range means a range of the file; a server that compresses all the same is understood."""

_REDIRECTS = {301, 302, 303, 307, 308}
_PASSING = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Limits:
    """Seconds: to connect, between two reads, and for everything together (None: no limit)."""

    connect: float = 10.0
    read: float = 20.0
    total: float | None = 60.0


@dataclass(frozen=True)
class Body:
    """What a server began to send.

    Attributes:
        start: offset in the file of the first byte of ``chunks`` (0 unless a range was asked for and given).
        total: bytes of the whole file, None where the server doesn't say.
        chunks: the bytes. Raises ``TransferError`` where they end early.
    """

    start: int
    total: int | None
    chunks: Iterator[bytes]


class TransferError(Exception):
    """A transfer that failed. Never leaves the package: an image's becomes ``DownloadFailed``.

    Attributes:
        reason: half a sentence, without the URL and without credentials.
        passing: whether the same request may well succeed in a moment.
    """

    def __init__(self, reason: str, *, passing: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.passing = passing


def fetch(url: str, *, limit: int, limits: Limits = Limits()) -> bytes:
    """Everything behind a URL.

    Args:
        url: http or https; redirects lead to nothing else.
        limit: the most bytes to take.
        limits: seconds to wait.

    Raises:
        DownloadFailed: with a one-line reason, free of credentials.
    """
    try:
        with open_url(url, limits=limits) as body:
            if body.total is not None and body.total > limit:
                raise TransferError(f"it has {body.total:,} bytes, and {limit:,} are allowed")
            data = bytearray()
            for chunk in body.chunks:
                data += chunk
                if len(data) > limit:
                    raise TransferError(f"it has more than the {limit:,} bytes allowed")
            return bytes(data)
    except TransferError as error:
        raise DownloadFailedError(f"The URL gave no image: {error.reason}.") from error


@contextmanager
def open_url(url: str, *, start: int = 0, limits: Limits = Limits()) -> Iterator[Body]:
    """Ask for a URL, from byte ``start`` on if the server can, and follow its redirects.

    Raises:
        TransferError: no connection, no such file, another scheme than http(s), too slow, cut off.
    """
    with Deadline(limits.total) as deadline, _session() as session:
        with _reasons(limits, deadline):
            watch_connections(session, deadline)
            response = _follow(session, url, start, limits)
        try:
            yield _body(response, limits, deadline)
        finally:
            response.close()


def redacted(url: str) -> str:
    """A URL as it may be shown, at its full length: without user and password, on one line, in printable characters."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where a password with a slash in it was taken for a port
        shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    except ValueError:
        shown = url.rpartition("@")[2]
    return _printable(shown)


def shortened(text: str) -> str:
    """No more of it than fits in a message: 300 characters."""
    return text if len(text) <= 300 else f"{text[:297]}..."


def _session() -> Any:
    import requests

    class Session(requests.Session):
        def get_redirect_target(self, resp: Any) -> None:
            """None: requests reads a redirect's body to its end, however long, even when told not to follow it."""

    return Session()


def _follow(session: Any, url: str, start: int, limits: Limits) -> Any:
    """The first response that is no redirect: status 200, or 206 with the range that was asked for."""
    for _ in range(MAX_REDIRECTS + 1):
        _check_scheme(url)
        response = session.get(
            url,
            headers=HEADERS | ({"Range": f"bytes={start}-"} if start else {}),
            stream=True,
            timeout=(limits.connect, limits.read),
        )
        status = response.status_code
        if status == 200 or (status == 206 and _begin(response) == start):
            return response
        response.close()
        if status in (206, 416) and start:
            # The file is not what it was, or the server can't count: all of it, then.
            start = 0
        elif status in _REDIRECTS and response.headers.get("Location"):
            url = urljoin(url, response.headers["Location"])
        else:
            raise TransferError(f"the server answered {_status(status)}", passing=status in _PASSING)
    raise TransferError(f"more than {MAX_REDIRECTS} redirects")


def _check_time(deadline: Deadline) -> None:
    if deadline.over:
        raise TransferError(f"it was not done within {deadline.seconds:g} seconds", passing=True)


def _check_scheme(url: str) -> None:
    scheme = url.partition(":")[0].lower()
    if scheme not in ("http", "https"):
        raise TransferError(f"{_printable(scheme)[:20]}: is not fetched, only http: and https: are")


def _body(response: Any, limits: Limits, deadline: Deadline) -> Body:
    if response.status_code == 206:
        total = _number(response.headers["Content-Range"].rpartition("/")[2])
    else:
        total = None if _compressed(response) else _number(response.headers.get("Content-Length", ""))

    def chunks() -> Iterator[bytes]:
        with _reasons(limits, deadline):
            yield from response.iter_content(CHUNK)
            # A connection that was cut at the deadline looks like an end where no length was announced.
            _check_time(deadline)

    return Body(_begin(response) or 0, total, chunks())


def _begin(response: Any) -> int | None:
    """Offset of a partial response's first byte, from ``Content-Range: bytes 100-199/200``; None where it is none."""
    said = response.headers.get("Content-Range", "").strip()
    if response.status_code != 206 or not said.startswith("bytes") or _compressed(response):
        return None
    return _number(said.removeprefix("bytes").partition("-")[0])


def _compressed(response: Any) -> bool:
    return response.headers.get("Content-Encoding", "").strip().lower() not in ("", "identity")


def _number(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isdecimal() and len(text) < 20 else None


def _status(code: int) -> str:
    """The number and its standard phrase; the server's own words are not to be trusted on a terminal."""
    with suppress(ValueError):
        return f"{code} {HTTPStatus(code).phrase}"
    return str(code)


@contextmanager
def _reasons(limits: Limits, deadline: Deadline) -> Iterator[None]:
    """Turn whatever requests, urllib3, http.client and the sockets raise into a ``TransferError``."""
    from http.client import HTTPException

    import requests
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (requests.RequestException, HTTPError, HTTPException, OSError, ValueError) as error:
        _check_time(deadline)
        raise _reason(error, limits) from error


def _reason(error: Exception, limits: Limits) -> TransferError:
    """What went wrong, from the types and error numbers of the chain: the messages hold URLs and proxies' passwords."""
    from http.client import BadStatusLine

    import requests
    from urllib3 import exceptions as urllib3

    causes = list(_causes(error))

    def among(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if among(requests.exceptions.ProxyError, urllib3.ProxyError, requests.exceptions.InvalidProxyURL):
        return TransferError("the proxy that the environment names can't be used")
    if among(requests.exceptions.ConnectTimeout):
        return TransferError(f"no connection within {limits.connect:g} seconds")
    if among(requests.exceptions.ReadTimeout, urllib3.ReadTimeoutError, TimeoutError):
        return TransferError(f"the server sent nothing for {limits.read:g} seconds", passing=True)
    if among(socket.gaierror):
        return TransferError("the name of the server is not known here (no network?)")
    if among(requests.exceptions.SSLError):
        problem = next((str(cause.verify_message) for cause in causes if hasattr(cause, "verify_message")), "")
        return TransferError(
            "the secure connection failed" + (f": {shortened(_printable(problem))}" if problem else "")
        )
    if among(ConnectionRefusedError):
        return TransferError("the server refuses connections")
    if among(requests.exceptions.ContentDecodingError, urllib3.DecodeError):
        return TransferError("the server's compression is damaged")
    if among(BadStatusLine) and not among(ConnectionError):
        return TransferError("the answer was not HTTP")
    if among(requests.exceptions.ChunkedEncodingError, urllib3.ProtocolError, ConnectionError):
        return TransferError("the server cut the connection", passing=True)
    numbered = next((cause for cause in reversed(causes) if isinstance(cause, OSError) and cause.strerror), None)
    if numbered:
        return TransferError(shortened(_printable(str(numbered.strerror)).lower()))
    if among(ValueError):
        return TransferError("that is no valid URL")
    return TransferError("no connection to the server")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and everything it was raised from or wraps."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        found = waiting.pop(0)
        if isinstance(found, BaseException) and id(found) not in seen:
            seen.add(id(found))
            yield found
            waiting += [found.__cause__, found.__context__, getattr(found, "reason", None), *found.args]


def _printable(text: str) -> str:
    """On one line, and nothing in it that moves a terminal's cursor."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
