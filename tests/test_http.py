"""Bytes from URLs: a server that misbehaves costs one sentence, never the time, the memory or a password."""

from __future__ import annotations

import random
import socket
import time

import pytest

from densenet_cli.errors import DownloadFailedError
from densenet_cli.http import Limits, fetch, redacted, shortened
from tests.support import servers
from tests.support.servers import FaultyServer

DATA = random.Random(7).randbytes(200_000)
PATIENT = Limits(connect=5, read=10, total=30)
STALLED = Limits(connect=5, read=0.3, total=30)
DRIPPED = Limits(connect=5, read=10, total=1)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


def reason(url: str, limit: int = 1_000_000, limits: Limits = PATIENT) -> str:
    with pytest.raises(DownloadFailedError) as caught:
        fetch(url, limit=limit, limits=limits)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "answer",
    [
        servers.serving(DATA),
        servers.unannounced(DATA),
        servers.compressing(DATA),
        servers.dripping(DATA, pieces=4, pause=0.02),
    ],
)
def test_everything_behind_a_url_arrives(answer):
    with FaultyServer(answer) as server:
        assert fetch(server.url, limit=len(DATA), limits=PATIENT) == DATA


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (servers.status(404), "the server answered 404 Not Found"),
        (servers.status(500), "the server answered 500 Internal Server Error"),
        (servers.status(204, b""), "the server answered 204 No Content"),
        (servers.cutting(DATA, 1000), "the server cut the connection"),
        (servers.cutting(DATA, 1000, reset=True), "the server cut the connection"),
        (servers.lying(DATA, len(DATA) + 1), "the server cut the connection"),
        (servers.raw(b""), "the server cut the connection"),
        (servers.stalling(DATA, 1000), "the server sent nothing for 0.3 seconds"),
        (servers.silent, "the server sent nothing for 0.3 seconds"),
        (servers.dripping_headers, "it was not done within 1 seconds"),
        (servers.dripping(DATA, 1000, 0.05), "it was not done within 1 seconds"),
        (servers.dripping(DATA, 1000, 0.05, announce=False), "it was not done within 1 seconds"),
        (servers.raw(b"\x89PNG\r\n\x1a\n not HTTP at all\r\n\r\n"), "the answer was not HTTP"),
        (servers.compressing(DATA, damaged=True), "the server's compression is damaged"),
        (servers.redirecting("file:///etc/passwd"), "file: is not fetched"),
        (servers.redirecting("ftp://127.0.0.1/x"), "ftp: is not fetched"),
        (servers.redirecting("/again"), "more than 10 redirects"),
        (servers.redirecting("http://[::1"), "that is no valid URL"),
        (servers.redirecting_without_end("file:///etc/passwd"), "file: is not fetched"),
    ],
)
def test_a_failure_is_one_line_and_in_time(answer, said):
    limits = STALLED if "sent nothing" in said else DRIPPED if "not done" in said else PATIENT
    began = time.monotonic()
    with FaultyServer(answer) as server:
        assert said in reason(server.url, limits=limits)
    assert time.monotonic() - began < 10


def test_a_length_that_is_too_short_ends_the_body_there():
    with FaultyServer(servers.lying(DATA, 1000)) as server:
        assert fetch(server.url, limit=len(DATA), limits=PATIENT) == DATA[:1000]


@pytest.mark.parametrize("length", ["-1", "many", "9" * 30])
def test_an_impossible_length_is_survived(length):
    with FaultyServer(servers.lying(DATA, length)) as server:
        try:
            assert fetch(server.url, limit=len(DATA), limits=PATIENT) == DATA
        except DownloadFailedError as error:
            assert "\n" not in str(error)


def test_the_size_limit_holds_before_and_while_bytes_come():
    with FaultyServer(servers.serving(DATA)) as server:
        assert "it has 200,000 bytes, and 199,999 are allowed" in reason(server.url, limit=len(DATA) - 1)
    with FaultyServer(servers.unannounced(DATA)) as server:
        assert "more than the 199,999 bytes allowed" in reason(server.url, limit=len(DATA) - 1)
    with FaultyServer(servers.compressing(bytes(50_000_000))) as server:
        assert "more than the 1,000 bytes allowed" in reason(server.url, limit=1000)
    with FaultyServer(servers.endless) as server:
        assert "more than the 1,000,000 bytes allowed" in reason(server.url)


def test_redirects_are_followed_over_http_and_their_bodies_left_unread():
    with FaultyServer(servers.serving(DATA)) as target:
        for code in (301, 302, 303, 307, 308):
            with FaultyServer(servers.redirecting(target.url + "x", code)) as server:
                assert fetch(server.url, limit=len(DATA), limits=PATIENT) == DATA
        with FaultyServer(servers.redirecting_without_end(target.url)) as server:
            assert fetch(server.url, limit=len(DATA), limits=PATIENT) == DATA
    with FaultyServer(servers.redirecting("../b?c=d"), servers.serving(DATA)) as server:
        assert fetch(server.url + "a/x", limit=len(DATA), limits=PATIENT) == DATA
        assert [request.path for request in server.requests] == ["/a/x", "/b?c=d"]


def test_credentials_go_to_their_server_and_nowhere_else():
    with (
        FaultyServer(servers.status(404)) as other,
        FaultyServer(servers.redirecting(other.url.replace("127.0.0.1", "localhost"))) as server,
    ):
        message = reason(server.url.replace("http://", "http://user:secret@"))
        assert server.requests[0].headers["authorization"].startswith("Basic ")
        assert "authorization" not in other.requests[0].headers
        assert "secret" not in message


def test_no_credentials_in_any_message():
    for url in (
        "http://user:secret@127.0.0.1:9/",
        "http://user:secret@[::1",
        "http://user:se/secret@host.invalid/",
        "https://user:secret@nowhere.invalid/",
        "ftp://user:secret@127.0.0.1/",
    ):
        assert "secret" not in reason(url)
        assert "secret" not in redacted(url)
    assert redacted("https://user:secret@host:8/p?key=1#x") == "https://host:8/p?key=1#x"
    assert redacted("https://host/@someone/1.jpg") == "https://host/@someone/1.jpg"
    assert redacted("https://host/\x1b[2J\n") == "https://host/\\x1b[2J"


def test_a_long_url_is_shortened_in_messages_only():
    url = f"https://host/{'x' * 400}/1.jpg"
    assert redacted(url) == url
    assert shortened(url) == url[:297] + "..."
    assert shortened(url[:300]) == url[:300]


def test_a_proxy_that_is_not_there_is_named_without_its_password(monkeypatch):
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("http_proxy", "http://user:secret@127.0.0.1:9")
    message = reason("http://example.invalid/")
    assert "the proxy that the environment names can't be used" in message
    assert "secret" not in message


def test_a_proxy_is_held_to_the_time_limit_too(monkeypatch):
    with FaultyServer(servers.dripping_headers) as proxy:
        monkeypatch.delenv("NO_PROXY")
        monkeypatch.setenv("http_proxy", proxy.url)
        assert "it was not done within 1 seconds" in reason("http://example.invalid/", limits=DRIPPED)


def test_no_server_and_no_name():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        assert "the server refuses connections" in reason(f"http://127.0.0.1:{held.getsockname()[1]}/")
    assert "the name of the server is not known here" in reason("http://nowhere.invalid/")


def test_a_tls_handshake_with_a_server_that_has_none():
    with FaultyServer(servers.silent) as server:
        assert "secure connection failed" in reason(server.url.replace("http:", "https:"))


@pytest.mark.parametrize(
    "url", ["http://", "http://[::1", "http://a..b/", "http://127.0.0.1:99999/", "http://\udce9/", "http:///x", ""]
)
def test_a_url_that_is_none(url):
    reason(url)
