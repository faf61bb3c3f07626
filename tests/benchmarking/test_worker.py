"""Benchmark workers: what they measure, and their errors."""

from __future__ import annotations

import pytest

from densenet_cli.benchmarking.processes import CommandFailedError
from densenet_cli.benchmarking.worker import BenchmarkWorker
from densenet_cli.errors import CheckpointError
from tests.conftest import SAMPLES

IMAGES_PER_SAMPLE = {"decode": 4, "inference": 2, "end_to_end": 40, "predict": 1}
"""Stage -> images per measurement, for a batch size of 20, two threads, and ten crops per image."""


def test_a_worker_measures_each_stage(tmp_path, weights):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    images = [SAMPLES / "cat.jpg", tmp_path / "broken.png", SAMPLES / "koala.jpg"]
    options = {"weights": str(weights), "threads": 2, "ten_crop": True}
    with BenchmarkWorker(options, images) as worker:
        assert list(worker.info["failed"]) == [str(tmp_path / "broken.png")]
        assert (worker.info["input_size"], worker.info["crops"]) == (224, 10)
        for stage, expected in IMAGES_PER_SAMPLE.items():
            samples = worker.measure(stage, 20, 0.0)
            assert {images for images, _ in samples} == {expected}
            assert all(seconds > 0 for _, seconds in samples)


def test_a_worker_raises_the_errors_of_the_classifier(tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"bad\.safetensors"):
        BenchmarkWorker({"weights": str(tmp_path / "bad.safetensors")}, [])


def test_a_worker_that_ends_is_an_error(weights):
    with BenchmarkWorker({"weights": str(weights), "threads": 1}, [SAMPLES / "cat.jpg"]) as worker:
        worker._process.kill()
        with pytest.raises(CommandFailedError, match="-9"):
            worker.measure("inference", 1, 0.0)
