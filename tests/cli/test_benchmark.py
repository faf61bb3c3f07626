"""``densenet benchmark``: what it refuses, and one whole run. Never how long anything takes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from densenet_cli.benchmarking.processes import CommandFailedError, run
from densenet_cli.benchmarking.worker import PARTS, Worker
from densenet_cli.errors import CheckpointError
from tests.conftest import SAMPLES
from tests.support.command import densenet, hear_interrupts, process
from tests.support.networks import tiny_weights

IMAGES = {"decoding": 4, "engine": 2, "together": 40, "answer": 1}
"""Of each piece of work, at batches of 20 and ten crops an image: two of each thread, two batches."""
SUMMARY = {"count", "median", "lower_quartile", "upper_quartile", "minimum", "maximum"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("weights"))


def environment(folder: Path) -> dict[str, str]:
    """With places of its own for the cache, the weights and what is temporary."""
    own = {name: str(folder / name) for name in ("cache", "keras", "tmp")}
    (folder / "tmp").mkdir()
    return {**os.environ, "DENSENET_CACHE": own["cache"], "KERAS_HOME": own["keras"], "TMPDIR": own["tmp"]}


def left(folder: Path) -> list[str]:
    """The files below a folder."""
    return [str(path) for path in folder.rglob("*") if path.is_file()]


def test_a_whole_run_with_random_weights(tmp_path):
    arguments = ("--variant", "tiny", "--random-weights", "--threads", 1, "--batch-size", "2,1", "--seconds", 0)
    result = process("benchmark", *arguments, "--format", "json", "--quiet", env=environment(tmp_path))
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert left(tmp_path) == []
    found = json.loads(result.stdout)
    assert list(found) == [
        "model",
        "machine",
        "images",
        "settings",
        "rounds",
        "commands",
        "latency",
        "throughput",
        "fastest",
    ]
    assert found["model"] == "densenettiny"
    assert found["rounds"] >= 4
    assert found["machine"]["cores"] >= 1 and set(found["machine"]["packages"]) >= {"onnxruntime", "densenet-cli"}
    assert found["images"]["made"] and found["images"]["mean_pixels"] == 500 * 375
    assert found["settings"]["random_weights"] and found["settings"]["input_size"] == 64
    assert {(row["images"], row["engine"]) for row in found["commands"]} == {(1, "onnx"), (48, "onnx")}
    assert {(row["part"], row["batch_size"]) for row in found["throughput"]} == {
        ("decoding", None),
        ("engine", 1),
        ("engine", 2),
        ("together", 1),
        ("together", 2),
    }
    assert found["fastest"]["batch_size"] in (1, 2)
    summaries = [row["seconds"] for row in found["commands"] + found["latency"]]
    summaries += [row["images_per_second"] for row in found["throughput"]]
    summaries += [row["peak_bytes"] for row in found["commands"]]
    for summary in summaries:
        assert set(summary) == SUMMARY and summary["count"] >= 3
        assert 0 < summary["minimum"] <= summary["lower_quartile"] <= summary["median"]
        assert summary["median"] <= summary["upper_quartile"] <= summary["maximum"]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up in /proc")
def test_interrupted_it_leaves_neither_files_nor_processes(tmp_path, weights):
    command = [sys.executable, "-m", "densenet_cli", "benchmark", "--weights", str(weights), "--seconds", "600"]
    running = subprocess.Popen(
        command, stderr=subprocess.PIPE, env=environment(tmp_path), start_new_session=True, preexec_fn=hear_interrupts
    )
    assert running.stderr and b"Measuring" in running.stderr.readline()
    while not left(tmp_path / "tmp"):
        assert running.poll() is None
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait(60) == 130
    assert left(tmp_path / "tmp") == []
    workers = [path for path in Path("/proc").glob("[0-9]*/environ") if _mentions(path, str(tmp_path / "tmp"))]
    assert workers == []


def _mentions(environ: Path, text: str) -> bool:
    try:
        return text.encode() in environ.read_bytes() and environ.parent.name != str(os.getpid())
    except OSError:
        return False


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--random-weights", "--weights", "x.h5"), "give one of the two"),
        (("--compare", "--engine", "tensorflow"), "leave out --engine tensorflow"),
        (("--batch-size", "4,many"), "'many' is not a valid integer"),
        (("--batch-size", ""), "'' is not a valid integer"),
        (("--threads", "0"), "0 is not in the range"),
        (("--seconds", "-1"), "not in the range"),
        (("--images", "nowhere.jpg"), "nowhere.jpg"),
        (("--images", "https://example.org/cat.jpg"), "neither URLs nor standard input"),
        (("--images", "-"), "neither URLs nor standard input"),
        (("--variant", "122"), "'122' is not one of"),
    ],
)
def test_what_is_refused(arguments, said):
    result = densenet("benchmark", *arguments)
    assert result.status == 2
    assert said in " ".join(result.err.split())
    assert result.out == ""


def test_without_weights_the_ways_on_are_named():
    result = densenet("benchmark", "--offline")
    assert result.status == 3
    assert "--variant tiny" in result.err and "densenet benchmark --random-weights" in result.err


def test_images_none_of_which_can_be_decoded(tmp_path, weights):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    result = densenet("benchmark", "--weights", weights, "--images", tmp_path / "broken.png", "--threads", 1)
    assert result.status == 2
    assert "None of the images can be decoded" in result.err


def test_a_worker_measures_each_part(tmp_path, weights):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    images = [SAMPLES / "cat.jpg", tmp_path / "broken.png", SAMPLES / "koala.jpg"]
    options = {"weights": str(weights), "threads": 2, "ten_crop": True}
    with Worker(options, images) as worker:
        assert list(worker.about["unusable"]) == [str(tmp_path / "broken.png")]
        assert (worker.about["input_size"], worker.about["crops"]) == (224, 10)
        for part in PARTS:
            samples = worker.measure(part, 20, 0.0)
            assert {images for images, _ in samples} == {IMAGES[part]}
            assert all(seconds > 0 for _, seconds in samples)


def test_a_workers_error_is_that_of_the_classifier(tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"bad\.safetensors"):
        Worker({"weights": str(tmp_path / "bad.safetensors")}, [])


def test_a_worker_that_dies_says_so(weights):
    with Worker({"weights": str(weights), "threads": 1}, [SAMPLES / "cat.jpg"]) as worker:
        worker._process.kill()
        with pytest.raises(CommandFailedError, match="ended with -9"):
            worker.measure("engine", 1, 0.0)


def test_a_processs_memory_is_its_own():
    held = bytearray(200_000_000)  # in this process, which is not what is measured
    small = run([sys.executable, "-c", "print('hello')"])
    large = run([sys.executable, "-c", "held = bytearray(b'x') * 100_000_000"])
    assert small.output == "hello\n" and small.seconds > 0
    assert small.memory < 50_000_000 < 100_000_000 < large.memory < len(held)


def test_a_process_that_fails_says_why():
    with pytest.raises(CommandFailedError, match=r"ended with 3: no luck"):
        run([sys.executable, "-c", "import sys; print('no luck', file=sys.stderr); sys.exit(3)"])
    with pytest.raises(CommandFailedError, match=r"could not be run.*no-such-program"):
        run(["/no-such-program"])


def test_nothing_is_left_where_it_fails():
    before = set(Path(tempfile.gettempdir()).glob("densenet-benchmark-*"))
    assert densenet("benchmark", "--random-weights", "--labels", SAMPLES / "README.md", "--threads", 1).status != 0
    assert set(Path(tempfile.gettempdir()).glob("densenet-benchmark-*")) <= before
