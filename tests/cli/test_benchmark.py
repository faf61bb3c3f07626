"""``densenet benchmark``: usage errors, a complete run, and an interrupted one. No test depends on the speed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from densenet_cli import variants
from densenet_cli.benchmarking import BenchmarkPlan
from densenet_cli.engines import precision
from tests.conftest import SAMPLES
from tests.support.command import densenet, restore_sigint, run_process

needs_bfloat16 = pytest.mark.skipif(
    "bfloat16" not in precision.supported(), reason="this processor does not compute in bfloat16"
)
SUMMARY = {"count", "median", "lower_quartile", "upper_quartile", "minimum", "maximum"}


def environment(folder: Path) -> dict[str, str]:
    """Return the environment with the cache, the weights, and temporary files in ``folder``."""
    (folder / "tmp").mkdir()
    variables = {"DENSENET_CACHE": "cache", "KERAS_HOME": "keras", "TMPDIR": "tmp"}
    return {**os.environ, **{variable: str(folder / name) for variable, name in variables.items()}}


def files_in(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file()]


def test_a_complete_run_with_random_weights(tmp_path):
    arguments = ("--variant", "tiny", "--random-weights", "--threads", "1,2", "--seconds", 0)
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
        "agreement",
        "fastest",
    ]
    assert report["model"] == variants.get("tiny").model
    assert report["rounds"] >= 4
    assert report["machine"]["cores"] >= 1 and set(report["machine"]["packages"]) >= {"onnxruntime", "densenet-cli"}
    assert report["images"]["synthetic"] and report["images"]["mean_pixels"] == 500 * 375
    assert report["settings"]["random_weights"] and report["settings"]["input_size"] == 64
    assert {(row["images"], row["engine"]) for row in report["commands"]} == {(1, "onnx"), (48, "onnx")}
    cases = [(row["stage"], row["batch_size"]) for row in report["throughput"]]
    assert cases == [("decode", None), ("inference", None), ("end_to_end", None)] * 2
    assert report["fastest"]["threads"] in (1, 2) and report["fastest"]["batch_size"] is None
    assert report["settings"]["precision"] == "float32" and report["agreement"] is None
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
        (("--batch-size", "4"), "--engine tensorflow"),
        (("--agreement", SAMPLES), "--precision bfloat16"),
        (("--agreement", SAMPLES, "--compare"), "--compare"),
        (("--agreement", "nowhere"), "nowhere"),
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


@needs_bfloat16
def test_complete_run_in_bfloat16(tmp_path):
    arguments = ("--variant", "tiny", "--precision", "bfloat16", "--threads", 1, "--seconds", 0)
    arguments += ("--images", SAMPLES / "cat.jpg", "--images", SAMPLES / "koala.jpg", "--format", "json")
    result = run_process("benchmark", *arguments, "--quiet", env=environment(tmp_path))
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    rows = report["commands"] + report["latency"] + report["throughput"]
    assert {(row["engine"], row["precision"]) for row in rows} == {("openvino", "bfloat16")}
    assert report["agreement"]["images"] == 2 and 0 < report["agreement"]["max_difference"] < 0.05
    assert "openvino" in report["machine"]["packages"]


def test_comparison_with_tensorflow_is_in_float32():
    options = {"engine": "openvino", "precision": "bfloat16"}
    plan = BenchmarkPlan(options, arguments=(), batch_sizes=(4, 8), threads=(1, 2), compare=True)
    assert plan.precisions == {"openvino": "bfloat16", "tensorflow": "float32"}
    assert plan.workers == [("openvino", 1), ("openvino", 2), ("tensorflow", 2)]
    int8 = BenchmarkPlan({"engine": "openvino", "precision": "int8", "int8_images": "x"}, (), (4,), (2,), compare=True)
    assert int8.engine_arguments["openvino"] == ["--engine", "openvino", "--precision", "int8", "--int8-images", "x"]
    assert int8.engine_arguments["tensorflow"] == ["--engine", "tensorflow", "--precision", "float32"]
    cases = plan.cases("tensorflow", 2, has_batches=True)
    assert [case.batch_size for case in cases if case.stage == "inference"] == [1, 4, 8]
    assert [case.batch_size for case in cases if case.stage == "end_to_end"] == [4, 8]


@needs_bfloat16
def test_agreement_on_class_folders(tmp_path):
    """Including an image that fails, and the accuracy, which is not measured without class folders."""
    classes = {"n02123045": "cat.jpg", "n01882714": "koala.jpg"}
    for class_, image in classes.items():
        (tmp_path / class_).mkdir()
        shutil.copy(SAMPLES / image, tmp_path / class_)
    arguments = ("benchmark", "--variant", "tiny", "--precision", "bfloat16", "--format", "json", "--agreement")
    result = densenet(*arguments, tmp_path)
    assert result.status == 0, result.err
    report = json.loads(result.out)
    assert (report["images"], report["labeled_images"], report["failed"]) == (2, 2, {})
    assert (report["precision"], report["engine"], report["model"]) == ("bfloat16", "openvino", "densenet-tiny")
    assert report["reference_accuracy"] in (0, 0.5, 1)

    (tmp_path / "n01882714" / "broken.jpg").write_bytes(b"nothing")
    (tmp_path / "n02123045").rename(tmp_path / "my cats")
    result = densenet(*arguments, tmp_path)
    assert result.status == 1
    assert "my cats" in result.err and "broken.jpg" in result.err
    report = json.loads(result.out)
    assert (report["images"], report["labeled_images"], report["accuracy"]) == (2, 0, None)


@needs_bfloat16
def test_agreement_as_a_table():
    result = densenet("benchmark", "--variant", "tiny", "--precision", "bfloat16", "--agreement", SAMPLES)
    assert result.status == 0
    assert "bfloat16 (OpenVINO) compared with float32" in result.out
    assert "8 of 8" in result.out and "Accuracy" not in result.out
