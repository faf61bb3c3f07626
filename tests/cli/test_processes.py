"""``--processes``, end to end: the same output as with one process, and no remaining processes."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from densenet_cli import engines
from densenet_cli.processes import worker
from tests.conftest import ROOT, SAMPLES
from tests.support.command import densenet, restore_sigint
from tests.support.eager_processes import use_at_once
from tests.support.images import encode, photograph
from tests.support.processes import is_gone, wait_for
from tests.support.servers import FaultyServer, serving

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX processes")


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    use_at_once(monkeypatch.setattr)


@pytest.fixture(autouse=True)
def no_remaining_processes(children):
    yield
    assert children() == []


@pytest.fixture
def started(monkeypatch):
    """The number of processes that were started."""
    count = []
    start = worker.WorkerProcess._start
    monkeypatch.setattr(worker.WorkerProcess, "_start", lambda *args: count.append(1) or start(*args))
    return count


@pytest.fixture
def folder(tmp_path):
    """Images that can be decoded, each different, and some that cannot."""
    root = tmp_path / "images"
    root.mkdir()
    good = encode(photograph("coffee", (300, 200)), "PNG")
    for number in range(40):
        image = photograph(("coffee", "rocket")[number % 2], (100 + number, 90))
        (root / f"{number:03}.jpg").write_bytes(encode(image, "JPEG"))
    (root / "half.png").write_bytes(good[:5000])
    (root / "empty.jpg").touch()
    (root / "text.gif").write_text("text")
    (root / os.fsdecode(b"caf\xe9.png")).write_bytes(good)
    Image.new("L", (12000, 9000)).save(root / "large.png")
    Image.new("L", (3000, 3000), 77).save(root / "medium.png")
    os.mkfifo(root / "fifo.jpg")
    frames = [photograph("coffee", (60, 40)).rotate(number) for number in range(30)]
    frames[0].save(root / "frames.gif", save_all=True, append_images=frames[1:])
    frames[0].save(root / "frames.tif", save_all=True, append_images=frames[1:5])
    return root


@pytest.mark.parametrize(
    "options",
    [
        ["--processes", 2],
        ["--processes", 3, "--threads", 4],
        ["--processes", 2, "--isolate"],
        ["--processes", 2, "--timeout", 60, "--threads", 1],
    ],
    ids=lambda options: " ".join(map(str, options)),
)
def test_output_is_the_same_as_with_one_process(weights, folder, started, options):
    good = encode(photograph("coffee", (300, 200)), "PNG")
    sources = [SAMPLES, folder, "-", folder / "none.jpg", "/dev/null", folder / "frames.tif[3]", SAMPLES]
    common = ["predict", *sources, "--weights", weights, "--format", "json", "--decode-memory", 50, "--pages", "all"]
    single = densenet(*common, "--processes", 1, stdin=good)
    assert started == []
    several = densenet(*common, *options, stdin=good)
    assert len(started) == options[1]
    assert several.status == single.status == 1
    assert several.out == single.out
    assert several.err == single.err
    assert len(json.loads(single.out)) > 80
    assert len({record.get("error", {}).get("type") for record in json.loads(single.out)}) == 5


@pytest.mark.parametrize("command", ["embed", "explain", "evaluate", "predict"])
def test_files_are_the_same_as_with_one_process(weights, folder, tmp_path, started, command):
    for name in ("0", "1"):
        (folder / name).mkdir()
    for number, path in enumerate(sorted(folder.glob("*.jpg"))):
        path.rename(folder / str(number % 2) / path.name)
    for path in folder.iterdir():
        if not path.is_dir():
            path.unlink()
    outputs = []
    for count in (1, 2):
        results = tmp_path / str(count)
        results.mkdir()
        options = {
            "embed": ["-o", results / "vectors.npz"],
            "explain": ["-o", results / "maps", "--format", "jsonl"],
            "evaluate": ["--html", results / "page.html", "--mistakes", results / "mistakes.csv", "--format", "json"],
            "predict": ["--html", results / "page.html", "--ten-crop", "--format", "jsonl"],
        }[command]
        result = densenet(command, folder, "--weights", weights, "--processes", count, *options)
        files = {}
        for path in sorted(results.rglob("*")):
            if path.suffix == ".npz":
                with np.load(path) as arrays:
                    files[path.name] = {name: array.tobytes() for name, array in arrays.items()}
            elif path.is_file():
                files[path.name] = path.read_bytes()
        page = files.pop("page.html", b"")
        assert page.count(b"data:image/jpeg") >= 10 or "page.html" not in map(str, options[1:2])
        lines = [line for line in page.splitlines() if not re.search(rb"\d\d:\d\d", line)]
        outputs.append((result.status, result.out.replace(str(results), ""), files, lines))
    assert outputs[0] == outputs[1]
    assert len(started) == 2


@pytest.mark.parametrize("options", [[], ["--isolate"]])
def test_notes_are_the_same_as_with_one_process(weights, folder, options):
    whole = (folder / "000.jpg").read_bytes()
    for number in range(5):
        (folder / f"a{number}.jpg").write_bytes(whole[: len(whole) * (number + 3) // 8])
    arguments = ["predict", folder, "--weights", weights, "--format", "jsonl", "--truncated", "accept", *options]
    single = densenet(*arguments, "--processes", 1)
    assert densenet(*arguments, "--processes", 2) == single
    assert single.out.count("truncated") >= 5
    assert "more than one page" in single.err


def test_resuming(weights, folder, tmp_path, started):
    output, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    arguments = ["predict", folder, "--weights", weights, "--decode-memory", 50]
    assert densenet(*arguments, "-o", whole).status == 1
    output.write_bytes(b"".join(whole.read_bytes().splitlines(keepends=True)[:7]))
    Path(f"{output}.meta.json").write_bytes(Path(f"{whole}.meta.json").read_bytes())
    assert densenet(*arguments, "-o", output, "--resume", "--processes", 3).status == 1
    assert output.read_bytes() == whole.read_bytes()
    assert len(started) == 3


def test_few_images_start_no_process(weights, started, monkeypatch):
    monkeypatch.undo()
    result = densenet("predict", SAMPLES, "--weights", weights, "--processes", 2)
    assert result.status == 0
    assert started == []


def test_urls_and_offline(weights, folder):
    image = (folder / "000.jpg").read_bytes()
    with FaultyServer(serving(image)) as server:
        urls = [server.url, f"{server.url}?n=2"] * 3
        arguments = ["predict", *urls, "--weights", weights, "--format", "jsonl"]
        result = densenet(*arguments, "--processes", 2)
        assert result.status == 0
        assert result == densenet(*arguments)
        offline = densenet(*arguments, "--processes", 2, "--offline")
    assert offline.out.count("DownloadFailed") == 6


FAILING = (
    "from densenet_cli.model import Model; from densenet_cli.errors import CheckpointError\n"
    "import itertools; run = Model.run; calls = itertools.count()\n"
    "def fail(*args, **options):\n"
    "    if next(calls) == 3: raise {error}\n"
    "    return run(*args, **options)\n"
    "Model.run = fail\n"
)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        ("CheckpointError('NaN values.')", 3, "Error: NaN values."),
        ("ZeroDivisionError('by zero')", 1, "Internal error: RuntimeError: ZeroDivisionError: by zero."),
    ],
)
def test_errors_of_the_model(weights, folder, monkeypatch, error, status, message):
    code = worker.CHILD_CODE.replace("main(**settings)", f"exec({FAILING.format(error=error)!r}); main(**settings)")
    monkeypatch.setattr(worker, "CHILD_CODE", code)
    arguments = ["predict", *sorted(folder.glob("0*.jpg")), "--weights", weights, "--format", "jsonl"]
    result = densenet(*arguments, "--processes", 2, "--threads", 1)
    assert result.status == status
    assert result.err.startswith(message)
    # The first in this process, and then what the first process computed before it failed.
    assert len(result.out.splitlines()) == 4
    assert densenet(*arguments, "--processes", 1).out.startswith(result.out)


def test_processes_that_cannot_be_started(weights, folder, monkeypatch):
    arguments = ["predict", *sorted(folder.glob("0*.jpg")), "--weights", weights, "--format", "jsonl"]
    expected = densenet(*arguments)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    result = densenet(*arguments, "--processes", 2)
    assert result.status == 1
    assert result.err.startswith("Error: ") and "No such file or directory" in result.err
    monkeypatch.setattr("densenet_cli.image_model.choose_processes", lambda *_: 2)
    assert densenet(*arguments) == expected
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert densenet(*arguments) == expected
    assert "exit status 1" in densenet(*arguments, "--processes", 2).err


@pytest.mark.parametrize("value", ["0", "-1", "x", "257"])
def test_invalid_numbers(weights, value):
    result = densenet("predict", SAMPLES, "--weights", weights, "--processes", value)
    assert result.status == 2
    assert "processes" in result.err


def test_the_number_is_chosen_by_cores(monkeypatch):
    monkeypatch.setattr(engines, "available_cores", lambda: 64)
    assert engines.choose_processes(64, "bfloat16") == 4
    assert engines.choose_processes(64, "float32") == 2
    assert engines.choose_processes(8, "bfloat16") == 1
    monkeypatch.setattr(engines, "available_cores", lambda: 2)
    assert engines.choose_processes(1000, "bfloat16") == 1


@pytest.fixture
def running(weights, folder, tmp_path):
    """Return a function that starts the command and waits until processes have computed images."""
    commands = []

    def start(*options):
        images = [str(path) for path in sorted(folder.glob("0*.jpg"))]
        (tmp_path / "list.txt").write_text("\n".join(images * 100))
        output = tmp_path / "out.jsonl"
        arguments = ["predict", "--files-from", tmp_path / "list.txt", "--weights", weights, "-o", output]
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.eager_processes", *map(str, [*arguments, *options])],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            preexec_fn=restore_sigint,
            start_new_session=True,
        )
        commands.append(process)
        wait_for(lambda: output.exists() and output.read_bytes().count(b"\n") > 50)
        return process, psutil.Process(process.pid).children(recursive=True), arguments

    yield start
    for process in commands:
        with process:
            process.kill()


def test_stopped_processes_end_with_the_command(running):
    process, workers, _ = running("--processes", 2)
    for worker_process in workers:
        os.kill(worker_process.pid, signal.SIGSTOP)
    process.kill()
    wait_for(lambda: all(map(is_gone, workers)))


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize(("options", "count"), [([], 2), (["--isolate", "--threads", 2], 5)])
def test_no_process_outlives_the_command(running, signal_number, options, count):
    process, workers, _ = running("--processes", 2, *options)
    assert len(workers) == count
    (os.killpg if signal_number == signal.SIGINT else os.kill)(process.pid, signal_number)
    _, err = process.communicate(timeout=60)
    if signal_number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert err.split() == ["Interrupted."]
    wait_for(lambda: all(map(is_gone, workers)))


def test_a_killed_process_ends_the_run_which_can_be_resumed(running, tmp_path):
    process, workers, arguments = running("--processes", 2)
    os.kill(workers[1].pid, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.count("Error") == 1
    assert "SIGKILL" in err and "--processes" in err and "--resume" in err
    wait_for(lambda: all(map(is_gone, workers)))
    output = tmp_path / "out.jsonl"
    assert 50 < output.read_bytes().count(b"\n") < 4000
    assert densenet(*arguments, "--resume", "--processes", 2).status == 0
    records = output.read_text().splitlines()
    assert len(records) == 4000
    assert records[:40] * 100 == records


def test_processes_keep_the_memory_limit_together(weights, folder, monkeypatch):
    """An image that needs the whole limit is decoded."""
    paths = [folder / "medium.png"] * 6
    arguments = ["predict", *paths, "--weights", weights, "--format", "jsonl", "--decode-memory"]
    limit = next(
        limit for limit in range(5, 100) if "error" not in densenet(*arguments[:2], *arguments[-5:], limit).out
    )
    result = densenet(*arguments, limit, "--processes", 3, "--threads", 6)
    assert result.status == 0
    assert densenet(*arguments, limit - 1, "--processes", 3).out.count("ImageTooLarge") == 6
    assert result.out == densenet(*arguments, limit).out


def test_standard_input_as_the_list_and_slow_sources(weights, folder):
    paths = sorted(folder.glob("00*.jpg"))
    options = ["--files-from", "-", "--weights", weights, "--format", "jsonl", "--processes", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.eager_processes", "predict", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    with process:
        assert process.stdin and process.stdout
        for path in paths:
            process.stdin.write(os.fsencode(path) + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["source"] == str(path)
        process.stdin.close()
        assert process.wait(60) == 0


def test_stream_of_bytes_is_one_image(weights, folder):
    data = io.BytesIO((folder / "000.jpg").read_bytes()).getvalue()
    arguments = ["predict", folder / "001.jpg", "-", folder / "002.jpg", "--weights", weights, "--format", "jsonl"]
    assert densenet(*arguments, "--processes", 2, stdin=data).out == densenet(*arguments, stdin=data).out
