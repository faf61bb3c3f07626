"""Errors of transfers: clauses for messages, without URLs, credentials, and unprintable characters."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from http import HTTPStatus
from urllib.parse import urlsplit

from densenet_cli.text import to_printable

MAX_SHOWN_LENGTH = 300


class TransferError(Exception):
    """A transfer failed. Internal: callers convert it to an exception of ``errors``.

    The message is a clause without the URL and without credentials, such as "the server returned 404 Not Found".

    Attributes:
        transient: Whether the same request may succeed if it is retried.
        status: The HTTP status, or None if there was no response.
        code: The reason that a Hugging Face Hub states, such as ``EntryNotFound``, or "".
    """

    def __init__(self, message: str, *, transient: bool = False, status: int | None = None, code: str = "") -> None:
        super().__init__(message)
        self.transient = transient
        self.status = status
        self.code = code


class TooLargeError(TransferError):
    """The body of a response is longer than the limit."""


def redact(url: str) -> str:
    """Return a URL without credentials, with unprintable characters escaped."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError if part of a password with a slash was parsed as the port
        redacted = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    except ValueError:
        redacted = url.rpartition("@")[2]
    return to_printable(redacted)


def shorten(text: str) -> str:
    """Truncate text for a message to ``MAX_SHOWN_LENGTH`` characters."""
    return text if len(text) <= MAX_SHOWN_LENGTH else f"{text[: MAX_SHOWN_LENGTH - 3]}..."


def describe_status(code: int) -> str:
    """Return the status code and its standard phrase. The server's own phrase is not safe to print."""
    with suppress(ValueError):
        return f"{code} {HTTPStatus(code).phrase}"
    return str(code)


def transfer_error(error: Exception, connect_timeout: float, read_timeout: float) -> TransferError:
    """Describe an error by the types in its chain, because the messages contain URLs and proxy passwords."""
    from http.client import BadStatusLine

    import requests
    from urllib3 import exceptions as urllib3

    chain = list(causes(error))

    def has(*types: type[BaseException]) -> bool:
        return any(isinstance(cause, types) for cause in chain)

    if has(requests.exceptions.ProxyError, urllib3.ProxyError, requests.exceptions.InvalidProxyURL):
        return TransferError("cannot connect to the proxy that the environment specifies")
    if has(requests.exceptions.ConnectTimeout):
        return TransferError(f"cannot connect within {connect_timeout:g} s")
    if has(requests.exceptions.ReadTimeout, urllib3.ReadTimeoutError, TimeoutError):
        return TransferError(f"the server sent no data for {read_timeout:g} s", transient=True)
    if has(socket.gaierror):
        return TransferError("cannot resolve the host name; check the network connection")
    if has(requests.exceptions.SSLError):
        problem = next((str(cause.verify_message) for cause in chain if hasattr(cause, "verify_message")), "")
        return TransferError("the TLS connection failed" + (f": {shorten(to_printable(problem))}" if problem else ""))
    if has(ConnectionRefusedError):
        return TransferError("the server refused the connection")
    if has(requests.exceptions.ContentDecodingError, urllib3.DecodeError):
        return TransferError("the server sent damaged compressed data")
    if has(BadStatusLine) and not has(ConnectionError):
        return TransferError("the response is not valid HTTP")
    if has(requests.exceptions.ChunkedEncodingError, urllib3.ProtocolError, ConnectionError):
        return TransferError("the server closed the connection early", transient=True)
    os_error = next((cause for cause in reversed(chain) if isinstance(cause, OSError) and cause.strerror), None)
    if os_error:
        return TransferError(shorten(to_printable(str(os_error.strerror)).lower()))
    if has(ValueError):
        return TransferError("the URL is invalid")
    return TransferError("cannot connect to the server")


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and everything that it was raised from or wraps."""
    seen: set[int] = set()
    queue: list[object] = [error]
    while queue:
        cause = queue.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            queue += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]
