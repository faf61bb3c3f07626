"""Decoding in processes of its own: the same pixels and errors, and a decoder that fails costs one image."""

from __future__ import annotations

import io
import os
import signal
import sys
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
from densenet_cli.images import decoding
from densenet_cli.images.isolation import WorkerPool, worker
from densenet_cli.images.preprocessing import MODES, Preprocessing
from densenet_cli.images.previews import PREVIEWS, DisplayImage
from densenet_cli.images.sources import Source, from_object
from tests.support.decoders.pillow_heif import BEHAVIORS, heic
from tests.support.images import ENCODINGS, encode, photograph, rotated

DECODERS = Path(__file__).parents[1] / "support" / "decoders"
PREPROCESSING = Preprocessing(input_size=32)
BUDGET = 50
GRAY = 130


@pytest.fixture(autouse=True)
def decoders(monkeypatch):
    monkeypatch.syspath_prepend(DECODERS)


@pytest.fixture(autouse=True)
def no_process_is_left(children):
    yield
    assert children() == []


@pytest.fixture
def started():
    """Makes ``WorkerPool`` that are closed at the end."""
    made = []

    def start(megabytes: int = BUDGET, timeout: float | None = None) -> WorkerPool:
        made.append(WorkerPool(decoding.DecodeBudget(megabytes), timeout))
        return made[-1]

    yield start
    for workers in made:
        workers.close()


@pytest.fixture
def workers(started):
    return started()


def outcome(load, item, preprocessing=PREPROCESSING):
    """Pixels, or an error's type and message."""
    try:
        return load(from_object(item), preprocessing).pixels
    except ImageError as error:
        return type(error), str(error)


def decoded(workers, behavior, color=GRAY):
    return outcome(workers.load, heic(behavior, color))


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def is_good(result, color=GRAY):
    return isinstance(result, np.ndarray) and result.shape == (1, 32, 32, 3) and (result == color).all()


def in_process(source, preprocessing):
    return decoding.load(source, preprocessing, decoding.DecodeBudget(BUDGET))


def assert_same(workers, item, preprocessing=PREPROCESSING):
    expected, got = outcome(in_process, item, preprocessing), outcome(workers.load, item, preprocessing)
    if isinstance(expected, np.ndarray):
        assert isinstance(got, np.ndarray), got
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, expected)
    else:
        assert got == expected


def test_the_same_pixels_of_every_format_and_mode(workers, children):
    for encoding in ENCODINGS:
        assert_same(workers, encoding.encode(photograph("coffee", (90, 60))))
    assert len(children()) == 1


@pytest.mark.parametrize("mode", MODES)
def test_the_same_pixels_whatever_the_preprocessing(workers, mode):
    item = rotated(photograph("coffee", (700, 500)), 6)
    for size in (32, 100):
        assert_same(workers, item, Preprocessing(mode, size))
    assert_same(workers, item, Preprocessing(mode, exact=True))
    if mode == "crop":
        assert_same(workers, item, Preprocessing(mode, ten_crop=True))


def test_the_same_errors(workers, tmp_path, children):
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
        assert_same(workers, data)
        assert_same(workers, tmp_path / name)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("nowhere")
    for path in ("fifo", "link", "none", "", "good.png/x", "x" * 300, "a\0b", "a\ud800"):
        assert_same(workers, str(tmp_path / path) if path else path)
    assert_same(workers, "/dev/zero")
    assert_same(workers, Source("x", None, "nothing", UnreadableImageError("It says so.")))
    assert len(children()) == 1


class Failing(io.BytesIO):
    def read(self, size=-1):
        raise OSError(5, "Input/output error")


def test_every_kind_of_image(workers, tmp_path, monkeypatch):
    data = encode(photograph("coffee", (90, 60)), "PNG")
    name = os.fsdecode(b"caf\xe9\n.png")
    (tmp_path / name).write_bytes(data)
    image = Image.open(io.BytesIO(data))
    for item in (tmp_path / name, data, bytearray(data), image, np.asarray(image)):
        assert_same(workers, item)
    for file in (lambda: io.BytesIO(data), lambda: io.StringIO("text"), lambda: Failing(data)):
        np.testing.assert_equal(outcome(workers.load, file()), outcome(in_process, file()))
    monkeypatch.chdir(tmp_path)  # the process is still elsewhere
    assert_same(workers, name)
    assert_same(workers, f"./{name}")


@pytest.mark.parametrize("kind", PREVIEWS.values())
def test_the_same_preview(workers, kind):
    source = Source("x", encode(photograph("coffee"), "JPEG"), "bytes")
    isolated = workers.load(source, PREPROCESSING, kind)
    direct = decoding.load(source, PREPROCESSING, decoding.DecodeBudget(BUDGET), kind)
    np.testing.assert_array_equal(isolated.pixels, direct.pixels)
    assert isolated.preview.to_bytes() == direct.preview.to_bytes() != b""


CRASHES = {
    "segmentation fault": "SIGSEGV",
    "abort": "SIGABRT",
    "abort as it is opened": "SIGABRT",
    "exit": "exit status 0",
    "leave": "exit status 0",
    "killed": "SIGKILL",
    "swell in C": "SIGABRT",
}


@pytest.mark.parametrize("behavior", CRASHES)
def test_a_crash_is_one_error(workers, behavior):
    assert is_good(decoded(workers, "decode"))
    kind, message = decoded(workers, behavior)
    assert kind is DecoderCrashedError and CRASHES[behavior] in message
    assert is_good(decoded(workers, "decode"))


@pytest.mark.parametrize("behavior", ["swell", "swell as it is opened"])
def test_one_that_swells_runs_out_of_memory(workers, behavior):
    for _ in range(2):
        kind, message = decoded(workers, behavior)
        assert kind is UnreadableImageError and "memory" in message
        assert is_good(decoded(workers, "decode"))


def test_a_leak_does_not_add_up(workers):
    for _ in range(20):
        assert is_good(decoded(workers, "leak"))


@pytest.mark.parametrize("behavior", ["hang", "hang with the interpreter's lock", "hang as it is opened", "stop"])
def test_one_that_hangs_runs_out_of_time(started, behavior):
    workers = started(timeout=1)
    assert is_good(decoded(workers, "decode"))
    begun = time.monotonic()
    kind, message = decoded(workers, behavior)
    assert kind is DecodingTimedOutError and "1 s" in message
    assert 1 <= time.monotonic() - begun < 60
    assert is_good(decoded(workers, "decode"))


SAID = [name for name in BEHAVIORS if name.startswith(("say", "close"))]
ASKED = [f"{name} as it is opened" for name in BEHAVIORS if name.startswith(("ask", "close", "say nothing"))]


@pytest.mark.parametrize("behavior", SAID + ASKED)
def test_one_that_was_taken_over_gives_one_error(started, behavior):
    workers = started(timeout=5)
    assert decoded(workers, behavior)[0] is DecoderCrashedError
    assert is_good(decoded(workers, "decode"))


def test_a_copy_that_none_can_be_made_of(started):
    source = Source("x", heic("say a bad copy"), "bytes")
    with pytest.raises(DecoderCrashedError):
        started(timeout=5).load(source, PREPROCESSING, DisplayImage)


@pytest.mark.parametrize("behavior", ["messages", "deaf to interrupts"])
def test_what_does_no_harm(workers, capfd, behavior, children):
    assert is_good(decoded(workers, behavior))
    assert capfd.readouterr() == ("", "")
    assert len(children()) == 1


def test_the_next_image_does_not_pay(workers):
    assert is_good(decoded(workers, "corrupt"))
    assert is_good(decoded(workers, "decode"))


def test_one_killed_between_two_images_is_not_missed(workers, children):
    assert is_good(decoded(workers, "decode"))
    (child,) = children()
    child.kill()
    assert is_good(decoded(workers, "decode"))


def test_two_at_the_same_time(workers, children):
    names = ["abort", "decode", "segmentation fault", "decode", "abort", "abort", "decode", "swell in C", "decode"]
    with ThreadPoolExecutor(3) as threads:
        results = list(threads.map(lambda name: decoded(workers, name), names))
    assert [is_good(result) for result in results] == [name == "decode" for name in names]
    assert len(children()) <= 3


def test_all_share_one_budget_and_the_wait_for_it_costs_no_time(started, tmp_path):
    workers = started(megabytes=5, timeout=1)
    decoded(workers, "decode")
    with ThreadPoolExecutor(1) as thread:
        with workers._budget.reserve(workers._budget.bytes):
            waiting = thread.submit(outcome, workers.load, heic("decode", GRAY, mark=tmp_path / "mark"))
            time.sleep(1.5)
            assert not (tmp_path / "mark").exists()
        assert is_good(waiting.result(20))


@pytest.mark.parametrize("late", [0.1, 100])
def test_a_run_that_is_stopped_for_a_while_loses_no_image(late, monkeypatch):
    """Ctrl-Z stops the workers too, but not the clock: whoever wakes up long after the time gives it once more."""

    class Connection:
        def __init__(self) -> None:
            self.given = []

        def settimeout(self, seconds):
            self.given.append(seconds)

        def recv_into(self, view):
            if len(self.given) == 1:
                now[0] += self.given[0] + late
                raise TimeoutError
            view[:1] = b"x"
            return 1

    now = [1000.0]
    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: now[0]))
    connection = Connection()
    clock = worker._TimedConnection(connection, 20)
    if late < worker.SUSPENSION_DELAY:
        with pytest.raises(TimeoutError):
            clock.read(1)
    else:
        assert clock.read(1) == b"x"
        assert connection.given == [20, 20]


@pytest.mark.parametrize("behavior", ["abort", "hang", "swell", "ask twice", "decode"])
def test_what_was_reserved_is_given_back(started, behavior):
    workers = started(timeout=1)
    decoded(workers, behavior)
    assert workers._budget._free == workers._budget.bytes


def test_more_than_the_budget_is_refused_there(started):
    assert decoded(started(megabytes=1), "decode")[0] is ImageTooLargeError


def test_close_ends_those_at_work(started, tmp_path):
    workers = started()
    mark = tmp_path / "mark"
    with ThreadPoolExecutor(2) as threads:
        jobs = [threads.submit(outcome, workers.load, heic("hang", mark=mark)) for _ in range(2)]
        wait_for(lambda: mark.exists() and len(mark.read_text().splitlines()) == 2)
        workers.close()
        for job in jobs:
            assert job.result(20)[0] is DecoderCrashedError
    with pytest.raises(IsolationError, match="closed"):
        workers.load(from_object(heic("decode")), PREPROCESSING)


@pytest.mark.parametrize("executable", ["/nowhere/python", "/bin/false"])
def test_no_process_can_be_started(started, monkeypatch, executable):
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(IsolationError, match=r"No such file|exit status 1"):
        decoded(started(), "decode")


def test_a_start_that_fails_once_is_tried_again(workers, monkeypatch):
    real, begun = worker.Worker, []

    def start(*arguments):
        with monkeypatch.context() as patch:
            if not begun:
                patch.setattr(sys, "executable", "/bin/false")
            begun.append(1)
            return real(*arguments)

    monkeypatch.setattr(worker, "Worker", start)
    decoded(workers, "abort")
    assert is_good(decoded(workers, "decode"))
    assert len(begun) >= 2


def test_modules_come_from_no_folder_of_images(started, tmp_path, monkeypatch):
    """The current folder may be one that anybody filled."""
    for name in ("json", "struct", "PIL", "densenet_cli"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'hijacked')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    assert is_good(decoded(started(), "decode"))
    assert not (tmp_path / "hijacked").exists()


def test_signals(workers, children):
    decoded(workers, "decode")
    (child,) = children()
    os.kill(child.pid, signal.SIGINT)
    assert is_good(decoded(workers, "decode"))
    assert children() == [child]
