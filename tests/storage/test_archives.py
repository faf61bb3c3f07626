"""Archives in object storage: the images in them are those of local archives, and are read in few requests."""

from __future__ import annotations

import io
import tarfile
import zipfile

import pytest

from densenet_cli.images.reading import read_source
from densenet_cli.images.sources import expand
from densenet_cli.storage import file_systems
from tests.support.s3 import Fault

MEMBERS = {f"set-{number % 3}/{number:03}.jpg": bytes([number]) * 1000 for number in range(60)} | {"a/notes.txt": b"x"}


def archive(kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, data in MEMBERS.items():
                zipped.writestr(name, data)
    else:
        with tarfile.open(fileobj=file, mode="w:gz" if kind == "tar.gz" else "w") as tar:
            for name, data in MEMBERS.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def contents(argument: str) -> list[tuple[str, bytes]]:
    return [(source.name, read_source(source)) for source in expand([argument])]


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_same_images_as_local_archives(s3_server, s3_proxy, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"shard-0.{kind}").write_bytes(archive(kind))
    s3_server.bucket("bucket", {f"shard-{number}.{kind}": archive(kind) for number in range(2)})
    local = contents(f"shard-0.{kind}")
    assert len(local) == 60
    assert [
        (name.removeprefix("s3://bucket/"), data) for name, data in contents(f"s3://bucket/shard-0.{kind}")
    ] == local
    assert s3_proxy.count("GET") < 12
    assert len(contents(f"s3://bucket/shard-{{0..1}}.{kind}")) == 120
    assert len(contents(f"s3://bucket/shard-*.{kind}")) == 120
    assert len(contents(f"s3://bucket/shard-0.{kind}/set-1")) == 20
    name = f"s3://bucket/shard-0.{kind}/set-1/004.jpg"
    assert contents(name) == [(name, bytes([4]) * 1000)]
    (missing,) = expand([f"s3://bucket/shard-0.{kind}/none.jpg"])
    assert missing.error and missing.error.type == "SourceNotFound"


def test_missing_archive(s3):
    (source,) = expand([s3.bucket("bucket") + "/shard.tar"])
    assert source.error and source.error.type == "SourceNotFound"


def test_folder_with_the_extension_of_an_archive(s3):
    url = s3.bucket("bucket", {"a.tar/1.jpg": b"x"})
    assert contents(f"{url}/a.tar") == contents(f"{url}/a.tar/1.jpg") == [(f"{url}/a.tar/1.jpg", b"x")]


def test_storage_that_fails_in_the_middle(s3_server, s3_proxy):
    """The images before the fault, and one error without the text of the server."""
    data = archive("tar") + bytes(20 << 20)
    s3_server.bucket("bucket", {"a.tar": archive("tar")[:50_000] + archive("tar") + data})
    s3_proxy.fault = lambda request: Fault(status=403, code="AccessDenied") if request.method == "GET" else None
    (source,) = expand(["s3://bucket/a.tar"])
    assert source.error and source.error.type == "SourceUnreadable"
    assert "secret" not in str(source.error)


def test_connections_that_close_early(s3_server, s3_proxy, monkeypatch):
    """aiohttp gives such responses the status 400, which the server did not send."""
    monkeypatch.setattr(file_systems, "_ATTEMPTS", 1)
    s3_server.bucket("bucket", {"a.tar": archive("tar")})
    s3_proxy.fault = lambda request: Fault(truncate=100) if request.method == "GET" else None
    (source,) = expand(["s3://bucket/a.tar"])
    assert source.error and source.error.type == "DownloadFailed"
    assert "closed early" in str(source.error)
