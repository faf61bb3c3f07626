"""``--isolate`` and ``--timeout``, end to end: decoders that crash or hang, and no remaining processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from PIL import Image

from tests.conftest import SAMPLES
from tests.support.command import densenet, restore_sigint
from tests.support.decoders.pillow_heif import heic
from tests.support.images import encode, photograph
from tests.support.processes import is_gone, wait_for

DECODERS = Path(__file__).parents[1] / "support" / "decoders"


@pytest.fixture(autouse=True)
def decoders(monkeypatch):
    """Replace pillow-heif by a decoder that misbehaves on request, also in child processes."""
    monkeypatch.syspath_prepend(DECODERS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(DECODERS), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture(autouse=True)
def no_remaining_processes(children):
    yield
    assert children() == []


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    return root


def fill(folder, behaviors):
    """Write one image per behavior, each in another color, so that a wrong order is noticed."""
    for number, behavior in enumerate(behaviors):
        (folder / f"{number:03}.heic").write_bytes(heic(behavior, 40 + number))


def records(text):
    return [json.loads(line) for line in text.splitlines()]


def error_types(text):
    return [record["error"]["type"] if "error" in record else None for record in records(text)]


@pytest.mark.parametrize("options", [["--isolate", "--threads", 1], ["--timeout", 50, "--threads", 3]])
def test_output_is_the_same_as_without_isolation(weights, folder, options):
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
    direct = densenet(*common, stdin=good)
    isolated = densenet(*common, *options, stdin=good)
    assert isolated.status == direct.status == 1
    assert isolated.out == direct.out
    assert isolated.err == direct.err
    assert len({record.get("error", {}).get("type") for record in json.loads(direct.out)}) == 5


@pytest.mark.parametrize("threads", [1, 3])
def test_crashes_and_hangs_fail_single_images(weights, folder, threads):
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
    assert error_types(result.out) == [expected.get(behavior, "DecoderCrashed") for behavior in behaviors]
    actual = records(result.out)
    assert [record["source"] for record in actual] == [str(path) for path in sorted(folder.iterdir())]
    for record in actual:
        assert "error" not in record or record["error"]["message"] in result.err
    fill(folder, ["decode"] * len(behaviors))
    decoded = records(densenet("predict", folder, *options).out)
    assert [record for record in actual if "error" not in record] == [
        record for record, behavior in zip(decoded, behaviors, strict=True) if behavior == "decode"
    ]


def test_every_tenth_image_crashes(weights, folder):
    behaviors = ["abort" if number % 10 == 7 else "decode" for number in range(100)]
    fill(folder, behaviors)
    result = densenet("predict", folder, "--weights", weights, "--format", "jsonl", "--isolate")
    assert error_types(result.out) == ["DecoderCrashed" if behavior == "abort" else None for behavior in behaviors]


def test_evaluate_reports_crashes_as_failed_images(weights, folder):
    for name in ("0", "1"):
        (folder / name).mkdir()
        fill(folder / name, ["decode", "abort", "decode"])
    result = densenet("evaluate", folder, "--weights", weights, "--isolate", "--format", "json")
    assert result.status == 1
    assert result.err.count("DecoderCrashed") == 2
    assert json.loads(result.out)["images"] == 4


@pytest.fixture
def running(weights, folder, tmp_path):
    """Return a function that starts the command and waits until an image with a given behavior is being decoded."""
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
        wait_for(lambda: mark.exists() and mark.read_text())
        return process, psutil.Process(process.pid).children(), mark

    yield start
    for process in processes:
        with process:
            process.kill()


HANG = "hang with the GIL"


@pytest.mark.parametrize(
    ("signal_number", "behavior"),
    [(signal.SIGINT, HANG), (signal.SIGTERM, "stop"), (signal.SIGKILL, HANG), (signal.SIGKILL, "stop")],
)
def test_no_worker_outlives_the_command(running, signal_number, behavior):
    process, workers, _ = running(behavior, "--isolate")
    assert len(workers) == 2
    process.send_signal(signal_number)
    out, err = process.communicate(timeout=60)
    if signal_number != signal.SIGKILL:
        assert process.returncode == 130
        assert err.splitlines()[-1] == "Interrupted."
        assert set(error_types(out)) <= {None}
        assert not any(worker.is_running() for worker in workers)  # not even as a zombie
    wait_for(lambda: all(map(is_gone, workers)))


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_process_group_fails_no_image(running, signal_number):
    process, workers, _ = running("hang", "--isolate")
    os.killpg(process.pid, signal_number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.split() == ["Interrupted."]
    assert set(error_types(out)) <= {None}
    wait_for(lambda: all(map(is_gone, workers)))


def test_a_killed_worker_is_replaced_once(running):
    process, _, mark = running("hang", "--isolate")
    (worker,) = map(int, mark.read_text().split())
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: len(mark.read_text().split()) == 2)  # a new process decodes the image again
    os.kill(int(mark.read_text().split()[1]), signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error_types(out) == [None] * 20 + ["DecoderCrashed"] + [None] * 79
    assert err.count("SIGKILL") == 1


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "x", "1e9"])
def test_invalid_timeouts(weights, value):
    result = densenet("predict", SAMPLES, "--weights", weights, "--timeout", value)
    assert result.status == 2
    assert "timeout" in result.err
    assert result.out == ""


def test_workers_that_cannot_be_started(weights, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    result = densenet("predict", SAMPLES, "--weights", weights, "--isolate", "--format", "jsonl")
    assert result.status == 1
    assert result.out == ""
    assert result.err.startswith("Error: ") and "No such file or directory" in result.err
