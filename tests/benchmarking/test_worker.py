"""Benchmark workers: what they measure, and their errors."""

from __future__ import annotations

import pytest

from densenet_cli.benchmarking.processes import CommandFailedError
from densenet_cli.benchmarking.worker import BenchmarkWorker
from densenet_cli.errors import CheckpointError
from tests.conftest import SAMPLES

IMAGES_PER_SAMPLE = {
    ("decode", 1): 4,
    ("inference", 20): 2,
    ("inference", None): 4,
    ("end_to_end", 20): 40,
    ("end_to_end", None): 4,
    ("predict", 1): 1,
}
"""(stage, batch size) -> images per measurement, for two threads and ten crops per image."""


def test_a_worker_measures_each_stage(tmp_path, weights):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    images = [SAMPLES / "cat.jpg", tmp_path / "broken.png", SAMPLES / "koala.jpg"]
    options = {"weights": str(weights), "threads": 2, "ten_crop": True}
    with BenchmarkWorker(options, images) as worker:
        assert list(worker.info["failed"]) == [str(tmp_path / "broken.png")]
        assert (worker.info["input_size"], worker.info["crops"]) == (224, 10)
        assert not worker.info["has_batches"]
        for (stage, batch_size), expected in IMAGES_PER_SAMPLE.items():
            samples = worker.measure(stage, batch_size, 0.0)
            assert {images for images, _ in samples} == {expected}
            assert all(seconds > 0 for _, seconds in samples)


def test_a_worker_compares_with_float32(weights):
    images = [SAMPLES / "cat.jpg", SAMPLES / "koala.jpg"]
    with BenchmarkWorker({"weights": str(weights), "threads": 1}, images) as worker:
        agreement = worker.agreement()
    assert (agreement.images, agreement.same_first, agreement.max_difference) == (2, 2, 0)


def test_a_worker_raises_the_errors_of_the_classifier(tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"bad\.safetensors"):
        BenchmarkWorker({"weights": str(tmp_path / "bad.safetensors")}, [])


def test_a_worker_that_ends_is_an_error(weights):
    with BenchmarkWorker({"weights": str(weights), "threads": 1}, [SAMPLES / "cat.jpg"]) as worker:
        worker._process.kill()
        with pytest.raises(CommandFailedError, match="-9"):
            worker.measure("inference", 1, 0.0)
