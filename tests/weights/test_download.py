"""Faults of downloads: interruptions, wrong data, killed processes, races, full disks, and missing permissions."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from densenet_cli.errors import WeightsUnavailableError
from densenet_cli.http import Timeouts
from densenet_cli.paths import models_dir
from densenet_cli.weights import download, store
from tests.support import servers
from tests.support.published import CHILD, DATA, NAME, TINY
from tests.support.servers import FaultyServer
from tests.support.small_disk import MOUNT_NAMESPACE, needs_a_small_disk

pytestmark = pytest.mark.usefixtures("short_timeouts")

HALF = len(DATA) // 2
MAX_LOSS = download.CHUNK_SIZE
"""Bytes that an interruption can lose: one chunk."""


def partial_file() -> Path:
    return models_dir() / f"{NAME}.part"


def starts(server: FaultyServer) -> list[int]:
    return [request.start for request in server.requests]


def error_message(url: str) -> str:
    with pytest.raises(WeightsUnavailableError) as caught:
        store.download(TINY, base_url=url)
    assert not (models_dir() / NAME).exists()
    return str(caught.value)


def child(code: str, *arguments: object, **options: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD + code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize(
    "fault",
    [
        servers.disconnecting(DATA, HALF),
        servers.disconnecting(DATA, HALF, reset=True),
        servers.stalling(DATA, HALF),
        servers.wrong_length(DATA, len(DATA) + 10),
    ],
)
def test_interrupted_download_resumes(fault, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUTS", Timeouts(connect=5, read=0.5, total=None))
    with FaultyServer(fault, servers.serving(DATA)) as server:
        assert store.download(TINY, base_url=server.url).read_bytes() == DATA
        first, *later = starts(server)
        assert first == 0
        assert all(start >= HALF - MAX_LOSS for start in later)


def test_download_resumes_from_another_base_url(monkeypatch):
    broken = FaultyServer(servers.disconnecting(DATA, HALF), servers.status(404))
    with broken as first, FaultyServer(servers.serving(DATA)) as second:
        monkeypatch.setattr(store, "BASE_URLS", (first.url, second.url))
        assert store.download(TINY).read_bytes() == DATA
        assert HALF - MAX_LOSS <= starts(second)[0] <= HALF


def test_later_call_resumes_an_interrupted_download():
    with FaultyServer(servers.disconnecting(DATA, HALF), servers.status(503)) as server:
        assert "503 Service Unavailable" in error_message(server.url)
        assert len(server.requests) == 3
    size = partial_file().stat().st_size
    assert HALF - MAX_LOSS <= size <= HALF
    status = store.status(TINY)
    assert (status.state, status.partial) == ("partial", size)
    with FaultyServer(servers.serving(DATA)) as server:
        assert store.get_file(TINY, base_url=server.url).read_bytes() == DATA
        assert starts(server) == [size]


def test_connection_that_always_breaks_but_makes_progress(monkeypatch):
    monkeypatch.setattr(download, "MIN_PROGRESS", 1000)
    with FaultyServer(servers.disconnecting(DATA, 70_000)) as server:
        assert store.download(TINY, base_url=server.url).read_bytes() == DATA
        assert len(server.requests) >= 6


def test_server_without_range_support_does_not_truncate_the_partial_file():
    with FaultyServer(
        servers.disconnecting(DATA, HALF), servers.disconnecting(DATA, HALF // 2, ranges=False)
    ) as server:
        assert "closed the connection" in error_message(server.url)
        assert HALF - MAX_LOSS <= partial_file().stat().st_size <= HALF
    with FaultyServer(servers.serving(DATA, ranges=False)) as server:
        assert store.download(TINY, base_url=server.url).read_bytes() == DATA
        assert len(server.requests) == 1


@pytest.mark.parametrize("shift", [-5, 5])
def test_response_with_another_range_is_not_used(shift):
    with FaultyServer(servers.disconnecting(DATA, HALF), servers.wrong_range(DATA, shift)) as server:
        assert store.download(TINY, base_url=server.url).read_bytes() == DATA
        assert starts(server)[-1] == 0


@pytest.mark.parametrize("junk", [b"<html>Log in first</html>", bytes(HALF), DATA + b"more", bytes(len(DATA))])
def test_partial_file_with_other_contents_is_downloaded_again(junk):
    partial_file().parent.mkdir(parents=True)
    partial_file().write_bytes(junk)
    with FaultyServer(servers.serving(DATA)) as server:
        assert store.download(TINY, base_url=server.url).read_bytes() == DATA
        assert starts(server) == [len(junk), 0]


def test_complete_partial_file_needs_no_request():
    partial_file().parent.mkdir(parents=True)
    partial_file().write_bytes(DATA)
    with FaultyServer(servers.status(404)) as server:
        assert store.download(TINY, base_url=server.url).read_bytes() == DATA
        assert not server.requests


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (servers.serving(DATA[:-1] + b"!"), "400,000 bytes"),
        (servers.serving(DATA + b"!"), "400,001 bytes"),
        (servers.serving(b""), "(0 bytes"),
        (servers.wrong_length(DATA, HALF), "200,000 bytes"),
        (servers.without_length(DATA[:HALF]), "200,000 bytes"),
        (servers.status(403), "403 Forbidden"),
        (servers.redirecting("file:///etc/passwd"), "scheme 'file'"),
        (servers.redirecting("/again"), "redirected more than 10 times"),
        (servers.raw(b"\x00\x01\x02\r\n"), "not valid HTTP"),
    ],
)
def test_wrong_response_leaves_no_file(handler, reason):
    with FaultyServer(handler) as server:
        assert reason in error_message(server.url)
    assert not partial_file().exists()
    with FaultyServer(servers.serving(DATA)) as server:
        assert store.download(TINY, base_url=server.url).read_bytes() == DATA


@pytest.mark.parametrize(
    "handler",
    [servers.without_length(DATA), servers.compressing(DATA), servers.sending_slowly(DATA, pieces=20, pause=0.01)],
)
def test_response_without_length_compressed_or_slow(handler):
    with FaultyServer(handler) as server, FaultyServer(servers.redirecting(f"{server.url}else")) as front:
        assert store.download(TINY, base_url=front.url).read_bytes() == DATA


def test_resuming_from_a_server_that_compresses():
    with FaultyServer(servers.disconnecting(DATA, HALF), servers.compressing(DATA)) as server:
        assert store.download(TINY, base_url=server.url).read_bytes() == DATA


def test_endless_response_is_stopped(monkeypatch):
    monkeypatch.setattr(download, "MAX_SIZE", 1_000_000)
    with FaultyServer(servers.endless) as server:
        assert "more than 1,000,000 bytes" in error_message(server.url)


def test_download_of_a_killed_process_is_resumed():
    with FaultyServer(servers.stalling(DATA, HALF)) as server:
        process = child("store.download(TINY, base_url=sys.argv[1])", server.url)
        deadline = time.monotonic() + 20
        while not (partial_file().exists() and partial_file().stat().st_size >= HALF - MAX_LOSS):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.communicate()
    size = partial_file().stat().st_size
    assert store.status(TINY).state == "partial"
    with FaultyServer(servers.serving(DATA)) as server:
        process = child("print(store.get_file(TINY, base_url=sys.argv[1]))", server.url)
        out, err = process.communicate(timeout=30)
        assert (out.strip(), err) == (str(models_dir() / NAME), "")
        assert starts(server) == [size]
    assert (models_dir() / NAME).read_bytes() == DATA


def test_concurrent_processes_download_the_file_once():
    code = """
path = store.get_file(TINY, base_url=sys.argv[1], progress=lambda *progress: print(*progress, flush=True))
print(path.read_bytes() == DATA)
"""
    resume = threading.Event()

    def handler(request: servers.Request) -> None:
        request.head(200, Content_Length=len(DATA))
        request.send(DATA[:HALF])
        resume.wait(30)
        request.send(DATA[HALF:])

    with FaultyServer(handler) as server:
        processes = [child(code, server.url) for _ in range(3)]
        # One process has half of the file. The others wait and report its progress.
        first = [process.stdout.readline() for process in processes]
        resume.set()
        outputs = [process.communicate(timeout=30) for process in processes]
        assert len(server.requests) == 1
    assert all(line.startswith(f"{NAME} ") for line in first), (first, outputs)
    assert [out.splitlines()[-1] for out, _ in outputs] == ["True"] * 3, outputs
    assert [entry.name for entry in models_dir().iterdir()] == [NAME]


def test_full_disk_keeps_the_partial_file(monkeypatch):
    open_partial = download._open_partial

    class FileOnFullDisk:
        """A file on a disk with space for half of it."""

        def __init__(self, path: Path) -> None:
            self.file = open_partial(path)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, data: bytes) -> None:
            if self.file.tell() + len(data) > HALF:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.file.write(data)

        def __getattr__(self, name: str):
            return getattr(self.file, name)

    with monkeypatch.context() as patch, FaultyServer(servers.serving(DATA)) as server:
        patch.setattr(download, "_open_partial", FileOnFullDisk)
        message = error_message(server.url)
        assert len(server.requests) == 1
    size = partial_file().stat().st_size
    assert size >= HALF - MAX_LOSS
    assert "disk is full" in message and f"{size:,} bytes" in message
    with FaultyServer(servers.serving(DATA)) as server:
        assert store.download(TINY, base_url=server.url).read_bytes() == DATA
        assert starts(server) == [size]


def test_full_device():
    partial_file().parent.mkdir(parents=True)
    partial_file().symlink_to("/dev/full")
    with FaultyServer(servers.serving(DATA)) as server:
        message = error_message(server.url)
        assert "disk is full" in message and "0 bytes" in message


ON_A_SMALL_DISK = """
import subprocess
from densenet_cli.errors import WeightsUnavailableError
from densenet_cli.paths import models_dir
home = str(models_dir().parent)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", home], check=True)
try:
    store.download(TINY, base_url=sys.argv[1])
except WeightsUnavailableError as error:
    print(error, flush=True)
subprocess.run(["mount", "-o", "remount,size=2m", home], check=True)
print(store.download(TINY, base_url=sys.argv[1]).read_bytes() == DATA)
"""


@needs_a_small_disk
def test_small_disk_that_is_enlarged():
    models_dir().parent.mkdir(parents=True)
    with FaultyServer(servers.serving(DATA)) as server:
        command = [*MOUNT_NAMESPACE, sys.executable, "-c", CHILD + ON_A_SMALL_DISK, server.url]
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert run.returncode == 0, run.stderr
        first, size = starts(server)
    assert first == 0 and 256 * 1024 - MAX_LOSS <= size <= 256 * 1024
    message, resumed = run.stdout.splitlines()
    assert "disk is full" in message and f"{size:,} bytes" in message
    assert resumed == "True"


@pytest.fixture
def public_folder():
    """A folder that every user can enter."""
    path = Path(tempfile.mkdtemp(prefix="densenet-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


AS_NOBODY = """
if os.geteuid() == 0:
    os.setgroups([]); os.setegid(65534); os.seteuid(65534)
from densenet_cli.errors import WeightsUnavailableError
try:
    print(store.get_file(TINY, base_url=sys.argv[1]))
    print(store.download(TINY, base_url=sys.argv[1]))
except WeightsUnavailableError as error:
    print(error)
"""


@pytest.mark.parametrize("exists", [True, False])
def test_models_folder_that_is_not_writable(public_folder, exists):
    if exists:
        (public_folder / "models").mkdir()
        (public_folder / "models").chmod(0o555)
    public_folder.chmod(0o555)
    with FaultyServer(servers.serving(DATA)) as server:
        process = child(AS_NOBODY, server.url, env={**os.environ, "KERAS_HOME": str(public_folder)})
        out, err = process.communicate(timeout=30)
        assert not server.requests
    assert err == ""
    assert f"{public_folder}/models: Permission denied" in out
    assert "KERAS_HOME" in out
    public_folder.chmod(0o755)


def test_weights_are_used_if_neither_their_folder_nor_the_cache_is_writable(public_folder):
    (public_folder / "models").mkdir()
    (public_folder / "models" / NAME).write_bytes(DATA)
    (public_folder / "models").chmod(0o555)
    for _ in range(2):
        environment = {**os.environ, "KERAS_HOME": str(public_folder), "DENSENET_CACHE": str(public_folder / "cache")}
        process = child(AS_NOBODY, "http://127.0.0.1:9/", env=environment)
        assert process.communicate(timeout=30) == (f"{public_folder}/models/{NAME}\n" * 2, "")
    (public_folder / "models").chmod(0o755)


def test_weights_that_are_not_readable(public_folder):
    (public_folder / "models").mkdir()
    (public_folder / "models" / NAME).write_bytes(DATA)
    (public_folder / "models" / NAME).chmod(0)
    process = child(AS_NOBODY, "http://127.0.0.1:9/", env={**os.environ, "KERAS_HOME": str(public_folder)})
    out, err = process.communicate(timeout=30)
    assert f"{public_folder}/models/{NAME}: Permission denied" in out
    assert err == ""
