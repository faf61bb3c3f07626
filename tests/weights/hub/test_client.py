"""Faults of downloads from the Hub: interruptions, wrong data, killed processes, races, full disks, and permissions."""

from __future__ import annotations

import os
import random
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
from densenet_cli.weights import download
from densenet_cli.weights.hub import checkpoints as hub
from densenet_cli.weights.hub import client as hub_client
from densenet_cli.weights.hub.cache import RepositoryCache
from densenet_cli.weights.hub.url import HubUrl
from tests.support import servers
from tests.support.hub import REPOSITORY, Hub, checksum
from tests.support.small_disk import MOUNT_NAMESPACE, needs_a_small_disk

URL = f"hf://{REPOSITORY}"
DATA = random.Random(5).randbytes(400_000)
CONFIG = b'{"architecture": "densenet121"}'
HALF = len(DATA) // 2
MAX_LOSS = download.CHUNK_SIZE
"""Bytes that an interruption can lose: one chunk."""

CHILD = """
import os, sys
import requests
from densenet_cli.errors import WeightsUnavailableError
from densenet_cli.http import Timeouts
from densenet_cli.weights import download
from densenet_cli.weights.hub import checkpoints as hub, client as hub_client, url as hub_url
download.RETRY_DELAYS, download.TIMEOUTS = (0.0, 0.0), Timeouts(2, 5, None)
"""

pytestmark = pytest.mark.usefixtures("short_timeouts")


@pytest.fixture
def server(monkeypatch):
    with Hub({"model.safetensors": DATA, "config.json": CONFIG}).serve() as content:
        monkeypatch.setenv("HF_ENDPOINT", content.endpoint)
        yield content


def partial_file() -> Path:
    return RepositoryCache(REPOSITORY).partial(checksum(DATA))


def blobs() -> set[str]:
    return {path.name for path in partial_file().parent.iterdir()}


def starts(server: Hub) -> list[int]:
    """Return the offset of each request to the CDN."""
    return [request.start for request in server.cdn.requests]


def error_message() -> str:
    with pytest.raises(WeightsUnavailableError) as caught:
        hub.get_files(URL)
    assert hub.find_cached(HubUrl(REPOSITORY)) == []
    return str(caught.value)


def child(code: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_progress(server):
    reports = []
    hub.get_files(URL, progress=lambda *progress: reports.append(progress))
    assert {report[0] for report in reports} == {"densenet121.ra_in1k/model.safetensors"}
    assert reports[-1][1:] == (len(DATA), len(DATA))
    assert [done for _, done, _ in reports] == sorted({done for _, done, _ in reports})


@pytest.mark.parametrize(
    "fault",
    [
        servers.disconnecting(DATA, HALF),
        servers.disconnecting(DATA, HALF, reset=True),
        servers.stalling(DATA, HALF),
        servers.status(500),
        servers.status(429),
    ],
)
def test_interrupted_download_resumes(server, fault, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUTS", Timeouts(connect=5, read=0.5, total=None))
    server.cdn_handlers.append(fault)
    assert hub.get_files(URL).read_bytes() == DATA
    first, *later = starts(server)
    assert first == 0 and len(later) == 1
    assert later[0] == 0 or HALF - MAX_LOSS <= later[0] <= HALF
    assert blobs() == {checksum(DATA), checksum(CONFIG)}


def test_later_call_resumes_an_interrupted_download(server):
    server.cdn_handlers += [servers.disconnecting(DATA, HALF), *[servers.status(503)] * 3]
    assert "503" in error_message()
    size = partial_file().stat().st_size
    assert HALF - MAX_LOSS <= size <= HALF
    status = hub.status(HubUrl(REPOSITORY), "x")
    assert (status.state, status.partial) == ("partial", size)
    server.cdn.requests.clear()
    server.cdn_handlers.clear()
    assert hub.get_files(URL).read_bytes() == DATA
    assert starts(server) == [size]


def test_connection_that_always_breaks_but_makes_progress(server, monkeypatch):
    monkeypatch.setattr(download, "MIN_PROGRESS", 1000)
    server.cdn_handlers += [servers.disconnecting(DATA, 70_000)] * 10
    assert hub.get_files(URL).read_bytes() == DATA
    assert len(server.cdn.requests) >= 6


@pytest.mark.parametrize("junk", [b"<html>Log in</html>", bytes(HALF), DATA + b"more", bytes(len(DATA))])
def test_partial_file_with_other_contents_is_downloaded_again(server, junk):
    partial_file().parent.mkdir(parents=True)
    partial_file().write_bytes(junk)
    assert hub.get_files(URL).read_bytes() == DATA


def test_complete_partial_file_is_not_downloaded_again(server):
    partial_file().parent.mkdir(parents=True)
    partial_file().write_bytes(DATA)
    assert hub.get_files(URL).read_bytes() == DATA
    assert server.cdn.requests == []


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (servers.serving(DATA[:-1] + b"!"), "400,000 bytes"),
        (servers.serving(DATA + b"!"), "more than 400,000 bytes"),
        (servers.serving(b""), "(0 bytes"),
        (servers.without_length(DATA[:HALF]), "200,000 bytes"),
        (servers.endless, "more than 400,000 bytes"),
        (servers.status(403), "403 Forbidden"),
        (servers.status(404), "404 Not Found"),
        (servers.redirecting("file:///etc/passwd"), "scheme 'file'"),
        (servers.raw(b"\x00\x01\x02\r\n"), "not valid HTTP"),
    ],
)
def test_wrong_response_leaves_no_blob(server, handler, reason):
    server.cdn_handlers += [handler] * 3
    message = error_message()
    assert reason in message and "signed-secret" not in message and "does not exist" not in message
    assert checksum(DATA) not in blobs()
    server.cdn_handlers.clear()
    assert hub.get_files(URL).read_bytes() == DATA


@pytest.mark.parametrize(
    "handler",
    [servers.without_length(DATA), servers.compressing(DATA), servers.sending_slowly(DATA, pieces=20, pause=0.01)],
)
def test_response_without_length_compressed_or_slow(server, handler):
    server.cdn_handlers.append(handler)
    assert hub.get_files(URL).read_bytes() == DATA


def test_small_file_is_verified(server):
    server.hub_handlers += [server.answer] * 3 + [servers.serving(b'{"architecture": "densenet169"}')] * 3
    assert "config.json" in error_message()
    server.hub_handlers.clear()
    assert hub.get_files(URL).with_name("config.json").read_bytes() == CONFIG


def test_slow_headers_end_in_an_error(server, monkeypatch):
    monkeypatch.setattr(hub_client, "TIMEOUTS", Timeouts(connect=2, read=1, total=0.5))
    server.hub_handlers += [servers.sending_headers_slowly] * 3
    assert "longer than 0.5 s" in error_message()


def test_download_of_a_killed_process_is_resumed(server):
    server.cdn_handlers.append(servers.stalling(DATA, HALF))
    process = child(f"hub.get_files({URL!r})")
    deadline = time.monotonic() + 20
    while not (partial_file().exists() and partial_file().stat().st_size >= HALF - MAX_LOSS):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    size = partial_file().stat().st_size
    server.cdn.requests.clear()
    process = child(
        f"print(hub.get_files({URL!r}).read_bytes() == open({str(partial_file().with_suffix(''))!r}, 'rb').read())"
    )
    assert process.communicate(timeout=30) == ("True\n", "")
    assert starts(server) == [size]


def test_concurrent_processes_download_the_file_once(server):
    resume = threading.Event()

    def handler(request: servers.Request) -> None:
        request.head(200, Content_Length=len(DATA))
        request.send(DATA[:HALF])
        resume.wait(30)
        request.send(DATA[HALF:])

    server.cdn_handlers += [handler] * 3
    code = f"print(len(hub.get_files({URL!r}, progress=lambda *progress: print(*progress, flush=True)).read_bytes()))"
    processes = [child(code) for _ in range(3)]
    # One process has half of the file. The others wait and report its progress.
    first = [process.stdout.readline() for process in processes]
    resume.set()
    outputs = [process.communicate(timeout=30) for process in processes]
    assert len(server.cdn.requests) == 1
    assert all(line.startswith("densenet121.ra_in1k/model.safetensors ") for line in first), (first, outputs)
    assert [out.splitlines()[-1] for out, _ in outputs] == [str(len(DATA))] * 3, outputs
    assert blobs() == {checksum(DATA), checksum(CONFIG)}


def test_full_device(server):
    partial_file().parent.mkdir(parents=True)
    partial_file().symlink_to("/dev/full")
    message = error_message()
    assert "disk is full" in message and "HF_HOME" in message


ON_A_SMALL_DISK = f"""
import subprocess
home = os.environ["HF_HOME"]
os.makedirs(home)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", home], check=True)
try:
    hub.get_files({URL!r})
except WeightsUnavailableError as error:
    print(error, flush=True)
subprocess.run(["mount", "-o", "remount,size=2m", home], check=True)
print(len(hub.get_files({URL!r}).read_bytes()))
"""


@needs_a_small_disk
def test_small_disk_that_is_enlarged(server):
    command = [*MOUNT_NAMESPACE, sys.executable, "-c", CHILD + ON_A_SMALL_DISK]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr
    first, size = starts(server)
    assert first == 0 and 192 * 1024 - MAX_LOSS <= size <= 256 * 1024
    message, resumed = run.stdout.splitlines()
    assert "disk is full" in message
    assert resumed == str(len(DATA))


@pytest.fixture
def public_folder(monkeypatch):
    """A folder that every user can enter, as ``HF_HOME``."""
    path = Path(tempfile.mkdtemp(prefix="densenet-"))
    path.chmod(0o755)
    monkeypatch.setenv("HF_HOME", str(path))
    yield path
    shutil.rmtree(path)


AS_NOBODY = f"""
if os.geteuid() == 0:
    os.setgroups([]); os.setegid(65534); os.seteuid(65534)
from densenet_cli.weights.hub.url import HubUrl
try:
    print(hub.get_files({URL!r}))
    print(hub.download(HubUrl({REPOSITORY!r})))
except WeightsUnavailableError as error:
    print(error)
"""


def test_cache_that_is_not_writable(server, public_folder):
    public_folder.chmod(0o555)
    out, err = child(AS_NOBODY).communicate(timeout=30)
    public_folder.chmod(0o755)
    assert err == ""
    assert str(public_folder) in out and "Permission denied" in out and "HF_HOME" in out
    assert server.cdn.requests == []


def test_files_are_used_if_neither_the_cache_nor_that_of_checksums_is_writable(server, public_folder):
    path = hub.get_files(URL)
    for folder, _, _ in os.walk(public_folder):
        os.chmod(folder, 0o555)
    environment = {**os.environ, "DENSENET_CACHE": str(public_folder / "cache")}
    for _ in range(2):
        assert child(AS_NOBODY, env=environment).communicate(timeout=30) == (f"{path}\n" * 2, "")
    for folder, _, _ in os.walk(public_folder):
        os.chmod(folder, 0o755)


def test_blob_that_is_not_readable(server, public_folder):
    hub.get_files(URL).resolve().chmod(0)
    environment = {**os.environ, "DENSENET_CACHE": str(public_folder / "cache")}
    out, err = child(AS_NOBODY, env=environment).communicate(timeout=30)
    assert "Permission denied" in out and err == ""


def test_lock_is_that_of_huggingface_hub(server):
    """The name of the lock file was recorded with huggingface_hub 2.4, which locks it with ``flock``."""
    fcntl = pytest.importorskip("fcntl")
    lock = RepositoryCache(REPOSITORY).folder.parent / ".locks" / f"models--{REPOSITORY.replace('/', '--')}"
    lock.mkdir(parents=True)
    with (lock / f"{checksum(DATA)}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        process = child(f"hub.get_files({URL!r}, progress=lambda *progress: print(*progress, flush=True))")
        assert process.stdout.readline() == f"densenet121.ra_in1k/model.safetensors 0 {len(DATA)}\n"
        assert server.cdn.requests == []
    process.communicate(timeout=30)
    assert len(server.cdn.requests) == 1
