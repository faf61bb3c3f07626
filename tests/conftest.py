"""Fixtures for all tests: private folders, no network, and one import of TensorFlow per process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "sample_images"


def pytest_collection_modifyitems(items):
    """Give slow tests an hour; other tests have the limit in ``pyproject.toml``."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(scope="session", autouse=True)
def shared_folders(tmp_path_factory):
    """Keep fixtures that several tests share away from the user's caches, weights, and tokens."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        _set_folders(tmp_path_factory.mktemp("shared"), monkeypatch)
        yield


@pytest.fixture(autouse=True)
def private_folders(tmp_path, monkeypatch):
    """Give each test caches of its own."""
    _set_folders(tmp_path, monkeypatch)


def _set_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("HF_", "HUGGING")) or name == "TRANSFORMERS_OFFLINE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(folder / "huggingface"))
    monkeypatch.setenv("DENSENET_CACHE", str(folder / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(folder / "keras"))
    monkeypatch.delenv("DENSENET_BASE_URL", raising=False)


@pytest.fixture(scope="session")
def keras():
    """The keras module. Importing TensorFlow takes seconds, so it happens once per process."""
    import keras

    return keras


@pytest.fixture(scope="session")
def photographs() -> list[Path]:
    """The photographs in ``sample_images/``."""
    paths = sorted(SAMPLES.glob("*.jpg"))
    assert len(paths) >= 4
    return paths


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """A checkpoint of a network of a few layers, in the published format."""
    from tests.support.networks import tiny_weights

    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="session")
def calibrated_folder(tmp_path_factory) -> Path:
    """A folder with model.safetensors, calibrated.safetensors, images, and labels.csv."""
    from tests.support.calibration import calibrate_model

    folder = tmp_path_factory.mktemp("calibration")
    calibrate_model(folder)
    return folder


@pytest.fixture(scope="session")
def calibrated_multi_label_folder(tmp_path_factory) -> Path:
    """The same for a multi-label model, which is called findings.safetensors."""
    from tests.support.calibration import calibrate_multi_label_model

    folder = tmp_path_factory.mktemp("multi-label-calibration")
    calibrate_multi_label_model(folder)
    return folder


@pytest.fixture
def children() -> Callable[[], list[psutil.Process]]:
    """Return a function that lists the child processes started since the test began."""
    process = psutil.Process()
    before = set(process.children())
    return lambda: [child for child in process.children() if child not in before]


@pytest.fixture
def new_threads() -> Callable[[], set[threading.Thread]]:
    """Return a function that returns the living threads that started during the test.

    Counting threads is not enough: one of an earlier test may end meanwhile.
    """
    before = set(threading.enumerate())
    return lambda: set(threading.enumerate()) - before


@pytest.fixture(scope="session")
def s3_server():
    """An S3 server in a process of its own."""
    from tests.support.s3 import run_server

    with run_server() as server:
        yield server


@pytest.fixture
def s3(s3_server, monkeypatch):
    """An S3 server without buckets, which this process and its children use."""
    from tests.support.s3 import use

    s3_server.reset()
    use(monkeypatch, s3_server.endpoint)
    return s3_server


@pytest.fixture
def s3_proxy(s3_server, monkeypatch):
    """A proxy in front of the S3 server, which injects faults. This process and its children use it."""
    from tests.support.s3 import run_proxy, use

    s3_server.reset()
    with run_proxy(s3_server) as proxy:
        use(monkeypatch, proxy.endpoint)
        yield proxy
