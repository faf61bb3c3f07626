"""Closed and full standard output: only printing stops, and every file is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.support.networks import tiny_weights


@pytest.fixture
def weights(tmp_path):
    return tiny_weights(tmp_path)


@pytest.fixture
def images(tmp_path):
    """Class folders with 40 images, one of which is damaged."""
    for number in range(40):
        path = tmp_path / "images" / str(number % 2) / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (50, 40), (6 * number, 90, 9)).save(path)
    path.write_bytes(b"damaged")
    return tmp_path / "images"


def run(arguments, stdout, stderr=subprocess.PIPE):
    command = [sys.executable, "-m", "densenet_cli", *map(str, arguments)]
    return subprocess.run(command, stdout=stdout, stderr=stderr, text=True, check=False, timeout=120)


def run_closed(arguments, stderr=subprocess.PIPE):
    """Run the command with a standard output that nobody reads, as after ``| true``."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "wb") as stdout:
        return run(arguments, stdout, stdout if stderr == subprocess.STDOUT else stderr)


def run_full(arguments):
    """Run the command with standard output on a full disk."""
    with open("/dev/full", "wb") as stdout:
        return run(arguments, stdout)


class TestOnlyOutput:
    """Commands that produce nothing except standard output."""

    @pytest.fixture(params=["help", "summary", "cache", "table", "jsonl", "json", "explain"])
    def arguments(self, request, tmp_path, weights):
        if request.param == "help":
            return ["predict", "--help"]
        if request.param in ("summary", "cache"):
            return [request.param]
        Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
        if request.param == "explain":
            return ["explain", tmp_path / "a.png", "--weights", weights, "--show"]
        return ["predict", tmp_path / "a.png", "--weights", weights, "--format", request.param]

    def test_closed_is_no_error(self, arguments):
        result = run_closed(arguments)
        assert (result.returncode, result.stderr) == (0, "")

    def test_full_is_one_error_message(self, arguments):
        result = run_full(arguments)
        assert result.returncode == 4
        assert result.stderr.count("\n") == 1 and "No space left on device" in result.stderr

    @pytest.mark.parametrize("format_name", ["table", "jsonl"])
    def test_images_are_not_classified_for_nobody(self, images, weights, format_name):
        result = run_closed(["predict", images, "--weights", weights, "--format", format_name, "--batch-size", "1"])
        assert (result.returncode, result.stderr) == (0, ""), "the damaged image comes last"


def requested_files(command, folder):
    """Return the options of a command that name files, and how to check that those files are complete."""
    page, drawings, plots, report = (folder / name for name in ("page.html", "maps", "plots", "report.json"))
    if command == "predict":
        return ["--html", page], lambda: "39.png" in page.read_text()
    if command == "explain":
        return ["-o", drawings], lambda: len(list(drawings.rglob("*.png"))) == 39
    mistakes = folder / "mistakes.csv"
    options = ["-o", report, "--html", page, "--plots", plots, "--mistakes", mistakes]
    return (
        options,
        lambda: (
            json.loads(report.read_text())["images"] == 39
            and "</html>" in page.read_text()
            and len(list(plots.iterdir())) == 3
            and mistakes.read_text().count("\n") > 1
        ),
    )


@pytest.mark.parametrize(
    ("command", "format_name"),
    [
        ("predict", "table"),
        ("predict", "jsonl"),
        ("predict", "json"),
        ("explain", "table"),
        ("explain", "jsonl"),
        ("evaluate", "table"),
        ("evaluate", "json"),
    ],
)
class TestFiles:
    """Commands that write files as well: 39 images are processed, and one fails."""

    @pytest.fixture
    def arguments(self, command, format_name, images, weights):
        return [command, images, "--weights", weights, "--format", format_name]

    def test_closed(self, command, arguments, tmp_path):
        options, are_complete = requested_files(command, tmp_path)
        result = run_closed([*arguments, *options])
        assert result.returncode == 1, result.stderr
        assert result.stderr.count("39.png") == 1 and "Error:" not in result.stderr
        assert are_complete()

    def test_full(self, command, arguments, tmp_path):
        options, are_complete = requested_files(command, tmp_path)
        result = run_full([*arguments, *options])
        assert result.returncode == 4, result.stderr
        assert "No space left on device" in result.stderr.splitlines()[-1]
        assert are_complete()


def test_the_status_is_that_of_the_work(images, weights):
    result = run_closed(["evaluate", images, "--weights", weights])
    assert result.returncode == 1
    Path(images / "1" / "39.png").unlink()
    assert run_closed(["evaluate", images, "--weights", weights]).returncode == 0


@pytest.mark.parametrize("options", [[], ["--verbose"]])
def test_closed_standard_error(weights, options, tmp_path):
    output = tmp_path / "out.jsonl"
    result = run_closed(
        ["predict", tmp_path / "missing.png", "--weights", weights, "-o", output, *options], subprocess.STDOUT
    )
    assert result.returncode == 1
    assert len(output.read_text().splitlines()) == 1
    result = run_closed(["predict", "--weights", weights, "a.png", "-o", output, *options], subprocess.STDOUT)
    assert result.returncode == 2


def test_an_exported_model_is_kept(weights, tmp_path):
    output = tmp_path / "model.safetensors"
    assert run_closed(["export", "--weights", weights, "-o", output]).returncode == 0
    assert output.stat().st_size > 1000
