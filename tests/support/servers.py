"""A real HTTP server on loopback that misbehaves as told.

``FaultyServer`` is given answers, one a request, the last for all that follow. An answer is a function of the request;
those below write it to the socket by hand, so that nothing is tidied up on its way.
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
    """What a client asked, and the connection to answer on."""

    line: str
    headers: dict[str, str]
    connection: socket.socket
    over: threading.Event

    @property
    def path(self) -> str:
        return self.line.split()[1]

    @property
    def start(self) -> int:
        """First byte of the range asked for."""
        return int(self.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))

    def head(self, status: int, **headers: object) -> None:
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)


Answer = Callable[[Request], None]


@dataclass
class FaultyServer:
    """Use as a context manager. ``requests`` are those that came, in order."""

    answers: list[Answer]
    requests: list[Request] = field(default_factory=list)

    def __init__(self, *answers: Answer) -> None:
        self.answers, self.requests = list(answers), []
        self._over = threading.Event()
        self._turn = threading.Lock()
        faulty = self

        class Handler(StreamRequestHandler):
            def handle(self) -> None:
                faulty._handle(self)

        class Server(ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 64

        self._server = Server(("127.0.0.1", 0), Handler)
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
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handle(self, handler: StreamRequestHandler) -> None:
        try:
            if handler.connection.recv(1, socket.MSG_PEEK) == b"\x16":
                handler.wfile.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")  # a TLS handshake
                return
            line = handler.rfile.readline().decode("latin-1").strip()
            headers = {}
            while text := handler.rfile.readline().decode("latin-1").strip():
                name, _, value = text.partition(":")
                headers[name.lower()] = value.strip()
            if not line:
                return
            request = Request(line, headers, handler.connection, self._over)
            with self._turn:
                self.requests.append(request)
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            answer(request)
        except (ConnectionError, OSError):
            pass  # the client has gone, which is often the point


def _begin(request: Request, data: bytes, ranges: bool = True, **headers: object) -> bytes:
    """Send the head for ``data``, or its rest where a range is asked for; return what is to follow."""
    start = request.start if ranges else 0
    if start >= len(data) and start:
        request.head(416, Content_Range=f"bytes */{len(data)}", Content_Length=0)
        return b""
    if start:
        headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
    request.head(206 if start else 200, **({"Content_Length": len(data) - start} | headers))
    return data[start:]


def serving(data: bytes, ranges: bool = True) -> Answer:
    """As a good server does; without ``ranges`` one that ignores them."""

    def answer(request: Request) -> None:
        request.send(_begin(request, data, ranges))

    return answer


def cutting(data: bytes, after: int, ranges: bool = True, reset: bool = False) -> Answer:
    """Close the connection when ``after`` bytes of the body are out, with a reset if asked."""

    def answer(request: Request) -> None:
        request.send(_begin(request, data, ranges)[:after])
        if reset:
            time.sleep(0.05)  # a reset drops what the client hasn't read yet
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.connection.close()

    return answer


def stalling(data: bytes, after: int) -> Answer:
    """Send ``after`` bytes, then nothing, the connection open."""

    def answer(request: Request) -> None:
        request.send(_begin(request, data)[:after])
        request.over.wait(30)

    return answer


def silent(request: Request) -> None:
    """Never answer."""
    request.over.wait(30)


def dripping(data: bytes, pieces: int, pause: float, announce: bool = True) -> Answer:
    """Send the body in pieces with pauses between them; without ``announce`` no length is given."""

    def answer(request: Request) -> None:
        if announce:
            rest = _begin(request, data)
        else:
            request.head(200)
            rest = data
        step = -(-len(rest) // pieces)
        for at in range(0, len(rest), step):
            request.send(rest[at : at + step])
            if request.over.wait(pause):
                return

    return answer


def dripping_headers(request: Request) -> None:
    """Send headers a byte at a time, never late for a read timeout, for longer than any test waits."""
    request.send(b"HTTP/1.1 200 OK\r\nX-Long: ")
    for _ in range(400):
        request.send(b"x")
        if request.over.wait(0.05):
            return


def lying(data: bytes, length: object) -> Answer:
    """Announce another length than that of the body."""

    def answer(request: Request) -> None:
        request.head(200, Content_Length=length)
        request.send(data)

    return answer


def unannounced(data: bytes) -> Answer:
    """No length; the body ends with the connection."""

    def answer(request: Request) -> None:
        request.head(200)
        request.send(data)

    return answer


def endless(request: Request) -> None:
    """A body without length and without end."""
    request.head(200)
    while not request.over.is_set():
        request.send(b"x" * 65536)


def another_range(data: bytes, shift: int) -> Answer:
    """Answer a range with one that begins ``shift`` bytes later, and says so."""

    def answer(request: Request) -> None:
        if not request.start:
            return serving(data)(request)
        start = request.start + shift
        request.head(206, Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}", Content_Length=len(data) - start)
        request.send(data[start:])

    return answer


def compressing(data: bytes, damaged: bool = False) -> Answer:
    """gzip, asked for or not; ``damaged`` in the middle."""

    def answer(request: Request) -> None:
        packed = bytearray(gzip.compress(data, 1))
        if damaged:
            packed[: len(packed) // 2] = bytes(len(packed) // 2)
        request.head(200, Content_Length=len(packed), Content_Encoding="gzip")
        request.send(bytes(packed))

    return answer


def status(code: int, body: bytes = b"<html>sorry</html>") -> Answer:
    """An error page."""

    def answer(request: Request) -> None:
        request.head(code, Content_Length=len(body))
        request.send(body)

    return answer


def redirecting(location: str, code: int = 302) -> Answer:
    """To ``location``."""

    def answer(request: Request) -> None:
        request.head(code, Location=location, Content_Length=0)

    return answer


def redirecting_without_end(location: str) -> Answer:
    """A redirect whose own body never ends."""

    def answer(request: Request) -> None:
        request.head(302, Location=location)
        while not request.over.is_set():
            request.send(b"x" * 65536)

    return answer


def raw(data: bytes) -> Answer:
    """These bytes instead of HTTP."""

    def answer(request: Request) -> None:
        request.send(data)

    return answer
