"""Reading and writing object storage: faults of the server, errors without credentials, and other file systems."""

from __future__ import annotations

import gzip
import os
import socket
import sys
import time

import pytest

from densenet_cli import storage
from densenet_cli.errors import (
    DownloadFailedError,
    ImageError,
    OutputError,
    SourceNotFoundError,
    SourceUnreadableError,
    UsageError,
)
from densenet_cli.paths import is_remote
from densenet_cli.storage import file_systems
from tests.support.s3 import SECRET_KEY, Fault, times, use

DATA = bytes(range(256)) * 4000


@pytest.fixture
def url(s3_server, s3_proxy):
    return s3_server.bucket("bucket", {"a.jpg": DATA}) + "/a.jpg"


def is_get(request) -> bool:
    return request.method == "GET" and request.key == "a.jpg"


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500, code="InternalError"),
        Fault(status=503, code="SlowDown"),
        Fault(status=503, code="ServiceUnavailable"),
        Fault(drop=True),
        Fault(truncate=1000),
        Fault(stall=3),
    ],
    ids=["500", "slow-down", "503", "drop", "truncate", "stall"],
)
def test_temporary_faults_are_retried(url, s3_proxy, fault, monkeypatch):
    monkeypatch.setattr(file_systems, "READ_TIMEOUT", 1)
    s3_proxy.fault = times(2, fault, is_get)
    assert storage.read(url, len(DATA)) == DATA
    assert s3_proxy.count("GET", "a.jpg") == 3


@pytest.mark.parametrize(
    ("fault", "error", "attempts"),
    [
        (Fault(status=500, code="InternalError"), DownloadFailedError, range(2, 6)),
        (Fault(status=503, code="SlowDown"), DownloadFailedError, range(2, 6)),
        # aiohttp, botocore, and s3fs (for requests, and for bodies) each try twice; one attempt is a presigned URL.
        (Fault(drop=True), DownloadFailedError, range(2, 19)),
        (Fault(truncate=1000), DownloadFailedError, range(2, 6)),
        (Fault(stall=30), DownloadFailedError, range(2, 6)),
        (Fault(trickle=0.2), DownloadFailedError, range(1, 2)),
        (Fault(status=403, code="AccessDenied"), SourceUnreadableError, range(2, 3)),
        (Fault(status=403, code="InvalidAccessKeyId"), SourceUnreadableError, range(2, 3)),
        (Fault(status=403, code="SignatureDoesNotMatch"), SourceUnreadableError, range(2, 3)),
        (Fault(status=400, code="ExpiredToken"), SourceUnreadableError, range(2, 3)),
        (Fault(status=403, code="InvalidObjectState"), SourceUnreadableError, range(2, 3)),
        (Fault(status=403, code="RequestTimeTooSkewed"), SourceUnreadableError, range(2, 3)),
        (Fault(status=404, code="NoSuchKey"), SourceNotFoundError, range(2, 3)),
        (Fault(status=404, code="NoSuchBucket"), SourceNotFoundError, range(2, 3)),
        (Fault(status=418, code="Teapot<!&"), DownloadFailedError, range(2, 6)),
    ],
    ids=str,
)
def test_lasting_faults_end_in_one_sentence(url, s3_proxy, fault, error, attempts, monkeypatch):
    monkeypatch.setattr(file_systems, "READ_TIMEOUT", 1)
    monkeypatch.setattr(file_systems, "_ATTEMPTS", 2)
    monkeypatch.setattr(storage, "READ_TIMEOUT", 10)
    s3_proxy.fault = lambda request: fault if is_get(request) else None
    start = time.monotonic()
    with pytest.raises(error) as raised:
        storage.read(url, len(DATA))
    assert time.monotonic() - start < 15
    assert s3_proxy.count("GET", "a.jpg") in attempts
    check_sentence(raised.value)


def is_presigned(request) -> bool:
    return "X-Amz-Signature" in request.query


def test_presigned_urls(url, s3_server, s3_proxy):
    """Objects are read with one request each, and as they are stored."""
    zipped = gzip.compress(DATA)
    s3_server.request("PUT", "/bucket/a%20%2B%25%3F%23.jpg", zipped, {"Content-Encoding": "gzip"})
    assert storage.read(url, len(DATA)) == DATA
    assert storage.read("s3://bucket/a +%?#.jpg", len(DATA)) == zipped
    assert [is_presigned(request) for request in s3_proxy.requests] == [True, True]


def test_presigned_urls_are_not_needed(url, s3_proxy):
    """A server that refuses them from the start is not asked again; otherwise, a refusal concerns one object."""
    s3_proxy.fault = lambda request: Fault(status=403, code="AccessDenied") if is_presigned(request) else None
    for _ in range(3):
        assert storage.read(url, len(DATA)) == DATA
    assert [is_presigned(request) for request in s3_proxy.requests] == [True, False, False, False]

    file_systems.close_all()
    s3_proxy.fault = lambda _: None
    storage.read(url, len(DATA))
    s3_proxy.fault = times(1, Fault(status=403, code="AccessDenied"), is_presigned)
    s3_proxy.requests.clear()
    for _ in range(2):
        assert storage.read(url, len(DATA)) == DATA
    assert [is_presigned(request) for request in s3_proxy.requests] == [True, False, True]


def check_sentence(error: Exception) -> None:
    """Check that an error is one short sentence that contains nothing of the server or the library."""
    text = str(error)
    assert text.endswith(".")
    assert text.count(". ") == 0
    assert len(text) < 120
    chain: BaseException | None = error
    while chain:
        assert SECRET_KEY not in str(chain)
        assert "secret" not in str(chain)
        chain = None if chain.__suppress_context__ else chain.__context__


def test_no_server(monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        use(monkeypatch, f"http://127.0.0.1:{unused.getsockname()[1]}")
        monkeypatch.setattr(file_systems, "_ATTEMPTS", 2)
        with pytest.raises(DownloadFailedError, match="connect"):
            storage.read("s3://bucket/a.jpg", 10)


@pytest.mark.parametrize(
    ("name", "value", "fact"),
    [("AWS_ENDPOINT_URL", "localhost", "endpoint"), ("AWS_DEFAULT_REGION", "us east 1", "region")],
)
def test_wrong_settings(url, name, value, fact, monkeypatch):
    monkeypatch.setenv(name, value)
    file_systems.close_all()
    with pytest.raises(DownloadFailedError, match=fact):
        storage.read(url, 10)


def test_no_credentials(url, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    file_systems.close_all()
    with pytest.raises(SourceUnreadableError, match="credentials"):
        storage.read(url, 10)
    with pytest.raises(UsageError, match="credentials"):
        storage.check_readable(url)
    with pytest.raises(OutputError, match="credentials"):
        storage.check_writable(url)


def test_limit(url):
    assert storage.read(url, len(DATA)) == DATA
    assert len(storage.read(url, 1000)) == 1001


def test_empty_file(s3):
    assert storage.read(s3.bucket("bucket", {"empty": b""}) + "/empty", 10) == b""


@pytest.mark.parametrize("size", [0, 10, 20_000_000])
def test_upload_and_download(s3, tmp_path, size):
    url = s3.bucket("bucket") + "/folder/file.bin"
    path = tmp_path / "file.bin"
    path.write_bytes(os.urandom(size))
    storage.upload(path, url)
    assert s3.get("bucket", "folder/file.bin") == path.read_bytes()
    storage.upload(path, url, size // 2)
    storage.download(url, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()[: size // 2]
    assert storage.status(url).size == size // 2
    storage.remove(url)
    storage.remove(url)
    assert not storage.exists(url)


def test_upload_that_fails_keeps_the_old_file(s3_server, s3_proxy, tmp_path, monkeypatch):
    monkeypatch.setattr(file_systems, "_ATTEMPTS", 1)
    url = s3_server.bucket("bucket", {"file": b"old"}) + "/file"
    path = tmp_path / "file"
    path.write_bytes(bytes(40_000_000))
    s3_proxy.fault = lambda request: (
        Fault(status=403, code="AccessDenied") if request.query.get("partNumber") == "2" else None
    )
    with pytest.raises(OutputError, match="permission denied"):
        storage.upload(path, url)
    assert s3_server.get("bucket", "file") == b"old"


def test_checks_leave_nothing_behind(s3):
    url = s3.bucket("bucket") + "/out/file.csv"
    storage.check_writable(url)
    assert s3.keys("bucket") == []
    assert b"<Upload>" not in s3.request("GET", "/bucket?uploads")
    storage.check_writable("memory://out/file.csv")
    assert not storage.exists("memory://out/file.csv.part")


def test_servers_in_urls():
    for url in ("s3://localhost:9000/bucket/a.jpg", "s3://minio:9000"):
        with pytest.raises(UsageError, match="AWS_ENDPOINT_URL"):
            storage.check_readable(url)


def test_url_that_is_not_utf_8(s3):
    url = f"{s3.bucket('bucket')}/\udcff.jpg"
    storage.check_readable(url)
    with pytest.raises(SourceNotFoundError):
        storage.read(url, 10)


def test_missing_bucket(s3):
    for check, error in ((storage.check_readable, UsageError), (storage.check_writable, OutputError)):
        with pytest.raises(error, match="bucket does not exist"):
            check("s3://missing/photos")
    storage.check_readable(s3.bucket("bucket") + "/missing")


def test_expired_credentials(s3_server, s3_proxy):
    """The response with the headers of an object has no reason."""
    url = s3_server.bucket("bucket") + "/photos"
    s3_proxy.fault = lambda request: Fault(status=400, code="ExpiredToken")
    for check, error in ((storage.check_readable, UsageError), (storage.check_writable, OutputError)):
        with pytest.raises(error, match="ExpiredToken") as raised:
            check(url)
        check_sentence(raised.value)


def test_reading_needs_no_permission_to_list(s3_server, s3_proxy):
    url = s3_server.bucket("bucket", {"a.jpg": b"x"}) + "/a.jpg"
    s3_proxy.fault = lambda request: Fault(status=403, code="AccessDenied") if request.key == "" else None
    storage.check_readable(url)


def test_permission_to_write_is_checked(s3_server, s3_proxy):
    url = s3_server.bucket("bucket") + "/file"
    s3_proxy.fault = lambda request: Fault(status=403, code="AccessDenied") if "uploads" in request.query else None
    with pytest.raises(OutputError) as raised:
        storage.check_writable(url)
    check_sentence(raised.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/a.jpg", "s3://bucket/a.jpg"),
        ("s3://key:secret@bucket/a.jpg", "s3://bucket/a.jpg"),
        ("s3://key:se/cret@bucket/a.jpg", "s3://bucket/a.jpg"),
        ("sftp://user@host/a@b.jpg", "sftp://host/a@b.jpg"),
        ("ftp://user:secret@host:21/a.jpg", "ftp://host:21/a.jpg"),
        ("ftp://host:21/set-1/a@2x.jpg", "ftp://host:21/set-1/a@2x.jpg"),
        ("ftp://user:secret/21@host/a.jpg", "ftp://host/a.jpg"),
        ("s3://key:12/34@bucket/a.jpg", "s3://bucket/a.jpg"),
        ("s3://bucket/a@b.jpg", "s3://bucket/a@b.jpg"),
        ("s3://bucket/a:b@c.jpg", "s3://bucket/a:b@c.jpg"),
        ("abfs://container@account.dfs.core.windows.net/a.jpg", "abfs://container@account.dfs.core.windows.net/a.jpg"),
        ("az://user:secret@container/a.jpg", "az://container/a.jpg"),
        ("hf://datasets/user/name@main/a.jpg", "hf://datasets/user/name@main/a.jpg"),
    ],
)
def test_redact(url, shown):
    assert storage.redact(url) == shown


def test_credentials_in_urls_are_refused_without_showing_them():
    for url in ("s3://key:secret@bucket/a.jpg", "s3://key:se/cret@bucket/a.jpg"):
        with pytest.raises(SourceUnreadableError, match="AWS_ACCESS_KEY_ID") as raised:
            storage.read(url, 10)
        assert "key:" not in str(raised.value)
        assert "cret@" not in str(raised.value)


@pytest.mark.parametrize(
    ("scheme", "command"),
    [
        ("gs", "pip install gcsfs"),
        ("abfs", "pip install adlfs"),
        ("s3", "pip install s3fs"),
        ("hf", "pip install huggingface_hub"),
    ],
)
def test_missing_package(scheme, command, monkeypatch):
    for module in ("s3fs", "gcsfs", "adlfs", "huggingface_hub"):
        monkeypatch.setitem(sys.modules, module, None)
    from fsspec.registry import _registry

    monkeypatch.delitem(_registry, scheme, raising=False)
    url = f"{scheme}://datasets/a/b.jpg"
    with pytest.raises(UsageError, match=command):
        storage.check_readable(url)
    with pytest.raises(SourceUnreadableError, match=command):
        storage.read(url, 10)


def test_missing_fsspec(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(UsageError, match="pip install fsspec s3fs"):
        storage.check_writable("s3://bucket/a")


def test_is_remote():
    urls = ("s3://b/a", "S3://b", "gs://b", "abfs://c@a/b", "memory://a", "hf://datasets/a/b")
    others = ("a", "http://a/b", "https://a", "file:///a", "hf://timm/a", "c://a", "a/b://c", "://a", "-", "")
    assert all(map(is_remote, urls))
    assert not any(map(is_remote, others))


def test_stream_is_seekable(url):
    with storage.open_stream(url) as stream:
        assert stream.read(10) == DATA[:10]
        stream.seek(-10, os.SEEK_END)
        assert stream.read() == DATA[-10:]


def test_threads_share_connections(url, s3_proxy):
    """Each thread would otherwise open a file system with connections of its own."""
    from concurrent.futures import ThreadPoolExecutor

    s3_proxy.delay = 0.1
    with ThreadPoolExecutor(40) as pool:
        start = time.monotonic()
        assert all(pool.map(lambda _: storage.read(url, 10), range(80)))
        assert time.monotonic() - start < 6
    assert len({id(storage.open_filesystem(url).fs) for _ in range(3)}) == 1
    assert s3_proxy.max_concurrent > 20


def test_file_systems_that_threads_cannot_share(s3):
    """Those of fsspec that are not asynchronous may have one connection, such as that of FTP."""
    from concurrent.futures import ThreadPoolExecutor

    for url, is_shared in (("s3://bucket/a", True), ("memory://a", False)):
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(lambda url=url: storage.open_filesystem(url).fs).result()
        assert (storage.open_filesystem(url).fs is other) == is_shared
        assert storage.open_filesystem(url).fs is storage.open_filesystem(url).fs


def test_local_memory(tmp_path):
    storage.put("memory://folder/a.txt", b"data")
    assert storage.read("memory://folder/a.txt", 10) == b"data"
    with pytest.raises(ImageError):
        storage.read("memory://folder/b.txt", 10)
