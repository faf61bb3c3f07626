"""``--isolate`` and ``--timeout``, end to end: hostile images among good ones, and no process left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from tests.conftest import SAMPLES
from tests.support.command import densenet, restore_sigint
from tests.support.decoders.pillow_heif import heic
from tests.support.images import encode, photograph
from tests.support.networks import tiny_weights

DECODERS = Path(__file__).parents[1] / "support" / "decoders"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(autouse=True)
def decoders(monkeypatch):
    """For processes of ours and those that they start."""
    monkeypatch.syspath_prepend(DECODERS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(DECODERS), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture(autouse=True)
def no_process_is_left(children):
    yield
    assert children() == []


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    return root


def fill(folder, behaviors):
    """An image for each, in order: of a color of its own, so that results that change places are noticed."""
    for number, behavior in enumerate(behaviors):
        (folder / f"{number:03}.heic").write_bytes(heic(behavior, 40 + number))


def records(text):
    return [json.loads(line) for line in text.splitlines()]


def errors_of(text):
    return [record["error"]["type"] if "error" in record else None for record in records(text)]


@pytest.mark.parametrize("options", [["--isolate", "--threads", 1], ["--timeout", 50, "--threads", 3]])
def test_the_same_bytes(weights, folder, options):
    good = encode(photograph("coffee", (300, 200)), "PNG")
    (folder / "half.png").write_bytes(good[:5000])
    (folder / "good.png").write_bytes(good)
    (folder / "empty.jpg").touch()
    (folder / "text.gif").write_text("text")
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(good)
    Image.new("L", (12000, 9000)).save(folder / "large.png")
    os.mkfifo(folder / "fifo.jpg")
    sources = [SAMPLES, folder, "-", folder / "none.jpg", "/dev/null"]
    common = ["predict", *sources, "--weights", weights, "--format", "json", "--decode-memory", 50]
    plain = densenet(*common, stdin=good)
    isolated = densenet(*common, *options, stdin=good)
    assert isolated.status == plain.status == 1
    assert isolated.out == plain.out
    assert isolated.err == plain.err
    assert len({record.get("error", {}).get("type") for record in json.loads(plain.out)}) == 5


@pytest.mark.parametrize("threads", [1, 3])
def test_hostile_images_among_good_ones(weights, folder, threads):
    behaviors = [
        "decode", "segmentation fault", "decode", "decode", "hang", "exhaust memory", "exhaust memory in C", "decode",
        "abort", "hang with the GIL", "decode", "send noise", "os._exit", "kill", "decode",
    ]  # fmt: skip
    expected = {
        "decode": None,
        "hang": "DecodingTimedOut",
        "hang with the GIL": "DecodingTimedOut",
        "exhaust memory": "UnreadableImage",
    }
    fill(folder, behaviors)
    options = ["--weights", weights, "--format", "jsonl", "--threads", threads, "--decode-memory", 50]
    result = densenet("predict", folder, *options, "--timeout", 2)
    assert result.status == 1
    assert errors_of(result.out) == [expected.get(behavior, "DecoderCrashed") for behavior in behaviors]
    found = records(result.out)
    assert [record["source"] for record in found] == [str(path) for path in sorted(folder.iterdir())]
    for record in found:
        assert "error" not in record or record["error"]["message"] in result.err
    fill(folder, ["decode"] * len(behaviors))
    harmless = records(densenet("predict", folder, *options).out)
    assert [a for a in found if "error" not in a] == [
        record for record, behavior in zip(harmless, behaviors, strict=True) if behavior == "decode"
    ]


def test_every_tenth_image_crashes(weights, folder):
    behaviors = ["abort" if number % 10 == 7 else "decode" for number in range(100)]
    fill(folder, behaviors)
    result = densenet("predict", folder, "--weights", weights, "--format", "jsonl", "--isolate")
    assert errors_of(result.out) == ["DecoderCrashed" if name == "abort" else None for name in behaviors]


def test_evaluate_counts_it_as_a_image_that_failed(weights, folder):
    for name in ("0", "1"):
        (folder / name).mkdir()
        fill(folder / name, ["decode", "abort", "decode"])
    result = densenet("evaluate", folder, "--weights", weights, "--isolate", "--format", "json")
    assert result.status == 1
    assert result.err.count("DecoderCrashed") == 2
    assert json.loads(result.out)["images"] == 4


@pytest.fixture
def running(weights, folder, tmp_path):
    """Starts the command on good images and one of some behavior, and waits until that one is at work."""
    processes = []

    def start(behavior, *options):
        mark = tmp_path / "mark"
        fill(folder, ["decode slowly"] * 100)
        (folder / "020.heic").write_bytes(heic(behavior, mark=mark))
        command = [sys.executable, "-m", "densenet_cli", "predict", folder, "--weights", weights, "--format", "jsonl"]
        process = subprocess.Popen(
            [*map(str, command), *map(str, options), "--threads", "2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=restore_sigint,
            start_new_session=True,
        )
        processes.append(process)
        wait_for(mark.exists)
        return process, psutil.Process(process.pid).children(), mark

    yield start
    for process in processes:
        with process:
            process.kill()


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


def is_gone(process):
    """Ended, whether or not whoever inherited it has noticed."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


LOCKED = "hang with the GIL"


@pytest.mark.parametrize(
    ("asked", "behavior"),
    [(signal.SIGINT, LOCKED), (signal.SIGTERM, "stop"), (signal.SIGKILL, LOCKED), (signal.SIGKILL, "stop")],
)
def test_no_worker_outlives_the_command(running, asked, behavior):
    process, workers, _ = running(behavior, "--isolate")
    assert len(workers) == 2
    process.send_signal(asked)
    out, err = process.communicate(timeout=60)
    if asked != signal.SIGKILL:
        assert process.returncode == 130
        assert err.splitlines()[-1] == "Interrupted."
        assert set(errors_of(out)) <= {None}
        assert not any(worker.is_running() for worker in workers)  # not even as a zombie
    wait_for(lambda: all(map(is_gone, workers)))


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_what_all_processes_are_asked_costs_no_image(running, asked):
    process, workers, _ = running("hang", "--isolate")
    os.killpg(process.pid, asked)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.split() == ["Interrupted."]
    assert set(errors_of(out)) <= {None}
    wait_for(lambda: all(map(is_gone, workers)))


def test_a_worker_killed_from_outside(running):
    process, _, mark = running("hang", "--isolate")
    (worker,) = map(int, mark.read_text().split())
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: len(mark.read_text().split()) == 2)  # a fresh process has the image once more
    os.kill(int(mark.read_text().split()[1]), signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors_of(out) == [None] * 20 + ["DecoderCrashed"] + [None] * 79
    assert err.count("SIGKILL") == 1


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "x", "1e9"])
def test_times_that_are_none(weights, value):
    result = densenet("predict", SAMPLES, "--weights", weights, "--timeout", value)
    assert result.status == 2
    assert "timeout" in result.err
    assert result.out == ""


def test_no_process_can_be_started(weights, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    result = densenet("predict", SAMPLES, "--weights", weights, "--isolate", "--format", "jsonl")
    assert result.status == 1
    assert result.out == ""
    assert result.err.startswith("Error: ") and "No such file or directory" in result.err
