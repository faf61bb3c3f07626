"""``densenet benchmark``: usage errors, a complete run, and an interrupted one. No test depends on the speed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from densenet_cli import variants
from tests.conftest import SAMPLES
from tests.support.command import densenet, restore_sigint, run_process

SUMMARY = {"count", "median", "lower_quartile", "upper_quartile", "minimum", "maximum"}


def environment(folder: Path) -> dict[str, str]:
    """Return the environment with the cache, the weights, and temporary files in ``folder``."""
    (folder / "tmp").mkdir()
    variables = {"DENSENET_CACHE": "cache", "KERAS_HOME": "keras", "TMPDIR": "tmp"}
    return {**os.environ, **{variable: str(folder / name) for variable, name in variables.items()}}


def files_in(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file()]


def test_a_complete_run_with_random_weights(tmp_path):
    arguments = ("--variant", "tiny", "--random-weights", "--threads", 1, "--batch-size", "2,1", "--seconds", 0)
    result = run_process("benchmark", *arguments, "--format", "json", "--quiet", env=environment(tmp_path))
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert files_in(tmp_path) == []
    report = json.loads(result.stdout)
    assert list(report) == [
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
    assert report["model"] == variants.get("tiny").model
    assert report["rounds"] >= 4
    assert report["machine"]["cores"] >= 1 and set(report["machine"]["packages"]) >= {"onnxruntime", "densenet-cli"}
    assert report["images"]["synthetic"] and report["images"]["mean_pixels"] == 500 * 375
    assert report["settings"]["random_weights"] and report["settings"]["input_size"] == 64
    assert {(row["images"], row["engine"]) for row in report["commands"]} == {(1, "onnx"), (48, "onnx")}
    assert {(row["stage"], row["batch_size"]) for row in report["throughput"]} == {
        ("decode", None),
        ("inference", 1),
        ("inference", 2),
        ("end_to_end", 1),
        ("end_to_end", 2),
    }
    assert report["fastest"]["batch_size"] in (1, 2)
    summaries = [row["seconds"] for row in report["commands"] + report["latency"]]
    summaries += [row["images_per_second"] for row in report["throughput"]]
    summaries += [row["peak_bytes"] for row in report["commands"]]
    for summary in summaries:
        assert set(summary) == SUMMARY and summary["count"] >= 3
        assert 0 < summary["minimum"] <= summary["lower_quartile"] <= summary["median"]
        assert summary["median"] <= summary["upper_quartile"] <= summary["maximum"]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_an_interrupted_run_leaves_neither_files_nor_processes(tmp_path, weights):
    command = [sys.executable, "-m", "densenet_cli", "benchmark", "--weights", str(weights), "--seconds", "600"]
    running = subprocess.Popen(
        command, stderr=subprocess.PIPE, env=environment(tmp_path), start_new_session=True, preexec_fn=restore_sigint
    )
    assert running.stderr and b"Measuring" in running.stderr.readline()
    while not files_in(tmp_path / "tmp"):
        assert running.poll() is None
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait(60) == 130
    assert files_in(tmp_path / "tmp") == []
    workers = [path for path in Path("/proc").glob("[0-9]*/environ") if _mentions(path, str(tmp_path / "tmp"))]
    assert workers == []


def _mentions(environ: Path, text: str) -> bool:
    try:
        return text.encode() in environ.read_bytes() and environ.parent.name != str(os.getpid())
    except OSError:
        return False


@pytest.mark.parametrize(
    ("arguments", "keyword"),
    [
        (("--random-weights", "--weights", "x.h5"), "--random-weights"),
        (("--compare", "--engine", "tensorflow"), "--engine tensorflow"),
        (("--batch-size", "4,many"), "'many' is not a valid integer"),
        (("--batch-size", ""), "'' is not a valid integer"),
        (("--threads", "0"), "0 is not in the range"),
        (("--seconds", "-1"), "not in the range"),
        (("--images", "nowhere.jpg"), "nowhere.jpg"),
        (("--images", "https://example.org/cat.jpg"), "standard input"),
        (("--images", "-"), "standard input"),
        (("--variant", "122"), "'122' is not one of"),
    ],
)
def test_usage_errors(arguments, keyword):
    result = densenet("benchmark", *arguments)
    assert result.status == 2
    assert keyword in " ".join(result.err.split())
    assert result.out == ""


def test_without_weights_alternatives_are_suggested():
    result = densenet("benchmark", "--offline")
    assert result.status == 3
    assert "--variant tiny" in result.err and "densenet benchmark --random-weights" in result.err


def test_no_image_can_be_decoded(tmp_path, weights):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    result = densenet("benchmark", "--weights", weights, "--images", tmp_path / "broken.png", "--threads", 1)
    assert result.status == 2
    assert "None of the images can be decoded" in result.err


def test_a_failed_run_leaves_no_files():
    before = set(Path(tempfile.gettempdir()).glob("densenet-benchmark-*"))
    assert densenet("benchmark", "--random-weights", "--labels", SAMPLES / "README.md", "--threads", 1).status != 0
    assert set(Path(tempfile.gettempdir()).glob("densenet-benchmark-*")) <= before
