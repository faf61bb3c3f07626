"""An HTTP server on the loopback interface with configurable faults.

``FaultyServer`` takes one handler per request; the last one handles all further requests. A handler is a function of
the request that writes the response directly to the socket, so that no library corrects it.
"""

from __future__ import annotations

import gzip
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from socketserver import StreamRequestHandler, ThreadingTCPServer
from types import TracebackType
from typing import Self


@dataclass
class Request:
    """The request of a client, and the connection for the response."""

    line: str
    headers: dict[str, str]
    connection: socket.socket
    shutdown: threading.Event

    @property
    def path(self) -> str:
        return self.line.split()[1]

    @property
    def start(self) -> int:
        """Offset of the first requested byte."""
        return int(self.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))

    def head(self, status: int, **headers: object) -> None:
        """Send the status line and headers. Underscores in names stand for hyphens."""
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)


Handler = Callable[[Request], None]


@dataclass
class FaultyServer:
    """A server, for use as a context manager. ``requests`` are the received ones in order."""

    handlers: list[Handler]
    requests: list[Request] = field(default_factory=list)

    def __init__(self, *handlers: Handler) -> None:
        self.handlers, self.requests = list(handlers), []
        self._shutdown = threading.Event()
        self._lock = threading.Lock()
        server = self

        class RequestHandler(StreamRequestHandler):
            def handle(self) -> None:
                server._handle(self)

        class Server(ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 64

        self._server = Server(("127.0.0.1", 0), RequestHandler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shutdown.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handle(self, stream: StreamRequestHandler) -> None:
        try:
            if stream.connection.recv(1, socket.MSG_PEEK) == b"\x16":
                stream.wfile.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")  # a TLS handshake
                return
            line = stream.rfile.readline().decode("latin-1").strip()
            headers = {}
            while text := stream.rfile.readline().decode("latin-1").strip():
                name, _, value = text.partition(":")
                headers[name.lower()] = value.strip()
            if not line:
                return
            request = Request(line, headers, stream.connection, self._shutdown)
            with self._lock:
                self.requests.append(request)
                handler = self.handlers.pop(0) if len(self.handlers) > 1 else self.handlers[0]
            handler(request)
        except (ConnectionError, OSError):
            pass  # the client has disconnected, as many tests intend


def _send_head(request: Request, data: bytes, ranges: bool = True, **headers: object) -> bytes:
    """Send the head of a response for ``data`` or the requested range of it, and return the body to send."""
    start = request.start if ranges else 0
    if start >= len(data) and start:
        request.head(416, Content_Range=f"bytes */{len(data)}", Content_Length=0)
        return b""
    if start:
        headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
    request.head(206 if start else 200, **({"Content_Length": len(data) - start} | headers))
    return data[start:]


def serving(data: bytes, ranges: bool = True) -> Handler:
    """Send ``data`` correctly. Without ``ranges``, ignore range requests."""

    def handle(request: Request) -> None:
        request.send(_send_head(request, data, ranges))

    return handle


def disconnecting(data: bytes, after: int, ranges: bool = True, reset: bool = False) -> Handler:
    """Close the connection after ``after`` bytes of the body. With ``reset``, send a TCP reset."""

    def handle(request: Request) -> None:
        request.send(_send_head(request, data, ranges)[:after])
        if reset:
            time.sleep(0.05)  # a reset drops what the client has not read yet
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.connection.close()

    return handle


def stalling(data: bytes, after: int) -> Handler:
    """Send ``after`` bytes of the body, then nothing, but keep the connection open."""

    def handle(request: Request) -> None:
        request.send(_send_head(request, data)[:after])
        request.shutdown.wait(30)

    return handle


def silent(request: Request) -> None:
    """Send no response."""
    request.shutdown.wait(30)


def sending_slowly(data: bytes, pieces: int, pause: float, announce: bool = True) -> Handler:
    """Send the body in pieces with pauses. Without ``announce``, send no Content-Length."""

    def handle(request: Request) -> None:
        if announce:
            rest = _send_head(request, data)
        else:
            request.head(200)
            rest = data
        step = -(-len(rest) // pieces)
        for at in range(0, len(rest), step):
            request.send(rest[at : at + step])
            if request.shutdown.wait(pause):
                return

    return handle


def sending_headers_slowly(request: Request) -> None:
    """Send headers byte by byte, faster than the read timeout, for longer than any test waits."""
    request.send(b"HTTP/1.1 200 OK\r\nX-Long: ")
    for _ in range(400):
        request.send(b"x")
        if request.shutdown.wait(0.05):
            return


def wrong_length(data: bytes, length: object) -> Handler:
    """Send the Content-Length ``length``, which differs from that of the body."""

    def handle(request: Request) -> None:
        request.head(200, Content_Length=length)
        request.send(data)

    return handle


def without_length(data: bytes) -> Handler:
    """Send no Content-Length. The body ends with the connection."""

    def handle(request: Request) -> None:
        request.head(200)
        request.send(data)

    return handle


def endless(request: Request) -> None:
    """Send an endless body without Content-Length."""
    request.head(200)
    while not request.shutdown.is_set():
        request.send(b"x" * 65536)


def wrong_range(data: bytes, shift: int) -> Handler:
    """Respond to a range request with a range that starts ``shift`` bytes later, with a correct Content-Range."""

    def handle(request: Request) -> None:
        if not request.start:
            return serving(data)(request)
        start = request.start + shift
        request.head(206, Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}", Content_Length=len(data) - start)
        request.send(data[start:])

    return handle


def compressing(data: bytes, damaged: bool = False) -> Handler:
    """Compress the body with gzip, even if not requested. With ``damaged``, overwrite half of it."""

    def handle(request: Request) -> None:
        compressed = bytearray(gzip.compress(data, 1))
        if damaged:
            compressed[: len(compressed) // 2] = bytes(len(compressed) // 2)
        request.head(200, Content_Length=len(compressed), Content_Encoding="gzip")
        request.send(bytes(compressed))

    return handle


def status(code: int, body: bytes = b"<html>sorry</html>") -> Handler:
    """Send an error page."""

    def handle(request: Request) -> None:
        request.head(code, Content_Length=len(body))
        request.send(body)

    return handle


def redirecting(location: str, code: int = 302) -> Handler:
    """Redirect to ``location``."""

    def handle(request: Request) -> None:
        request.head(code, Location=location, Content_Length=0)

    return handle


def redirecting_with_endless_body(location: str) -> Handler:
    """Redirect with an endless body."""

    def handle(request: Request) -> None:
        request.head(302, Location=location)
        while not request.shutdown.is_set():
            request.send(b"x" * 65536)

    return handle


def raw(data: bytes) -> Handler:
    """Send bytes that need not be HTTP."""

    def handle(request: Request) -> None:
        request.send(data)

    return handle
