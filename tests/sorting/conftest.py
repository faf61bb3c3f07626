"""Fixtures for sorting."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.sorting import write_files


@pytest.fixture(params=["same file system", "two file systems"])
def folders(request, tmp_path):
    """A folder of files, and a folder to sort into."""
    source = write_files(tmp_path / "photos")
    if request.param == "same file system":
        yield source, tmp_path / "sorted"
        return
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    target = other / f"densenet-sort-{os.getpid()}"
    yield source, target
    shutil.rmtree(target, ignore_errors=True)
