"""HTTP downloads: faulty servers cause a one-line error, within limits of time and memory, without credentials."""

from __future__ import annotations

import random
import socket
import time

import pytest

from densenet_cli.errors import DownloadFailedError
from densenet_cli.http import Timeouts, fetch
from densenet_cli.transfer_errors import redact, shorten
from tests.support import servers
from tests.support.servers import FaultyServer

DATA = random.Random(7).randbytes(200_000)
LONG = Timeouts(connect=5, read=10, total=30)
SHORT_READ = Timeouts(connect=5, read=0.3, total=30)
SHORT_TOTAL = Timeouts(connect=5, read=10, total=1)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


def error_message(url: str, max_bytes: int = 1_000_000, timeouts: Timeouts = LONG) -> str:
    """Return the message of the error that fetching ``url`` raises: one line."""
    with pytest.raises(DownloadFailedError) as caught:
        fetch(url, max_bytes=max_bytes, timeouts=timeouts)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "handler",
    [
        servers.serving(DATA),
        servers.without_length(DATA),
        servers.compressing(DATA),
        servers.sending_slowly(DATA, pieces=4, pause=0.02),
    ],
)
def test_fetch_returns_the_whole_body(handler):
    with FaultyServer(handler) as server:
        assert fetch(server.url, max_bytes=len(DATA), timeouts=LONG) == DATA


@pytest.mark.parametrize(
    ("handler", "timeouts", "message"),
    [
        (servers.status(404), LONG, "404 Not Found"),
        (servers.status(500), LONG, "500 Internal Server Error"),
        (servers.status(204, b""), LONG, "204 No Content"),
        (servers.disconnecting(DATA, 1000), LONG, "closed the connection"),
        (servers.disconnecting(DATA, 1000, reset=True), LONG, "closed the connection"),
        (servers.wrong_length(DATA, len(DATA) + 1), LONG, "closed the connection"),
        (servers.raw(b""), LONG, "closed the connection"),
        (servers.stalling(DATA, 1000), SHORT_READ, "sent no data for 0.3 s"),
        (servers.silent, SHORT_READ, "sent no data for 0.3 s"),
        (servers.sending_headers_slowly, SHORT_TOTAL, "longer than 1 s"),
        (servers.sending_slowly(DATA, 1000, 0.05), SHORT_TOTAL, "longer than 1 s"),
        (servers.sending_slowly(DATA, 1000, 0.05, announce=False), SHORT_TOTAL, "longer than 1 s"),
        (servers.raw(b"\x89PNG\r\n\x1a\n not HTTP at all\r\n\r\n"), LONG, "not valid HTTP"),
        (servers.compressing(DATA, damaged=True), LONG, "damaged compressed data"),
        (servers.redirecting("file:///etc/passwd"), LONG, "scheme 'file'"),
        (servers.redirecting("ftp://127.0.0.1/x"), LONG, "scheme 'ftp'"),
        (servers.redirecting("/again"), LONG, "redirected more than 10 times"),
        (servers.redirecting("http://[::1"), LONG, "URL is invalid"),
        (servers.redirecting_with_endless_body("file:///etc/passwd"), LONG, "scheme 'file'"),
    ],
)
def test_faulty_server_causes_one_line_error_in_time(handler, timeouts, message):
    start = time.monotonic()
    with FaultyServer(handler) as server:
        assert message in error_message(server.url, timeouts=timeouts)
    assert time.monotonic() - start < 10


def test_too_short_content_length_truncates_the_body():
    with FaultyServer(servers.wrong_length(DATA, 1000)) as server:
        assert fetch(server.url, max_bytes=len(DATA), timeouts=LONG) == DATA[:1000]


@pytest.mark.parametrize("length", ["-1", "many", "9" * 30])
def test_invalid_content_length(length):
    with FaultyServer(servers.wrong_length(DATA, length)) as server:
        try:
            assert fetch(server.url, max_bytes=len(DATA), timeouts=LONG) == DATA
        except DownloadFailedError as error:
            assert "\n" not in str(error)


def test_size_limit_applies_before_and_during_the_transfer():
    with FaultyServer(servers.serving(DATA)) as server:
        message = error_message(server.url, max_bytes=len(DATA) - 1)
        assert "200,000" in message and "199,999" in message
    with FaultyServer(servers.without_length(DATA)) as server:
        assert "more than 199,999" in error_message(server.url, max_bytes=len(DATA) - 1)
    with FaultyServer(servers.compressing(bytes(50_000_000))) as server:
        assert "more than 1,000 " in error_message(server.url, max_bytes=1000)
    with FaultyServer(servers.endless) as server:
        assert "more than 1,000,000 " in error_message(server.url)


def test_redirects_are_followed_without_reading_their_bodies():
    with FaultyServer(servers.serving(DATA)) as target:
        for code in (301, 302, 303, 307, 308):
            with FaultyServer(servers.redirecting(target.url + "x", code)) as server:
                assert fetch(server.url, max_bytes=len(DATA), timeouts=LONG) == DATA
        with FaultyServer(servers.redirecting_with_endless_body(target.url)) as server:
            assert fetch(server.url, max_bytes=len(DATA), timeouts=LONG) == DATA
    with FaultyServer(servers.redirecting("../b?c=d"), servers.serving(DATA)) as server:
        assert fetch(server.url + "a/x", max_bytes=len(DATA), timeouts=LONG) == DATA
        assert [request.path for request in server.requests] == ["/a/x", "/b?c=d"]


def test_credentials_are_sent_only_to_their_own_server():
    with (
        FaultyServer(servers.status(404)) as other,
        FaultyServer(servers.redirecting(other.url.replace("127.0.0.1", "localhost"))) as server,
    ):
        message = error_message(server.url.replace("http://", "http://user:secret@"))
        assert server.requests[0].headers["authorization"].startswith("Basic ")
        assert "authorization" not in other.requests[0].headers
        assert "secret" not in message


def test_messages_contain_no_credentials():
    for url in (
        "http://user:secret@127.0.0.1:9/",
        "http://user:secret@[::1",
        "http://user:se/secret@host.invalid/",
        "https://user:secret@nowhere.invalid/",
        "ftp://user:secret@127.0.0.1/",
    ):
        assert "secret" not in error_message(url)
        assert "secret" not in redact(url)
    assert redact("https://user:secret@host:8/p?key=1#x") == "https://host:8/p?key=1#x"
    assert redact("https://host/@someone/1.jpg") == "https://host/@someone/1.jpg"
    assert redact("https://host/\x1b[2J\n") == "https://host/\\x1b[2J"


def test_only_messages_shorten_a_long_url():
    url = f"https://host/{'x' * 400}/1.jpg"
    assert redact(url) == url
    assert shorten(url) == url[:297] + "..."
    assert shorten(url[:300]) == url[:300]


def test_unavailable_proxy(monkeypatch):
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("http_proxy", "http://user:secret@127.0.0.1:9")
    message = error_message("http://example.invalid/")
    assert "proxy" in message
    assert "secret" not in message


def test_total_timeout_applies_to_a_proxy(monkeypatch):
    with FaultyServer(servers.sending_headers_slowly) as proxy:
        monkeypatch.delenv("NO_PROXY")
        monkeypatch.setenv("http_proxy", proxy.url)
        assert "longer than 1 s" in error_message("http://example.invalid/", timeouts=SHORT_TOTAL)


def test_refused_connection_and_unknown_host():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert "refused the connection" in error_message(f"http://127.0.0.1:{unused.getsockname()[1]}/")
    assert "resolve the host name" in error_message("http://nowhere.invalid/")


def test_tls_handshake_with_a_server_without_tls():
    with FaultyServer(servers.silent) as server:
        assert "TLS connection failed" in error_message(server.url.replace("http:", "https:"))


@pytest.mark.parametrize(
    "url", ["http://", "http://[::1", "http://a..b/", "http://127.0.0.1:99999/", "http://\udce9/", "http:///x", ""]
)
def test_invalid_url(url):
    error_message(url)
