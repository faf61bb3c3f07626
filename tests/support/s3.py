"""A real S3 server on the loopback interface (moto), and a proxy in front of it that injects faults and delays."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


def environment(endpoint: str) -> dict[str, str]:
    """Return the environment variables with which S3 clients use a server and nothing of the user's."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


class Server:
    """The server. Buckets and objects are made with plain requests, which it does not authenticate."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._host = urlsplit(endpoint).netloc
        self._local = threading.local()

    def request(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
        """Send a request and return the body of the response."""
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = HTTPConnection(self._host, timeout=30)
        authorization = f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20260101/us-east-1/s3/aws4_request"
        connection.request(method, path, body, {"Authorization": authorization, **(headers or {})})
        response = connection.getresponse()
        data = response.read()
        assert response.status in (200, 204, 404), (method, path, response.status, data)
        return data if response.status != 404 else b""

    def bucket(self, name: str, objects: dict[str, bytes] | None = None) -> str:
        """Create a bucket with some objects. Return its URL."""
        self.request("PUT", f"/{name}")
        for key, data in (objects or {}).items():
            self.put(name, key, data)
        return f"s3://{name}"

    def reset(self) -> None:
        """Delete all buckets."""
        self.request("POST", "/moto-api/reset")

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Store an object."""
        self.request("PUT", f"/{bucket}/{quote(key)}", data)

    def get(self, bucket: str, key: str) -> bytes:
        """Return the contents of an object, b"" if there is none."""
        return self.request("GET", f"/{bucket}/{quote(key)}")

    def delete(self, bucket: str, key: str) -> None:
        """Delete an object."""
        self.request("DELETE", f"/{bucket}/{quote(key)}")

    def keys(self, bucket: str) -> list[str]:
        """Return the keys in a bucket, up to a thousand."""
        from html import unescape

        listing = self.request("GET", f"/{bucket}?list-type=2").decode()
        return [unescape(key) for key in re.findall(r"<Key>(.*?)</Key>", listing)]


@contextmanager
def run_server() -> Iterator[Server]:
    """Run moto's server in a process of its own."""
    code = (
        "import sys\n"
        "from moto.server import ThreadedMotoServer\n"
        "server = ThreadedMotoServer('127.0.0.1', 0, verbose=False)\n"
        "server.start()\n"
        "print(server.get_host_and_port()[1], flush=True)\n"
        "sys.stdin.read()\n"  # ends with the process that started it
        "server.stop()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **environment("")},
    )
    assert process.stdout and process.stdin
    try:
        yield Server(f"http://127.0.0.1:{int(process.stdout.readline())}")
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@dataclass
class Request:
    """A request that the proxy has received."""

    method: str
    path: str
    query: dict[str, str]
    body: bytes

    @property
    def bucket(self) -> str:
        """The bucket."""
        return self.path.split("/")[1]

    @property
    def key(self) -> str:
        """The key, "" for a request about the bucket."""
        return "/".join(self.path.split("/")[2:])


@dataclass
class Fault:
    """What happens to a request instead of, or in addition to, an answer of the server.

    Attributes:
        status: Status of an error response, with ``code``.
        code: Code of the S3 error.
        drop: Close the connection without a response.
        truncate: Close the connection after so many bytes of the body.
        stall: Seconds to wait after the first bytes of the body.
        trickle: Seconds between single bytes of the body.
        answer: The body of a response that does not come from the server.
    """

    status: int = 0
    code: str = ""
    drop: bool = False
    truncate: int | None = None
    stall: float = 0
    trickle: float = 0
    answer: bytes | None = None


@dataclass
class Proxy:
    """Forwards requests to a server, each after ``delay`` seconds.

    Attributes:
        endpoint: Its URL.
        fault: Called with each request; returns a fault or None.
        requests: All requests, in the order of their arrival.
        max_concurrent: The largest number of requests that were in progress at the same time.
    """

    endpoint: str
    delay: float = 0
    fault: Callable[[Request], Fault | None] = lambda _: None
    requests: list[Request] = field(default_factory=list)
    concurrent: int = 0
    max_concurrent: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def count(self, method: str, key: str = "") -> int:
        """Return the number of requests with a method, and of a key if it is given."""
        return sum(request.method == method and key in ("", request.key) for request in self.requests)


def times(count: int, fault: Fault, matches: Callable[[Request], bool]) -> Callable[[Request], Fault | None]:
    """Return a function for ``Proxy.fault``: the first ``count`` matching requests of each key get a fault."""
    seen: dict[tuple[str, str], int] = {}
    lock = threading.Lock()

    def choose(request: Request) -> Fault | None:
        if not matches(request):
            return None
        with lock:
            key = request.method, request.path
            seen[key] = seen.get(key, 0) + 1
            return fault if seen[key] <= count else None

    return choose


def synthetic_listing(keys: Callable[[int], str], count: int) -> Callable[[Request], Fault | None]:
    """Return a function for ``Proxy.fault`` that answers listings of any bucket with generated keys, in order."""
    from bisect import bisect_right

    class Keys:
        def __len__(self) -> int:
            return count

        def __getitem__(self, index: int) -> str:
            return keys(index)

    def answer(request: Request) -> Fault | None:
        if request.method != "GET" or request.query.get("list-type") != "2":
            return None
        prefix, limit = request.query.get("prefix", ""), int(request.query.get("max-keys", 1000))
        start = bisect_right(Keys(), max(request.query.get("start-after", ""), prefix[:-1]))  # type: ignore[type-var]
        stop = min(start + limit, count)
        page = [keys(index) for index in range(start, stop)]
        matching = [key for key in page if key.startswith(prefix)]
        contents = "".join(f"<Contents><Key>{escape(quote(key))}</Key><Size>1</Size></Contents>" for key in matching)
        is_truncated = stop < count and len(matching) == limit
        return Fault(
            answer=(
                '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
                f"<EncodingType>url</EncodingType><IsTruncated>{str(is_truncated).lower()}</IsTruncated>{contents}"
                "</ListBucketResult>"
            ).encode()
        )

    return answer


@contextmanager
def run_proxy(server: Server) -> Iterator[Proxy]:
    """Run a proxy in threads of this process."""
    proxy = Proxy("")
    target = urlsplit(server.endpoint).netloc
    local = threading.local()

    def forward(handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = getattr(local, "connection", None)
        if connection is None:
            connection = local.connection = HTTPConnection(target, timeout=60)
        headers = {name: value for name, value in handler.headers.items() if name.lower() != "expect"}
        connection.request(handler.command, handler.path, body, headers)
        response = connection.getresponse()
        data = response.read()
        names = {"transfer-encoding", "connection", "content-length", "date", "server"}
        kept = [(name, value) for name, value in response.getheaders() if name.lower() not in names]
        if handler.command == "HEAD":
            kept += [("Content-Length", response.getheader("Content-Length") or "0")]
        return response.status, kept, data

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_request(self) -> None:
            body = self._read_body()
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
            request = Request(self.command, unquote(parts.path), query, body)
            with proxy.lock:
                proxy.requests.append(request)
                proxy.concurrent += 1
                proxy.max_concurrent = max(proxy.max_concurrent, proxy.concurrent)
            try:
                time.sleep(proxy.delay)
                self._answer(proxy.fault(request) or Fault(), body)
            except ConnectionError:
                self.close_connection = True
            finally:
                with proxy.lock:
                    proxy.concurrent -= 1

        def _read_body(self) -> bytes:
            if self.headers.get("Expect", "").lower() == "100-continue":
                self.send_response_only(100)
                self.end_headers()
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                pieces = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    pieces.append(self.rfile.read(size))
                    self.rfile.readline()
                while self.rfile.readline().strip():
                    pass
                self.headers.replace_header("Transfer-Encoding", "identity")
                del self.headers["Transfer-Encoding"]
                return b"".join(pieces)
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _answer(self, fault: Fault, body: bytes) -> None:
            if fault.drop:
                self.close_connection = True
                return
            if fault.status:
                message = f"<Error><Code>{fault.code}</Code><Message>secret {SECRET_KEY}</Message></Error>"
                status, headers, data = fault.status, [("Content-Type", "application/xml")], message.encode()
            elif fault.answer is not None:
                status, headers, data = 200, [("Content-Type", "application/xml")], fault.answer
            else:
                status, headers, data = forward(self, body)
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if fault.truncate is not None:
                self.wfile.write(data[: fault.truncate])
                self.close_connection = True
                return
            if fault.stall or fault.trickle:
                self.wfile.write(data[:10])
                self.wfile.flush()
                time.sleep(fault.stall)
                data = data[10:]
                while fault.trickle and data:
                    self.wfile.write(data[:1])
                    data = data[1:]
                    time.sleep(fault.trickle)
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_request

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    class Listener(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

        def handle_error(self, *_: object) -> None:
            """Print nothing: clients are killed in tests."""

    listener = Listener(("127.0.0.1", 0), Handler)
    proxy.endpoint = f"http://127.0.0.1:{listener.server_address[1]}"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()


def use(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Let this process and the processes that it starts use a server."""
    from densenet_cli.storage.file_systems import close_all

    for name in list(os.environ):
        if name.startswith(("AWS_", "FSSPEC_")):
            monkeypatch.delenv(name)
    for name, value in environment(endpoint).items():
        monkeypatch.setenv(name, value)
    close_all()


def names(sources: Iterable[Any]) -> list[str]:
    """Return the names of sources."""
    return [source.name for source in sources]
