"""Published weights: what counts as there, what is never touched, what an error says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from densenet_cli import variants
from densenet_cli.errors import UsageError, WeightsUnavailableError
from densenet_cli.http import Limits
from densenet_cli.paths import cache_dir, models_dir
from densenet_cli.weights import download, store, verified
from densenet_cli.weights.file_identity import Identity
from tests.support import servers
from tests.support.published import DATA, MD5, NAME, TINY
from tests.support.servers import FaultyServer


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(download, "LIMITS", Limits(connect=5, read=10, total=None))


@pytest.fixture
def path():
    models_dir().mkdir(parents=True)
    return models_dir() / NAME


@pytest.fixture
def no_hashing(monkeypatch):
    """Any measuring from here on fails the test."""

    def measure(path):
        raise AssertionError(f"{path} was hashed")

    monkeypatch.setattr(verified, "measure", measure)


def refusal(**options) -> str:
    with pytest.raises(WeightsUnavailableError) as caught:
        store.locate(TINY, **options)
    assert caught.value.exit_code == 3
    return str(caught.value)


def test_a_download_lands_where_keras_looks_and_leaves_nothing_else():
    seen = []
    with FaultyServer(servers.serving(DATA)) as server:
        path = store.locate(TINY, base_url=server.url, progress=lambda *said: seen.append(said))
        assert server.requests[0].path == f"/{NAME}"
    assert path == models_dir() / NAME
    assert path.read_bytes() == DATA
    assert [entry.name for entry in path.parent.iterdir()] == [NAME]
    assert seen[-1] == (NAME, len(DATA), len(DATA))
    assert [done for _, done, _ in seen] == sorted({done for _, done, _ in seen})


def test_a_file_that_keras_fetched_is_used_and_hashed_once(path, monkeypatch):
    path.write_bytes(DATA)
    assert store.status(TINY).state == "unchecked"
    assert store.locate(TINY, offline=True) == path
    assert store.status(TINY).state == "ready"
    monkeypatch.setattr(verified, "measure", None)
    assert store.locate(TINY, offline=True) == path


def test_a_downloaded_file_is_not_hashed_again(no_hashing):
    with FaultyServer(servers.serving(DATA)) as server:
        store.locate(TINY, base_url=server.url)
    assert store.locate(TINY, offline=True).read_bytes() == DATA


def test_a_change_after_the_check_is_noticed(path):
    path.write_bytes(DATA)
    store.locate(TINY)
    times = path.stat()
    path.write_bytes(DATA[:-1] + b"!")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "is not the published file" in refusal()
    assert store.status(TINY).state == "wrong"


def test_another_file_of_that_name_is_named_and_left_alone(path):
    path.write_bytes(b"my own weights")
    with FaultyServer(servers.serving(DATA)) as server:
        for attempt in (store.locate, store.download):
            with pytest.raises(WeightsUnavailableError) as caught:
                attempt(TINY, base_url=server.url)
        assert not server.requests
    message = str(caught.value)
    assert str(path) in message and MD5 in message
    assert f"densenet download-weights {TINY.name} --force" in message and "--weights FILE" in message
    assert path.read_bytes() == b"my own weights"


def test_force_keeps_another_file_beside_the_published_one(path):
    path.write_bytes(b"my own weights")
    with FaultyServer(servers.status(404), servers.serving(DATA)) as server:
        with pytest.raises(WeightsUnavailableError):
            store.download(TINY, base_url=server.url, force=True)
        assert path.read_bytes() == b"my own weights"
        store.download(TINY, base_url=server.url, force=True)
    assert path.read_bytes() == DATA
    (kept,) = path.parent.glob("*.old")
    assert kept.read_bytes() == b"my own weights"


def test_force_fetches_what_is_there(path):
    path.write_bytes(DATA)
    with FaultyServer(servers.serving(DATA)) as server:
        assert store.download(TINY, base_url=server.url) == path
        assert not server.requests
        store.download(TINY, base_url=server.url, force=True)
        assert len(server.requests) == 1
    assert [entry.name for entry in path.parent.iterdir()] == [NAME]


def test_verify_hashes_whatever_is_remembered(path):
    assert store.verify(TINY).state == "absent"
    path.write_bytes(DATA)
    assert store.verify(TINY).state == "ready"
    # A record that claims something else about this very file, as a damaged disk would have it.
    verified.remember(Identity.of(path), "0" * 32)
    assert store.status(TINY).state == "wrong"
    seen = store.verify(TINY)
    assert (seen.state, seen.md5, seen.size) == ("ready", MD5, len(DATA))


def test_the_error_says_what_was_tried_why_it_failed_and_how_to_go_on(monkeypatch):
    with FaultyServer(servers.status(404)) as first, FaultyServer(servers.serving(b"<html>Log in</html>")) as second:
        monkeypatch.setattr(store, "BASES", (first.url.replace("//", "//me:secret@"), second.url))
        message = refusal()
    assert f"{first.url}{NAME}\n    the server answered 404 Not Found" in message
    assert f"{second.url}{NAME}\n    what it sent is not the published file: 19 bytes with the MD5" in message
    assert message.index(first.url) < message.index(second.url)
    assert f"densenet download-weights {TINY.name} --base-url URL" in message
    assert "--weights FILE" in message
    assert "secret" not in message
    assert not (models_dir() / NAME).exists() and not list(models_dir().glob("*.part"))


def test_the_published_bases_are_tried_in_order(monkeypatch):
    assert [base.split("/")[2] for base in store.BASES] == ["storage.googleapis.com", "github.com"]
    with FaultyServer(servers.status(500)) as first, FaultyServer(servers.serving(DATA)) as second:
        monkeypatch.setattr(store, "BASES", (first.url, second.url))
        assert store.locate(TINY).read_bytes() == DATA
        assert len(first.requests) == 3 and len(second.requests) == 1


def test_the_environment_names_a_mirror_and_the_option_goes_before_it(monkeypatch):
    with FaultyServer(servers.serving(DATA)) as server:
        monkeypatch.setenv("DENSENET_BASE_URL", "http://127.0.0.1:9/never")
        store.download(TINY, base_url=f"{server.url}some/folder")
        monkeypatch.setenv("DENSENET_BASE_URL", f"{server.url}another//")
        store.download(TINY, force=True)
        assert [request.path for request in server.requests] == [f"/some/folder/{NAME}", f"/another/{NAME}"]


def test_a_folder_as_mirror(tmp_path):
    mirror = tmp_path / "a mirror"
    mirror.mkdir()
    message = refusal(base_url=mirror.as_uri())
    assert "there is no such file" in message
    (mirror / NAME).write_bytes(DATA[:-1])
    assert "is not the published file" in refusal(base_url=mirror.as_uri())
    (mirror / NAME).write_bytes(DATA)
    models_dir().mkdir(parents=True, exist_ok=True)
    (models_dir() / f"{NAME}.part").write_bytes(DATA[:1000])
    assert store.locate(TINY, base_url=mirror.as_uri()).read_bytes() == DATA


@pytest.mark.parametrize("url", ["/media/usb", "ftp://host/", "file://host/share", "mirror.example.org"])
def test_a_base_url_of_another_kind_is_wrong_usage(url):
    with pytest.raises(UsageError, match="begins with http://, https:// or file:///"):
        store.download(TINY, base_url=url)


def test_offline_asks_nobody():
    with FaultyServer(servers.serving(DATA)) as server:
        message = refusal(offline=True, base_url=server.url)
        assert not server.requests
    assert "--offline" in message and "--base-url URL" in message and "--weights FILE" in message
    assert not models_dir().exists()


def test_a_variant_without_published_weights_asks_for_a_checkpoint():
    with pytest.raises(WeightsUnavailableError, match=r"No weights are published for densenet161.*--weights FILE"):
        store.locate(variants.get("161"))


def test_a_folder_in_the_place_of_the_file(path):
    path.mkdir()
    assert f"{path} can't be read: Is a directory" in refusal()


def test_a_cache_that_cant_be_written_costs_only_the_memory(path, monkeypatch):
    cache_dir().write_bytes(b"a file where a folder should be")
    path.write_bytes(DATA)
    for _ in range(2):
        assert store.locate(TINY) == path
    assert store.status(TINY).state == "unchecked"


def test_pruning_a_cache_that_can_be_none(monkeypatch):
    monkeypatch.setenv("DENSENET_CACHE", os.devnull)
    assert verified.prune() == []


def test_records_of_files_that_are_gone_are_pruned(path):
    path.write_bytes(DATA)
    store.locate(TINY)
    assert verified.prune() == []
    path.write_bytes(b"")
    assert len(verified.prune()) == 1
    assert not list(verified.folder().iterdir())


def test_a_damaged_record_is_no_record(path):
    path.write_bytes(DATA)
    store.locate(TINY)
    (record,) = verified.folder().iterdir()
    for damage in (b"", MD5.encode()[:31], b"\xff" * 32, b"\n"):
        record.write_bytes(damage)
        assert store.status(TINY).state == "unchecked"
    assert store.locate(TINY) == path
    assert store.status(TINY).state == "ready"


def test_finding_a_remembered_file_loads_nothing_heavy(path):
    path.write_bytes(DATA)
    store.locate(TINY)
    script = """
import sys
from densenet_cli.weights import store
from tests.support.published import TINY
before = set(sys.modules)
store.locate(TINY)
heavy = {"requests", "urllib3", "ssl", "socket", "json", "logging", "http", "tempfile", "numpy"}
print(sorted(heavy & set(sys.modules)), sorted(set(sys.modules) - before))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[] []", run.stdout
