"""Downloads ahead of their turn: order, early results, memory, and what happens to errors and longer files."""

from __future__ import annotations

import threading
import time
from itertools import count, islice

import pytest

from densenet_cli.errors import DownloadFailedError, SourceNotFoundError
from densenet_cli.images import prefetching
from densenet_cli.images.prefetching import prefetch
from densenet_cli.images.reading import read_source
from densenet_cli.images.sources import Source
from tests.support.processes import wait_for


def remote(name: str) -> Source:
    return Source(name, f"s3://bucket/{name}", "remote")


@pytest.fixture
def downloads(monkeypatch):
    """Replace downloads by the names of sources, and return what was downloaded with which limit."""
    made: list[tuple[str, int]] = []

    def download(source: Source, limit: int) -> bytes:
        made.append((source.name, limit))
        return source.name.encode()[: limit + 1]

    monkeypatch.setattr(prefetching, "download", download)
    return made


def test_no_thread_for_local_files(new_threads):
    sources = [Source(str(number), str(number), "path") for number in range(100)]
    iterator = prefetch(sources)
    assert next(iterator) is sources[0]
    assert not new_threads()
    assert list(iterator) == sources[1:]


def test_order_and_contents(downloads):
    sources = [remote(str(number)) if number % 3 else Source(str(number), b"x", "bytes") for number in range(500)]
    found = list(prefetch(sources))
    assert [source.name for source in found] == [source.name for source in sources]
    assert [read_source(source).decode() for source in found] == [
        source.name if number % 3 else "x" for number, source in enumerate(sources)
    ]
    assert len(downloads) == sum(1 for number in range(500) if number % 3)  # none was made twice


def test_second_read_downloads_again(downloads):
    (source,) = prefetch([remote("a")])
    assert read_source(source) == read_source(source) == b"a"
    assert len(downloads) == 2


def test_subclass_is_kept(downloads):
    from densenet_cli.datasets import LabeledSource

    (source,) = prefetch([LabeledSource("a", "s3://b/a", "remote", target=7)])
    assert isinstance(source, LabeledSource)
    assert source.target == 7


def test_many_downloads_at_once(monkeypatch):
    """With 50 ms per download, 300 take far less than 15 s."""
    started = threading.Barrier(64)

    def download(source: Source, limit: int) -> bytes:
        if int(source.name) < 64:
            started.wait(20)  # all of these run at the same time
        return b"x"

    monkeypatch.setattr(prefetching, "download", download)
    assert [read_source(source) for source in prefetch(remote(str(number)) for number in range(300))] == [b"x"] * 300


def test_slow_sources_delay_no_image(downloads):
    """A source is yielded although the next one, such as the next line of a pipe, does not come."""
    more = threading.Event()

    def sources():
        yield remote("a")
        yield remote("b")
        more.wait(30)
        yield remote("c")

    iterator = prefetch(sources())
    assert [read_source(source) for source in islice(iterator, 2)] == [b"a", b"b"]
    more.set()
    assert [source.name for source in iterator] == ["c"]


def test_memory_is_bounded(monkeypatch):
    held = threading.Lock()
    downloaded = used = largest = 0
    monkeypatch.setattr(prefetching, "MEMORY", 20_000_000)
    monkeypatch.setattr(prefetching, "EXPECTED_SIZE", 2_000_000)

    def download(source: Source, limit: int) -> bytes:
        nonlocal downloaded, largest
        with held:
            downloaded += 1
            largest = max(largest, downloaded - used)
        return bytes(1_000_000)

    monkeypatch.setattr(prefetching, "download", download)
    for source in prefetch(remote(str(number)) for number in range(300)):
        if source.name == "0":
            time.sleep(0.2)
        read_source(source)
        with held:
            used += 1
    assert used == downloaded == 300
    assert 5 <= largest <= 22


@pytest.mark.parametrize("size", [3_000, 70_000])
def test_longer_files_are_learned(monkeypatch, size):
    """A file that is longer than expected is downloaded when it is needed. Later ones of its size come ahead."""
    monkeypatch.setattr(prefetching, "EXPECTED_SIZE", 1000)
    limits: list[int] = []

    def download(source: Source, limit: int) -> bytes:
        limits.append(limit)
        return bytes(min(size, limit + 1))

    monkeypatch.setattr(prefetching, "download", download)
    names = count()
    for source in prefetch(remote(str(next(names))) for _ in range(1000)):
        assert len(read_source(source)) == size
    ahead = [limit for limit in limits if limit < prefetching.MAX_STREAM_BYTES]
    assert ahead[-1] >= size
    assert len(limits) < 1500


def test_errors_belong_to_their_source(monkeypatch):
    def download(source: Source, limit: int) -> bytes:
        if source.name in "bd":
            raise SourceNotFoundError("No such file.")
        if source.name == "c":
            raise ZeroDivisionError  # a bug, or too little memory
        return b"x"

    monkeypatch.setattr(prefetching, "download", download)
    sources = list(prefetch(map(remote, "abcde")))
    for source in sources:
        if source.name in "ae":
            assert read_source(source) == b"x"
        else:
            with pytest.raises(ZeroDivisionError if source.name == "c" else SourceNotFoundError):
                read_source(source)


def test_error_of_the_walk_comes_last(downloads):
    def sources():
        yield from map(remote, "ab")
        raise OSError("gone")

    iterator = prefetch(sources())
    assert [next(iterator).name, next(iterator).name] == ["a", "b"]
    with pytest.raises(OSError, match="gone"):
        next(iterator)


def test_abandoned_downloads_end(monkeypatch, downloads, new_threads):
    monkeypatch.setattr(prefetching, "MEMORY", prefetching.EXPECTED_SIZE)  # threads wait for memory
    iterator = prefetch(map(remote, map(str, count())))
    source = next(iterator)
    iterator.close()
    assert read_source(source) == b"0"
    wait_for(lambda: not new_threads())


def test_urls_too(monkeypatch):
    from densenet_cli import http
    from densenet_cli.transfer_errors import TooLargeError

    def read_body(url, *, max_bytes, timeouts):
        if url.endswith("large") and max_bytes < 5_000_000:
            raise TooLargeError("the file has more bytes")
        if url.endswith("missing"):
            raise http.TransferError("the server returned 404 Not Found")
        return url.encode()

    monkeypatch.setattr(http, "read_body", read_body)
    urls = [f"http://localhost/{name}" for name in ("a", "large", "missing", "b")]
    a, large, missing, b = prefetch(Source(url, url, "url") for url in urls)
    assert [read_source(source).decode() for source in (a, large, b)] == [urls[0], urls[1], urls[3]]
    with pytest.raises(DownloadFailedError, match="404"):
        read_source(missing)
