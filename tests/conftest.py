"""What every test gets: a cache and a home of its own, no network, and one import of TensorFlow for all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "sample_images"


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """No test reads or writes the user's cache or weights."""
    monkeypatch.setenv("DENSENET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.delenv("DENSENET_BASE_URL", raising=False)


@pytest.fixture(scope="session")
def keras():
    """The keras module; importing TensorFlow takes seconds, so it happens once."""
    import keras

    return keras


@pytest.fixture(scope="session")
def photographs() -> list[Path]:
    """Real photographs: those that the repository ships."""
    paths = sorted(SAMPLES.glob("*.jpg"))
    assert len(paths) >= 4
    return paths
