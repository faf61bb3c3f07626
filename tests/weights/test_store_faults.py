"""Downloads that go wrong: cut, stalled, corrupt, lied about, killed, raced, without room, without permission."""

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
from densenet_cli.http import Limits
from densenet_cli.paths import models_dir
from densenet_cli.weights import download, store
from tests.support import servers
from tests.support.published import CHILD, DATA, NAME, TINY
from tests.support.servers import FaultyServer
from tests.support.small_disk import IN_A_NAMESPACE, needs_a_small_disk

HALF = len(DATA) // 2
LOST = download.CHUNK
"""What a cut may cost at most: the piece that was on its way."""


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(download, "LIMITS", Limits(connect=5, read=10, total=None))


def part() -> Path:
    return models_dir() / f"{NAME}.part"


def starts(server: FaultyServer) -> list[int]:
    return [request.start for request in server.requests]


def refusal(url: str) -> str:
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
        servers.cutting(DATA, HALF),
        servers.cutting(DATA, HALF, reset=True),
        servers.stalling(DATA, HALF),
        servers.lying(DATA, len(DATA) + 10),
    ],
)
def test_a_cut_download_goes_on_where_it_stopped(fault, monkeypatch):
    monkeypatch.setattr(download, "LIMITS", Limits(connect=5, read=0.5, total=None))
    with FaultyServer(fault, servers.serving(DATA)) as server:
        assert store.download(TINY, base_url=server.url).read_bytes() == DATA
        first, *later = starts(server)
        assert first == 0
        assert all(start >= HALF - LOST for start in later)


def test_it_goes_on_from_another_base(monkeypatch):
    broken = FaultyServer(servers.cutting(DATA, HALF), servers.status(404))
    with broken as first, FaultyServer(servers.serving(DATA)) as second:
        monkeypatch.setattr(store, "BASES", (first.url, second.url))
        assert store.download(TINY).read_bytes() == DATA
        assert HALF - LOST <= starts(second)[0] <= HALF


def test_an_interrupted_download_does_not_count_and_a_later_call_continues_it():
    with FaultyServer(servers.cutting(DATA, HALF), servers.status(503)) as server:
        assert "503 Service Unavailable" in refusal(server.url)
        assert len(server.requests) == 3
    kept = part().stat().st_size
    assert HALF - LOST <= kept <= HALF
    seen = store.status(TINY)
    assert (seen.state, seen.partial) == ("partial", kept)
    with FaultyServer(servers.serving(DATA)) as server:
        assert store.locate(TINY, base_url=server.url).read_bytes() == DATA
        assert starts(server) == [kept]


def test_a_line_that_breaks_all_the_time_gets_there_as_long_as_it_moves(monkeypatch):
    monkeypatch.setattr(download, "WORTHWHILE", 1000)
    with FaultyServer(servers.cutting(DATA, 70_000)) as server:
        assert store.download(TINY, base_url=server.url).read_bytes() == DATA
        assert len(server.requests) >= 6


def test_a_server_that_ignores_ranges_is_read_from_the_start_without_losing_what_there_is():
    with FaultyServer(servers.cutting(DATA, HALF), servers.cutting(DATA, HALF // 2, ranges=False)) as server:
        assert "the server cut the connection" in refusal(server.url)
        assert HALF - LOST <= part().stat().st_size <= HALF
    with FaultyServer(servers.serving(DATA, ranges=False)) as server:
        assert store.download(TINY, base_url=server.url).read_bytes() == DATA
        assert len(server.requests) == 1


@pytest.mark.parametrize("shift", [-5, 5])
def test_an_answer_with_another_range_is_not_used(shift):
    with FaultyServer(servers.cutting(DATA, HALF), servers.another_range(DATA, shift)) as server:
        assert store.download(TINY, base_url=server.url).read_bytes() == DATA
        assert starts(server)[-1] == 0


@pytest.mark.parametrize("junk", [b"<html>Log in first</html>", bytes(HALF), DATA + b"more", bytes(len(DATA))])
def test_a_partial_file_of_something_else_is_found_out_and_fetched_anew(junk):
    part().parent.mkdir(parents=True)
    part().write_bytes(junk)
    with FaultyServer(servers.serving(DATA)) as server:
        assert store.download(TINY, base_url=server.url).read_bytes() == DATA
        assert starts(server) == [len(junk), 0]


def test_a_partial_file_that_is_whole_needs_no_server():
    part().parent.mkdir(parents=True)
    part().write_bytes(DATA)
    with FaultyServer(servers.status(404)) as server:
        assert store.download(TINY, base_url=server.url).read_bytes() == DATA
        assert not server.requests


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (servers.serving(DATA[:-1] + b"!"), "is not the published file: 400,000 bytes with the MD5"),
        (servers.serving(DATA + b"!"), "is not the published file: 400,001 bytes"),
        (servers.serving(b""), "is not the published file: 0 bytes"),
        (servers.lying(DATA, HALF), "is not the published file: 200,000 bytes"),
        (servers.unannounced(DATA[:HALF]), "is not the published file: 200,000 bytes"),
        (servers.status(403), "the server answered 403 Forbidden"),
        (servers.redirecting("file:///etc/passwd"), "file: is not fetched"),
        (servers.redirecting("/again"), "more than 10 redirects"),
        (servers.raw(b"\x00\x01\x02\r\n"), "the answer was not HTTP"),
    ],
)
def test_what_is_wrong_or_corrupt_never_counts_and_leaves_nothing(answer, said):
    with FaultyServer(answer) as server:
        assert said in refusal(server.url)
    assert not part().exists()
    with FaultyServer(servers.serving(DATA)) as server:
        assert store.download(TINY, base_url=server.url).read_bytes() == DATA


@pytest.mark.parametrize(
    "answer",
    [servers.unannounced(DATA), servers.compressing(DATA), servers.dripping(DATA, pieces=20, pause=0.01)],
)
def test_honest_servers_of_every_manner(answer):
    with FaultyServer(answer) as server, FaultyServer(servers.redirecting(f"{server.url}else")) as front:
        assert store.download(TINY, base_url=front.url).read_bytes() == DATA


def test_a_resumed_download_from_a_server_that_compresses():
    with FaultyServer(servers.cutting(DATA, HALF), servers.compressing(DATA)) as server:
        assert store.download(TINY, base_url=server.url).read_bytes() == DATA


def test_an_answer_without_end_is_stopped(monkeypatch):
    monkeypatch.setattr(download, "MOST", 1_000_000)
    with FaultyServer(servers.endless) as server:
        assert "it sends more than 1,000,000 bytes" in refusal(server.url)


def test_a_killed_process_leaves_what_another_continues():
    with FaultyServer(servers.stalling(DATA, HALF)) as server:
        process = child("store.download(TINY, base_url=sys.argv[1])", server.url)
        until = time.monotonic() + 20
        while not (part().exists() and part().stat().st_size >= HALF - LOST):
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.communicate()
    kept = part().stat().st_size
    assert store.status(TINY).state == "partial"
    with FaultyServer(servers.serving(DATA)) as server:
        process = child("print(store.locate(TINY, base_url=sys.argv[1]))", server.url)
        out, err = process.communicate(timeout=30)
        assert (out.strip(), err) == (str(models_dir() / NAME), "")
        assert starts(server) == [kept]
    assert (models_dir() / NAME).read_bytes() == DATA


def test_processes_that_want_the_same_file_fetch_it_once():
    code = """
path = store.locate(TINY, base_url=sys.argv[1], progress=lambda *said: print(*said, flush=True))
print(path.read_bytes() == DATA)
"""
    go_on = threading.Event()

    def answer(request: servers.Request) -> None:
        request.head(200, Content_Length=len(DATA))
        request.send(DATA[:HALF])
        go_on.wait(30)
        request.send(DATA[HALF:])

    with FaultyServer(answer) as server:
        processes = [child(code, server.url) for _ in range(3)]
        # One has half of it; the others wait, and say how far that one is.
        first = [process.stdout.readline() for process in processes]
        go_on.set()
        answers = [process.communicate(timeout=30) for process in processes]
        assert len(server.requests) == 1
    assert all(line.startswith(f"{NAME} ") for line in first), (first, answers)
    assert [out.splitlines()[-1] for out, _ in answers] == ["True"] * 3, answers
    assert [entry.name for entry in models_dir().iterdir()] == [NAME]


def test_a_full_disk_is_said_and_what_came_is_kept(monkeypatch):
    writing = download._writing

    class Full:
        """A file on a disk that has room for half of it."""

        def __init__(self, path: Path) -> None:
            self.file = writing(path)

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
        patch.setattr(download, "_writing", Full)
        message = refusal(server.url)
        assert len(server.requests) == 1
    kept = part().stat().st_size
    assert kept >= HALF - LOST
    assert "The disk is full" in message and f"{kept:,} bytes" in message
    with FaultyServer(servers.serving(DATA)) as server:
        assert store.download(TINY, base_url=server.url).read_bytes() == DATA
        assert starts(server) == [kept]


def test_a_device_that_is_full():
    part().parent.mkdir(parents=True)
    part().symlink_to("/dev/full")
    with FaultyServer(servers.serving(DATA)) as server:
        assert "The disk is full: 0 bytes" in refusal(server.url)


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
def test_a_small_disk_that_gets_more_room():
    models_dir().parent.mkdir(parents=True)
    with FaultyServer(servers.serving(DATA)) as server:
        command = [*IN_A_NAMESPACE, sys.executable, "-c", CHILD + ON_A_SMALL_DISK, server.url]
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert run.returncode == 0, run.stderr
        first, kept = starts(server)
    assert first == 0 and 256 * 1024 - LOST <= kept <= 256 * 1024
    said, went_on = run.stdout.splitlines()
    assert f"The disk is full: {kept:,} bytes" in said
    assert went_on == "True"


@pytest.fixture
def open_folder():
    """A folder that every user may enter."""
    path = Path(tempfile.mkdtemp(prefix="densenet-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


AS_NOBODY = """
if os.geteuid() == 0:
    os.setgroups([]); os.setegid(65534); os.seteuid(65534)
from densenet_cli.errors import WeightsUnavailableError
try:
    print(store.locate(TINY, base_url=sys.argv[1]))
    print(store.download(TINY, base_url=sys.argv[1]))
except WeightsUnavailableError as error:
    print(error)
"""


@pytest.mark.parametrize("exists", [True, False])
def test_a_models_folder_that_cant_be_written(open_folder, exists):
    if exists:
        (open_folder / "models").mkdir()
        (open_folder / "models").chmod(0o555)
    open_folder.chmod(0o555)
    with FaultyServer(servers.serving(DATA)) as server:
        process = child(AS_NOBODY, server.url, env={**os.environ, "KERAS_HOME": str(open_folder)})
        out, err = process.communicate(timeout=30)
        assert not server.requests
    assert err == ""
    assert f"{open_folder}/models can't be written: Permission denied" in out
    assert "KERAS_HOME" in out and "--weights FILE" in out
    open_folder.chmod(0o755)


def test_weights_in_a_folder_and_with_a_cache_that_cant_be_written_are_used(open_folder):
    (open_folder / "models").mkdir()
    (open_folder / "models" / NAME).write_bytes(DATA)
    (open_folder / "models").chmod(0o555)
    for _ in range(2):
        environment = {**os.environ, "KERAS_HOME": str(open_folder), "DENSENET_CACHE": str(open_folder / "cache")}
        process = child(AS_NOBODY, "http://127.0.0.1:9/", env=environment)
        assert process.communicate(timeout=30) == (f"{open_folder}/models/{NAME}\n" * 2, "")
    (open_folder / "models").chmod(0o755)


def test_weights_that_cant_be_read(open_folder):
    (open_folder / "models").mkdir()
    (open_folder / "models" / NAME).write_bytes(DATA)
    (open_folder / "models" / NAME).chmod(0)
    process = child(AS_NOBODY, "http://127.0.0.1:9/", env={**os.environ, "KERAS_HOME": str(open_folder)})
    out, err = process.communicate(timeout=30)
    assert f"{open_folder}/models/{NAME} can't be read: Permission denied" in out
    assert err == ""
