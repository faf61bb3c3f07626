"""Published weights: which files are used, which are never touched, and what the errors contain."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from densenet_cli import variants
from densenet_cli.errors import UsageError, WeightsUnavailableError
from densenet_cli.paths import cache_dir, models_dir
from densenet_cli.weights import file_identity, store
from densenet_cli.weights.file_identity import FileIdentity
from tests.support import servers
from tests.support.published import DATA, MD5, NAME, TINY
from tests.support.servers import FaultyServer

pytestmark = pytest.mark.usefixtures("short_timeouts")


@pytest.fixture
def path():
    models_dir().mkdir(parents=True)
    return models_dir() / NAME


@pytest.fixture
def no_hashing(monkeypatch):
    """Fail the test if it computes a checksum."""

    def compute_checksum(path, algorithm):
        raise AssertionError(f"{path} was hashed")

    monkeypatch.setattr(file_identity, "compute_checksum", compute_checksum)


def error_message(**options) -> str:
    with pytest.raises(WeightsUnavailableError) as caught:
        store.get_file(TINY, **options)
    assert caught.value.exit_code == 3
    return str(caught.value)


def test_download_to_the_folder_of_keras():
    reports = []
    with FaultyServer(servers.serving(DATA)) as server:
        path = store.get_file(TINY, base_url=server.url, progress=lambda *progress: reports.append(progress))
        assert server.requests[0].path == f"/{NAME}"
    assert path == models_dir() / NAME
    assert path.read_bytes() == DATA
    assert [entry.name for entry in path.parent.iterdir()] == [NAME]
    assert reports[-1] == (NAME, len(DATA), len(DATA))
    assert [done for _, done, _ in reports] == sorted({done for _, done, _ in reports})


def test_file_downloaded_by_keras_is_used_and_hashed_once(path, monkeypatch):
    path.write_bytes(DATA)
    assert store.status(TINY).state == "unchecked"
    assert store.get_file(TINY, offline=True) == path
    assert store.status(TINY).state == "ready"
    monkeypatch.setattr(file_identity, "compute_checksum", None)
    assert store.get_file(TINY, offline=True) == path


def test_downloaded_file_is_not_hashed_again(no_hashing):
    with FaultyServer(servers.serving(DATA)) as server:
        store.get_file(TINY, base_url=server.url)
    assert store.get_file(TINY, offline=True).read_bytes() == DATA


def test_change_after_the_check_is_detected(path):
    path.write_bytes(DATA)
    store.get_file(TINY)
    times = path.stat()
    path.write_bytes(DATA[:-1] + b"!")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "is not the published file" in error_message()
    assert store.status(TINY).state == "wrong"


def test_other_file_of_the_same_name_is_left_alone(path):
    path.write_bytes(b"my own weights")
    with FaultyServer(servers.serving(DATA)) as server:
        for attempt in (store.get_file, store.download):
            with pytest.raises(WeightsUnavailableError) as caught:
                attempt(TINY, base_url=server.url)
        assert not server.requests
    message = str(caught.value)
    assert str(path) in message and MD5 in message
    assert (caught.value.variant, caught.value.differs) == (TINY.name, True)
    assert path.read_bytes() == b"my own weights"


def test_force_renames_other_file_of_the_same_name(path):
    path.write_bytes(b"my own weights")
    with FaultyServer(servers.status(404), servers.serving(DATA)) as server:
        with pytest.raises(WeightsUnavailableError):
            store.download(TINY, base_url=server.url, force=True)
        assert path.read_bytes() == b"my own weights"
        store.download(TINY, base_url=server.url, force=True)
    assert path.read_bytes() == DATA
    (renamed,) = path.parent.glob("*.old")
    assert renamed.read_bytes() == b"my own weights"


def test_force_downloads_an_existing_file(path):
    path.write_bytes(DATA)
    with FaultyServer(servers.serving(DATA)) as server:
        assert store.download(TINY, base_url=server.url) == path
        assert not server.requests
        store.download(TINY, base_url=server.url, force=True)
        assert len(server.requests) == 1
    assert [entry.name for entry in path.parent.iterdir()] == [NAME]


def test_verify_ignores_the_cached_checksum(path):
    assert store.status(TINY, recompute=True).state == "absent"
    path.write_bytes(DATA)
    assert store.status(TINY, recompute=True).state == "ready"
    # A wrong record for this file, as after a disk error.
    file_identity.cache_checksum(FileIdentity.of(path), "0" * 32)
    assert store.status(TINY).state == "wrong"
    status = store.status(TINY, recompute=True)
    assert (status.state, status.checksum, status.size) == ("ready", MD5, len(DATA))


def test_error_lists_urls_and_reasons(monkeypatch):
    with FaultyServer(servers.status(404)) as first, FaultyServer(servers.serving(b"<html>Log in</html>")) as second:
        monkeypatch.setattr(store, "BASE_URLS", (first.url.replace("//", "//me:secret@"), second.url))
        message = error_message()
    first_error, second_error = message.index(f"{first.url}{NAME}"), message.index(f"{second.url}{NAME}")
    assert first_error < message.index("404 Not Found") < second_error < message.index("19 bytes")
    assert "secret" not in message
    assert not (models_dir() / NAME).exists() and not list(models_dir().glob("*.part"))


def test_base_urls_are_tried_in_order(monkeypatch):
    assert [base.split("/")[2] for base in store.BASE_URLS] == ["storage.googleapis.com", "github.com"]
    with FaultyServer(servers.status(500)) as first, FaultyServer(servers.serving(DATA)) as second:
        monkeypatch.setattr(store, "BASE_URLS", (first.url, second.url))
        assert store.get_file(TINY).read_bytes() == DATA
        assert len(first.requests) == 3 and len(second.requests) == 1


def test_base_url_overrides_the_environment_variable(monkeypatch):
    with FaultyServer(servers.serving(DATA)) as server:
        monkeypatch.setenv("DENSENET_BASE_URL", "http://127.0.0.1:9/never")
        store.download(TINY, base_url=f"{server.url}some/folder")
        monkeypatch.setenv("DENSENET_BASE_URL", f"{server.url}another//")
        store.download(TINY, force=True)
        assert [request.path for request in server.requests] == [f"/some/folder/{NAME}", f"/another/{NAME}"]


def test_folder_as_mirror(tmp_path):
    mirror = tmp_path / "a mirror"
    mirror.mkdir()
    message = error_message(base_url=mirror.as_uri())
    assert "does not exist" in message
    (mirror / NAME).write_bytes(DATA[:-1])
    assert "a different file" in error_message(base_url=mirror.as_uri())
    (mirror / NAME).write_bytes(DATA)
    models_dir().mkdir(parents=True, exist_ok=True)
    (models_dir() / f"{NAME}.part").write_bytes(DATA[:1000])
    assert store.get_file(TINY, base_url=mirror.as_uri()).read_bytes() == DATA


@pytest.mark.parametrize("url", ["/media/usb", "ftp://host/", "file://host/share", "mirror.example.org"])
def test_invalid_base_url_is_a_usage_error(url):
    with pytest.raises(UsageError, match="Invalid base URL"):
        store.download(TINY, base_url=url)


def test_offline_sends_no_request():
    with FaultyServer(servers.serving(DATA)) as server:
        message = error_message(offline=True, base_url=server.url)
        assert not server.requests
    assert "`offline`" in message
    assert not models_dir().exists()


def test_variant_without_published_weights():
    with pytest.raises(WeightsUnavailableError, match="densenet264"):
        store.get_file(variants.get("264"))


def test_folder_in_place_of_the_file(path):
    path.mkdir()
    assert f"{path}: Is a directory" in error_message()


def test_unwritable_cache_only_prevents_caching(path, monkeypatch):
    cache_dir().write_bytes(b"a file in place of the folder")
    path.write_bytes(DATA)
    for _ in range(2):
        assert store.get_file(TINY) == path
    assert store.status(TINY).state == "unchecked"


def test_prune_without_a_cache(monkeypatch):
    monkeypatch.setenv("DENSENET_CACHE", os.devnull)
    file_identity.prune_checksums()


def test_prune_deletes_records_of_changed_files(path):
    path.write_bytes(DATA)
    store.get_file(TINY)
    file_identity.prune_checksums()
    assert len(list(file_identity.checksums_dir().iterdir())) == 1
    path.write_bytes(b"")
    file_identity.prune_checksums()
    assert not list(file_identity.checksums_dir().iterdir())


def test_damaged_record_is_ignored(path):
    path.write_bytes(DATA)
    store.get_file(TINY)
    (record,) = file_identity.checksums_dir().iterdir()
    for damage in (b"", MD5.encode()[:31], b"\xff" * 32, b"\n"):
        record.write_bytes(damage)
        assert store.status(TINY).state == "unchecked"
    assert store.get_file(TINY) == path
    assert store.status(TINY).state == "ready"


def test_file_with_cached_checksum_is_found_without_heavy_imports(path):
    path.write_bytes(DATA)
    store.get_file(TINY)
    script = """
import sys
from densenet_cli.weights import store
from tests.support.published import TINY
before = set(sys.modules)
store.get_file(TINY)
heavy = {"requests", "urllib3", "ssl", "socket", "json", "logging", "http", "tempfile", "numpy"}
print(sorted(heavy & set(sys.modules)), sorted(set(sys.modules) - before))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[] []", run.stdout
