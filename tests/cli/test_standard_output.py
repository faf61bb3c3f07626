"""Closed and full standard output, for every output format."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from PIL import Image

from tests.support.networks import tiny_weights


@pytest.fixture(params=["summary", "cache", "table", "jsonl"])
def arguments(request, tmp_path):
    if request.param in ("summary", "cache"):
        return [request.param]
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    return ["predict", tmp_path / "a.png", "--weights", tiny_weights(tmp_path), "--format", request.param]


def densenet(arguments, stdout):
    command = [sys.executable, "-m", "densenet_cli", *map(str, arguments)]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, timeout=120)


def test_closed_standard_output_is_no_error(arguments):
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "wb") as stdout:
        result = densenet(arguments, stdout)
    assert (result.returncode, result.stderr) == (0, "")


def test_full_disk_is_one_error_message(arguments):
    with open("/dev/full", "wb") as stdout:
        result = densenet(arguments, stdout)
    assert result.returncode == 4
    assert result.stderr.count("\n") == 1 and "No space left on device" in result.stderr
