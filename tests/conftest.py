"""Fixtures for all tests: private folders, no network, and one import of TensorFlow per process."""

from __future__ import annotations

import os
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


@pytest.fixture(autouse=True)
def private_folders(tmp_path, monkeypatch):
    """Keep tests away from the user's caches, weights, and tokens."""
    for name in list(os.environ):
        if name.startswith(("HF_", "HUGGING")) or name == "TRANSFORMERS_OFFLINE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    monkeypatch.setenv("DENSENET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
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


@pytest.fixture
def children() -> Callable[[], list[psutil.Process]]:
    """Return a function that lists the child processes started since the test began."""
    process = psutil.Process()
    before = set(process.children())
    return lambda: [child for child in process.children() if child not in before]


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
