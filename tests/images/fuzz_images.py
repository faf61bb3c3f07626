"""Classify hostile images: each gives a prediction or one error record, without crash or hang, in less than 1 GB.

    python -m tests.images.fuzz_images 20000

generates at least that many, a few hundred per folder, and runs the command on each folder with random options. A seed
determines the images and options: ``python -m tests.images.fuzz_images 1 17`` repeats the folder of seed 17.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from densenet_cli.benchmarking.processes import LAUNCHER
from densenet_cli.images.decoding import NOTES
from tests.support.hostile_images import hostile_images
from tests.support.networks import tiny_weights

ROOT = Path(__file__).parents[2]
MAX_MEMORY = 1_000_000_000
"""Limit on the memory of the whole process in bytes, for any mixture of images."""
IMAGES_PER_FOLDER = 400
TIMEOUT = 300
"""Seconds after which a run counts as hanging, however busy the machine is."""

ERRORS = {"UnreadableImage", "ImageTooLarge"}

OPTIONS = (
    [],
    ["--preprocess", "squash"],
    ["--preprocess", "pad"],
    ["--preprocess", "keras"],
    ["--exact"],
    ["--ten-crop"],
    ["--batch-size", "1"],
    ["--batch-size", "32"],
    ["--truncated", "accept"],
    ["--bit-depth", "12"],
    ["--pages", "all"],
    ["--pages", "all", "--truncated", "accept"],
)
THREADS = (1, 2, 3, 8, 64)


def run(seed: int, weights: Path, count: int = IMAGES_PER_FOLDER) -> dict[str, Any]:
    """Classify one folder of hostile images and return statistics. Raises ``AssertionError`` if a check fails."""
    rng = random.Random(seed)
    options = [*rng.choice(OPTIONS), "--threads", str(rng.choice(THREADS))]
    with tempfile.TemporaryDirectory() as folder:
        descriptions = {}
        for index, (description, suffix, data) in enumerate(islice(hostile_images(seed), count)):
            name = f"{index:04}{suffix}"
            descriptions[name] = description
            (Path(folder) / name).write_bytes(data)
        started = time.monotonic()
        report = {"out": ""}
        try:
            report = classify(folder, weights, *options)
            outcome = check(list(descriptions), report)
        except AssertionError as error:
            done = min(report["out"].count("\n"), count - 1)
            pending = ", ".join(f"{name} ({text})" for name, text in list(descriptions.items())[done : done + 12])
            raise AssertionError(f"seed {seed}, {' '.join(options)}: {error}; pending: {pending}") from None
        seconds = time.monotonic() - started
    return {"images": count, **outcome, "memory": report["memory"], "seconds": seconds, "options": options}


def classify(folder: str, weights: Path, *options: str) -> dict[str, Any]:
    """Run the command on a folder and return exit status, output, messages, and peak memory. Kill it if it hangs."""
    command = [sys.executable, "-m", "densenet_cli", "predict", folder, "--weights", str(weights), "--format", "jsonl"]
    launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, *command, *options]
    with subprocess.Popen(launcher, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            report, _ = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"no end after {TIMEOUT} s") from None
    status, _, memory, out, err = json.loads(report)
    return {"status": status, "out": out, "err": err, "memory": memory}


def check(names: list[str], report: dict[str, Any]) -> dict[str, int]:
    """Return the number of predictions and of errors of each type. Raises ``AssertionError`` for anything else."""
    assert report["status"] in (0, 1), f"status {report['status']}: {report['err'][-500:]}"
    records = [json.loads(line) for line in report["out"].splitlines()]
    sources = (os.path.basename(record["source"]).partition("[")[0] for record in records)  # without the page
    assert [source for source, _ in groupby(sources)] == names, "not every image has its record"
    errors = [record["error"] for record in records if "error" in record]
    for error in errors:
        assert error["type"] in ERRORS, error
        assert error["message"].isprintable() and 0 < len(error["message"]) < 300, error
    predictions = [record["predictions"] for record in records if "predictions" in record]
    assert all(len(scores) == 5 for scores in predictions)
    assert report["status"] == bool(errors)
    # One warning per error record, and nothing else: no traceback, no output of a library.
    messages = report["err"].splitlines()
    # A line at the end counts each kind of note.
    notes = {note for record in records for note in NOTES if note in record}
    messages = messages[: len(messages) - len(notes)]
    assert len(messages) == len(errors), report["err"][-500:]
    for message, error in zip(messages, errors, strict=True):
        assert message.endswith(f": {error['type']}: {error['message']}"), message
    assert report["memory"] <= MAX_MEMORY, f"{report['memory'] / 1e6:.0f} MB"
    return {"predicted": len(predictions), **Counter(error["type"] for error in errors)}


def main(min_images: int, seed: int = 0) -> None:
    """Classify at least ``min_images`` images, starting with the folder of ``seed``, and print statistics."""
    total: Counter[str] = Counter()
    peak = slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        weights = tiny_weights(Path(folder))
        while total["images"] < min_images:
            done = run(seed, weights)
            print(seed, done, flush=True)
            peak, slowest = max(peak, done["memory"]), max(slowest, done["seconds"])
            total.update({name: done[name] for name in ("images", "predicted", *ERRORS) if name in done})
            seed += 1
    print(f"{dict(total)}, peak memory {peak / 1e6:.0f} MB, slowest folder {slowest:.0f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
