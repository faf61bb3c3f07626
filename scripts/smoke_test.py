"""Run every ``densenet`` command once: ``python scripts/smoke_test.py path/to/densenet``.

The script uses only the standard library, so it can test any installation: a development environment, an installed
wheel, or the oldest supported dependencies. All output goes to a temporary folder, and nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SAMPLE_IMAGES = Path(__file__).resolve().parents[1] / "sample_images"
TIMEOUT = 300
"""Seconds that one command may take. TensorFlow alone needs several seconds to start."""


class Failure(Exception):
    """A command did not do what it should."""


class SmokeTest:
    """Runs commands in a temporary folder and counts the ones that pass and fail."""

    def __init__(self, executable: str, folder: Path) -> None:
        self.executable = executable
        self.folder = folder
        self.passed = 0
        self.failed = 0
        self.commands: set[str] = set()
        """Subcommands that did real work, not just printed their help."""
        self.environment = {
            **os.environ,
            "DENSENET_CACHE": str(folder / "cache"),
            "KERAS_HOME": str(folder / "keras"),
        }

    def run(self, *arguments: object, creates: str = "", check: Callable[[str], None] | None = None) -> str:
        """Run one command and return its standard output.

        Args:
            arguments: What follows ``densenet``.
            creates: A file or folder, relative to the temporary folder, that must exist afterwards and not be empty.
            check: Called with the standard output; raises if it is wrong.
        """
        words = [str(argument) for argument in arguments]
        if "--help" not in words and not words[0].startswith("-"):
            self.commands.add(words[0])
        start = time.perf_counter()
        stdout = stderr = ""
        problem = None
        try:
            result = subprocess.run(
                [self.executable, *words],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=TIMEOUT,
            )
            stdout, stderr = result.stdout, result.stderr
            if result.returncode:
                raise Failure(f"exit status {result.returncode}")
            if "Traceback" in stderr or "Warning:" in stderr:
                raise Failure("a traceback or warning on standard error")
            if creates and not is_filled(self.folder / creates):
                raise Failure(f"{creates} is missing or empty")
            if check:
                check(stdout)
        except (Failure, AssertionError, LookupError, ValueError, OSError, subprocess.TimeoutExpired) as error:
            problem = f"{type(error).__name__}: {error}"
        elapsed = time.perf_counter() - start
        line = f"{elapsed:6.1f} s  densenet {' '.join(words)}"
        if problem is None:
            self.passed += 1
            print(f"ok    {line}", flush=True)
        else:
            self.failed += 1
            print(f"FAIL  {line}\n      {problem}\n{stdout[-2000:]}{stderr[-4000:]}", flush=True)
        return stdout


def is_filled(path: Path) -> bool:
    """Return whether a path is a file with bytes in it, or a folder that is not empty."""
    return any(path.iterdir()) if path.is_dir() else path.is_file() and path.stat().st_size > 0


def write_training_images(folder: Path) -> None:
    """Write eight 32x32 images in each of two class folders: dark red and bright blue noise."""
    for name, base in (("red", (120, 20, 20)), ("blue", (40, 60, 200))):
        (folder / name).mkdir(parents=True)
        for index in range(8):
            pixels = bytes((base[i % 3] + (i * 7 + index * 13) % 50) % 256 for i in range(32 * 32 * 3))
            (folder / name / f"{index}.ppm").write_bytes(b"P6 32 32 255\n" + pixels)


def check_predictions(output: str) -> None:
    """Check that every sample image has predictions."""
    records = [json.loads(line) for line in output.splitlines()]
    assert len(records) == len(list(SAMPLE_IMAGES.glob("*.jpg"))), "one record per image"
    assert all(record["predictions"] for record in records), "every image has predictions"


def check_json(output: str) -> None:
    """Check that the output is one JSON document that is not empty."""
    assert json.loads(output)


def predicted_ids(output: str) -> dict[str, str]:
    """Map the path of each image to the WordNet ID of its most probable class."""
    records: list[dict[str, Any]] = [json.loads(line) for line in output.splitlines()]
    return {record["source"]: record["predictions"][0]["id"] for record in records}


def run_all(test: SmokeTest) -> None:
    """Run each command once, in an order in which later ones can use the files of earlier ones."""
    tiny = ("--variant", "tiny", "--offline")
    test.run("--version")
    help_text = test.run("--help")
    commands = re.findall(r"^  ([a-z-]+) {2,}", help_text.partition("Commands:")[2], re.MULTILINE)
    for command in commands:
        test.run(command, "--help")

    output = test.run("predict", SAMPLE_IMAGES, *tiny, "--format", "jsonl", check=check_predictions)
    test.run("predict", SAMPLE_IMAGES, *tiny, "-o", "labels.csv", "--html", "report.html", creates="report.html")
    if sys.platform != "win32":
        test.run("predict", SAMPLE_IMAGES, *tiny, "--isolate", "--format", "jsonl", check=check_predictions)
    test.run("predict", SAMPLE_IMAGES, *tiny, "--engine", "tensorflow", "--format", "jsonl", check=check_predictions)
    test.run("explain", SAMPLE_IMAGES, *tiny, "-o", "maps", creates="maps")
    test.run("embed", SAMPLE_IMAGES, *tiny, "-o", "features.npz", creates="features.npz")
    test.run("summary", "--variant", "tiny", "--format", "json", check=check_json)

    for source, wordnet_id in predicted_ids(output).items():
        (test.folder / "classes" / wordnet_id).mkdir(parents=True, exist_ok=True)
        shutil.copy(source, test.folder / "classes" / wordnet_id)
        for number in range(30):
            (test.folder / "calibration" / wordnet_id).mkdir(parents=True, exist_ok=True)
            shutil.copy(source, test.folder / "calibration" / wordnet_id / f"{number}-{Path(source).name}")
    test.run("calibrate", "calibration", *tiny, "-o", "calibrated.safetensors", creates="calibrated.safetensors")
    guarantees = ("--coverage", "0.9", "--max-error", "0.1", "--format", "jsonl")
    test.run("predict", SAMPLE_IMAGES, "--weights", "calibrated.safetensors", *guarantees, check=check_predictions)
    test.run("sort", SAMPLE_IMAGES, "--into", "sorted", "--weights", "calibrated.safetensors", creates="sorted")
    test.run("sort", "--undo", "sorted")
    evaluation = ("evaluate", "classes", *tiny, "--format", "json")
    test.run(*evaluation, "--plots", "plots", "--html", "evaluation.html", creates="plots", check=check_json)

    write_training_images(test.folder / "images")
    architecture = ("--blocks", "2,2", "--growth-rate", "8", "--stem", "cifar", "--input-size", "32")
    schedule = ("--epochs", "1", "--batch-size", "4", "--validation", "2")
    test.run("train", "images", "-o", "run", *architecture, *schedule, creates="run/model.safetensors")
    test.run("predict", "images", "--weights", "run/model.safetensors")

    for name in ("tiny.onnx", "tiny.safetensors", "tiny.keras", "tiny.tflite", "saved_model"):
        test.run("export", *tiny, "-o", name, creates=name)
    for name in ("tiny.safetensors", "tiny.keras"):
        test.run("predict", SAMPLE_IMAGES, "--weights", name, "--format", "jsonl", check=check_predictions)

    benchmark = ("benchmark", *tiny, "--threads", "1", "--seconds", "0")
    test.run(*benchmark, "--format", "json", check=check_json)
    test.run("download-weights", "--list")
    test.run("cache", "--verify", "--format", "json", check=check_json)

    if missing := set(commands) - test.commands or not commands:
        test.failed += 1
        print(f"FAIL  add a run of these commands to {Path(__file__).name}: {missing}")


def main() -> int:
    """Return 0 if every command did what it should, else 1."""
    parser = argparse.ArgumentParser(description="Run every densenet command once.")
    parser.add_argument("executable", help="path of the densenet executable")
    executable = shutil.which(parser.parse_args().executable)
    if executable is None:
        parser.error("no such executable")
    with tempfile.TemporaryDirectory(prefix="densenet-smoke-") as folder:
        test = SmokeTest(str(Path(executable).absolute()), Path(folder).resolve())
        run_all(test)
    print(f"{test.passed} passed, {test.failed} failed")
    return 1 if test.failed else 0


if __name__ == "__main__":
    sys.exit(main())
