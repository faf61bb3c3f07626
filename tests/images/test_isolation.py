"""Isolated decoding gives the same pixels and errors, and a decoder that fails costs one image."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from densenet_cli.errors import (
    DecoderCrashedError,
    DecodingTimedOutError,
    ImageError,
    ImageTooLargeError,
    IsolationError,
    UnreadableImageError,
)
from densenet_cli.images import decoding, reading
from densenet_cli.images.isolation import WorkerPool, worker
from densenet_cli.images.memory import DecodeBudget
from densenet_cli.images.preprocessing import MODES, Preprocessing
from densenet_cli.images.previews import PREVIEWS, DisplayImage
from densenet_cli.images.sources import Source, expand, from_object
from tests.support.archives import write_tar
from tests.support.decoders.pillow_heif import BEHAVIORS, heic
from tests.support.images import ENCODINGS, encode, photograph, rotated
from tests.support.processes import wait_for

DECODERS = Path(__file__).parents[1] / "support" / "decoders"
PREPROCESSING = Preprocessing(input_size=32)
BUDGET = 50
GRAY = 130


@pytest.fixture(autouse=True)
def fake_heic_decoder(monkeypatch):
    monkeypatch.syspath_prepend(DECODERS)


@pytest.fixture(autouse=True)
def no_process_is_left(children):
    yield
    assert children() == []


@pytest.fixture
def start_pool():
    """Start pools that are closed at the end of the test."""
    pools = []

    def start(megabytes: int = BUDGET, timeout: float | None = None) -> WorkerPool:
        pools.append(WorkerPool(DecodeBudget(megabytes), timeout))
        return pools[-1]

    yield start
    for pool in pools:
        pool.close()


@pytest.fixture
def pool(start_pool):
    return start_pool()


def outcome(load, image, preprocessing=PREPROCESSING):
    """Return the pixels, or the type and message of the error."""
    try:
        return load(from_object(image), preprocessing).pixels
    except ImageError as error:
        return type(error), str(error)


def decode(pool, behavior, color=GRAY):
    return outcome(pool.load, heic(behavior, color))


def is_decoded(result, color=GRAY):
    return isinstance(result, np.ndarray) and result.shape == (1, 32, 32, 3) and (result == color).all()


def load_in_process(source, preprocessing):
    return decoding.load(source, preprocessing, DecodeBudget(BUDGET))


def assert_same(pool, image, preprocessing=PREPROCESSING):
    """Check that an image has the same pixels or error as without isolation."""
    expected, actual = outcome(load_in_process, image, preprocessing), outcome(pool.load, image, preprocessing)
    if isinstance(expected, np.ndarray):
        assert isinstance(actual, np.ndarray), actual
        assert actual.dtype == np.uint8
        np.testing.assert_array_equal(actual, expected)
    else:
        assert actual == expected


def test_same_pixels_for_every_format_and_pillow_mode(pool, children):
    for encoding in ENCODINGS:
        assert_same(pool, encoding.encode(photograph("coffee", (90, 60))))
    assert len(children()) == 1


@pytest.mark.parametrize("mode", MODES)
def test_same_pixels_for_every_preprocessing(pool, mode):
    item = rotated(photograph("coffee", (700, 500)), 6)
    for size in (32, 100):
        assert_same(pool, item, Preprocessing(mode, size))
    assert_same(pool, item, Preprocessing(mode, exact=True))
    if mode == "crop":
        assert_same(pool, item, Preprocessing(mode, ten_crop=True))


def test_same_errors(pool, tmp_path, children):
    good = encode(photograph("coffee", (300, 200)), "PNG")
    jpeg = encode(photograph("coffee", (300, 200)), "JPEG")
    files = {
        "empty": b"",
        "text": b"this is text",
        "postscript": b"%!PS",
        "half.png": good[: len(good) // 2],
        "head.png": good[:20],
        "half.jpg": jpeg[: len(jpeg) // 2],
        "no more.jpg": jpeg[:3],
        "large.png": encode(Image.new("L", (9000, 9000)), "PNG"),
        "good.png": good,
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        assert_same(pool, data)
        assert_same(pool, tmp_path / name)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("nowhere")
    for path in ("fifo", "link", "none", "", "good.png/x", "x" * 300, "a\0b", "a\ud800"):
        assert_same(pool, str(tmp_path / path) if path else path)
    assert_same(pool, "/dev/zero")
    assert_same(pool, Source("x", None, "nothing", UnreadableImageError("Message.")))
    assert len(children()) == 1


class Failing(io.BytesIO):
    def read(self, size=-1):
        raise OSError(5, "Input/output error")


def test_every_kind_of_source(pool, tmp_path, monkeypatch):
    data = encode(photograph("coffee", (90, 60)), "PNG")
    name = os.fsdecode(b"caf\xe9\n.png")
    (tmp_path / name).write_bytes(data)
    image = Image.open(io.BytesIO(data))
    for item in (tmp_path / name, data, bytearray(data), image, np.asarray(image)):
        assert_same(pool, item)
    for file in (lambda: io.BytesIO(data), lambda: io.StringIO("text"), lambda: Failing(data)):
        np.testing.assert_equal(outcome(pool.load, file()), outcome(load_in_process, file()))
    monkeypatch.chdir(tmp_path)  # the process is still in the old folder
    assert_same(pool, name)
    assert_same(pool, f"./{name}")


@pytest.mark.parametrize("kind", PREVIEWS.values())
def test_same_preview(pool, kind):
    source = Source("x", encode(photograph("coffee"), "JPEG"), "bytes")
    isolated = pool.load(source, PREPROCESSING, kind)
    direct = decoding.load(source, PREPROCESSING, DecodeBudget(BUDGET), kind)
    np.testing.assert_array_equal(isolated.pixels, direct.pixels)
    assert isolated.preview.to_bytes() == direct.preview.to_bytes() != b""


CRASHES = {
    "segmentation fault": "SIGSEGV",
    "abort": "SIGABRT",
    "abort on open": "SIGABRT",
    "os._exit": "exit status 0",
    "sys.exit": "exit status 0",
    "kill": "SIGKILL",
    "exhaust memory in C": "SIGABRT",
}


@pytest.mark.parametrize("behavior", CRASHES)
def test_a_crash_fails_one_image(pool, behavior):
    assert is_decoded(decode(pool, "decode"))
    kind, message = decode(pool, behavior)
    assert kind is DecoderCrashedError and CRASHES[behavior] in message
    assert is_decoded(decode(pool, "decode"))


@pytest.mark.parametrize("behavior", ["exhaust memory", "exhaust memory on open"])
def test_memory_is_limited(pool, behavior):
    for _ in range(2):
        kind, message = decode(pool, behavior)
        assert kind is UnreadableImageError and "memory" in message
        assert is_decoded(decode(pool, "decode"))


def test_leaks_do_not_accumulate(pool):
    for _ in range(20):
        assert is_decoded(decode(pool, "leak"))


@pytest.mark.parametrize(
    "behavior", ["hang", "hang with the GIL", "hang with a copy", "hang on open", "stop", "send half a message"]
)
def test_a_hang_ends_at_the_timeout(start_pool, behavior):
    pool = start_pool(timeout=1)
    assert is_decoded(decode(pool, "decode"))
    start = time.monotonic()
    kind, message = decode(pool, behavior)
    assert kind is DecodingTimedOutError and "1 s" in message
    assert 1 <= time.monotonic() - start < 50
    assert is_decoded(decode(pool, "decode"))


INVALID = [name for name in BEHAVIORS if name.startswith(("send", "close")) and name != "send half a message"]
INVALID_ON_OPEN = [f"{name} on open" for name in BEHAVIORS if name.startswith(("reserve", "close", "send an empty"))]


@pytest.mark.parametrize("behavior", INVALID + INVALID_ON_OPEN)
def test_a_compromised_decoder_fails_one_image(start_pool, behavior):
    pool = start_pool(timeout=5)
    assert decode(pool, behavior)[0] is DecoderCrashedError
    assert is_decoded(decode(pool, "decode"))


def test_an_invalid_preview_fails_one_image(start_pool):
    source = Source("x", heic("send a bad preview"), "bytes")
    with pytest.raises(DecoderCrashedError):
        start_pool(timeout=5).load(source, PREPROCESSING, DisplayImage)


@pytest.mark.parametrize("behavior", ["write to standard output", "interrupt"])
def test_harmless_behavior_is_ignored(pool, capfd, behavior, children):
    assert is_decoded(decode(pool, behavior))
    assert capfd.readouterr() == ("", "")
    assert len(children()) == 1


def test_a_corrupted_process_does_not_fail_the_next_image(pool):
    assert is_decoded(decode(pool, "corrupt the process"))
    assert is_decoded(decode(pool, "decode"))


def test_a_process_killed_between_two_images_is_replaced(pool, children):
    assert is_decoded(decode(pool, "decode"))
    (child,) = children()
    child.kill()
    assert is_decoded(decode(pool, "decode"))


def test_a_crash_is_retried_once_in_a_new_process(pool, tmp_path, children):
    """A second process that has decoded images could be corrupted, too."""
    with ThreadPoolExecutor(3) as threads:
        while len(used := {child.pid for child in children()}) < 2:  # each has decoded an image
            list(threads.map(lambda _: decode(pool, "decode slowly"), range(3)))
    mark = tmp_path / "mark"
    assert outcome(pool.load, heic("abort", mark=mark))[0] is DecoderCrashedError
    first, second = map(int, mark.read_text().split())
    assert first in used
    assert second not in used


def test_several_images_at_the_same_time(pool, children):
    behaviors = [
        "abort",
        "decode",
        "segmentation fault",
        "decode",
        "abort",
        "abort",
        "decode",
        "exhaust memory in C",
        "decode",
    ]
    with ThreadPoolExecutor(3) as threads:
        results = list(threads.map(lambda behavior: decode(pool, behavior), behaviors))
    assert [is_decoded(result) for result in results] == [behavior == "decode" for behavior in behaviors]
    assert len(children()) <= 3


def test_processes_share_a_budget_and_waiting_for_it_does_not_count_as_decoding(start_pool, tmp_path):
    pool = start_pool(megabytes=5, timeout=1)
    decode(pool, "decode")
    with ThreadPoolExecutor(1) as thread:
        with pool._budget.reserve(pool._budget.bytes):
            result = thread.submit(outcome, pool.load, heic("decode", GRAY, mark=tmp_path / "mark"))
            time.sleep(1.5)
            assert not (tmp_path / "mark").exists()
        assert is_decoded(result.result(20))


def test_memory_for_members_of_archives_is_limited(start_pool, tmp_path, monkeypatch):
    image = encode(photograph(size=(40, 30)), "PNG")
    archive = write_tar(tmp_path / "photos.tar", *((f"{number}.png", image) for number in range(8)))
    sources = list(expand([str(archive)]))
    size = sources[0].origin.size
    monkeypatch.setattr(reading, "MEMBER_MEMORY", DecodeBudget(1))
    reading.MEMBER_MEMORY.bytes = reading.MEMBER_MEMORY._free = 2 * size
    read, held, lock = reading.read_source, set(), threading.Lock()
    max_held = 0

    def read_source(source):
        nonlocal max_held
        with lock:
            held.add(source.name)
            max_held = max(max_held, len(held))
        return read(source)

    load = worker.Worker.load

    def end(self, source, *arguments):
        time.sleep(0.05)
        try:
            return load(self, source, *arguments)
        finally:
            with lock:
                held.discard(source.name)

    monkeypatch.setattr(reading, "read_source", read_source)
    monkeypatch.setattr(worker.Worker, "load", end)
    pool = start_pool()
    with ThreadPoolExecutor(8) as executor:
        assert len(list(executor.map(lambda source: pool.load(source, PREPROCESSING), sources))) == 8
    assert max_held == 2


@pytest.mark.parametrize("late", [0.1, 100])
def test_a_suspended_run_loses_no_image(late, monkeypatch):
    """Ctrl-Z suspends the workers as well, but not the clock. A timeout that is noticed late starts again."""

    class Connection:
        def __init__(self) -> None:
            self.timeouts = []

        def settimeout(self, seconds):
            self.timeouts.append(seconds)

        def recv_into(self, view):
            if len(self.timeouts) == 1:
                now[0] += self.timeouts[0] + late
                raise TimeoutError
            view[:1] = b"x"
            return 1

    now = [1000.0]
    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: now[0]))
    socket = Connection()
    connection = worker._TimedConnection(socket, 20)
    if late < worker.SUSPENSION_DELAY:
        with pytest.raises(TimeoutError):
            connection.read(1)
    else:
        assert connection.read(1) == b"x"
        assert socket.timeouts == [20, 20]


@pytest.mark.parametrize("behavior", ["abort", "hang", "exhaust memory", "reserve twice", "decode"])
def test_reserved_memory_is_released(start_pool, behavior):
    pool = start_pool(timeout=1)
    decode(pool, behavior)
    assert pool._budget._free == pool._budget.bytes


def test_an_image_beyond_the_budget_is_rejected(start_pool):
    assert decode(start_pool(megabytes=1), "decode")[0] is ImageTooLargeError


def test_close_ends_busy_processes(start_pool, tmp_path):
    pool = start_pool()
    mark = tmp_path / "mark"
    with ThreadPoolExecutor(2) as threads:
        jobs = [threads.submit(outcome, pool.load, heic("hang", mark=mark)) for _ in range(2)]
        wait_for(lambda: mark.exists() and len(mark.read_text().splitlines()) == 2)
        pool.close()
        for job in jobs:
            assert job.result(20)[0] is DecoderCrashedError
    with pytest.raises(IsolationError, match="closed"):
        pool.load(from_object(heic("decode")), PREPROCESSING)


@pytest.mark.parametrize("executable", ["/nowhere/python", "/bin/false"])
def test_a_process_that_cannot_be_started_is_an_error(start_pool, monkeypatch, executable):
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(IsolationError, match=r"No such file|exit status 1"):
        decode(start_pool(), "decode")


def test_a_failed_start_is_retried(pool, monkeypatch):
    real, starts = worker.Worker, []

    def start(*arguments):
        with monkeypatch.context() as patch:
            if not starts:
                patch.setattr(sys, "executable", "/bin/false")
            starts.append(1)
            return real(*arguments)

    monkeypatch.setattr(worker, "Worker", start)
    decode(pool, "abort")
    assert is_decoded(decode(pool, "decode"))
    assert len(starts) >= 2


def test_modules_are_not_imported_from_the_current_folder(start_pool, tmp_path, monkeypatch):
    """The current folder can contain files from anywhere."""
    for name in ("json", "struct", "PIL", "densenet_cli"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'hijacked')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    assert is_decoded(decode(start_pool(), "decode"))
    assert not (tmp_path / "hijacked").exists()


def test_interrupts_are_ignored(pool, children):
    decode(pool, "decode")
    (child,) = children()
    os.kill(child.pid, signal.SIGINT)
    assert is_decoded(decode(pool, "decode"))
    assert children() == [child]
