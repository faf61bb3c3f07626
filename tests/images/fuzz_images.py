"""Classify hostile images: a prediction or one error row each, no crash, no hang, and less than a gigabyte.

    python -m tests.images.fuzz_images 20000

makes at least that many, some hundred to a folder, and has the command classify each folder in a process of its own,
with some number of threads and in some way of preparing them. The same seed gives the same images:
``python -m tests.images.fuzz_images 1 17`` repeats the folder of seed 17.
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
from itertools import islice
from pathlib import Path
from typing import Any

from densenet_cli.benchmarking.processes import LAUNCHER
from tests.support.hostile_images import images
from tests.support.networks import tiny_weights

ROOT = Path(__file__).parents[2]
MOST_MEMORY = 1_000_000_000
"""Bytes of the whole process, whatever is mixed in it."""
A_FOLDER = 400
SECONDS = 300
"""That no folder takes, however busy the machine is: beyond them it hangs."""

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
)
THREADS = (1, 2, 3, 8, 64)


def run(seed: int, weights: Path, count: int = A_FOLDER) -> dict[str, Any]:
    """One folder of hostile images and what became of it. Raises AssertionError where something is amiss."""
    rng = random.Random(seed)
    options = [*rng.choice(OPTIONS), "--threads", str(rng.choice(THREADS))]
    with tempfile.TemporaryDirectory() as folder:
        made = {}
        for index, (what, suffix, data) in enumerate(islice(images(seed), count)):
            name = f"{index:04}{suffix}"
            made[name] = what
            (Path(folder) / name).write_bytes(data)
        started = time.monotonic()
        report = {"out": ""}
        try:
            report = classify(folder, weights, *options)
            outcome = check(list(made), report)
        except AssertionError as error:
            done = min(report["out"].count("\n"), count - 1)
            after = ", ".join(f"{name} ({what})" for name, what in list(made.items())[done : done + 12])
            raise AssertionError(f"seed {seed}, {' '.join(options)}: {error}; not done yet: {after}") from None
        seconds = time.monotonic() - started
    return {"images": count, **outcome, "memory": report["memory"], "seconds": seconds, "options": options}


def classify(folder: str, weights: Path, *options: str) -> dict[str, Any]:
    """The command on a folder, in a process that is ended when it hangs: status, output, messages, memory at most."""
    command = [sys.executable, "-m", "densenet_cli", "predict", folder, "--weights", str(weights), "--format", "jsonl"]
    launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, *command, *options]
    with subprocess.Popen(launcher, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            answer, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"no end after {SECONDS} s") from None
    status, _, memory, out, err = json.loads(answer)
    return {"status": status, "out": out, "err": err, "memory": memory}


def check(names: list[str], report: dict[str, Any]) -> dict[str, int]:
    """How many were answered and how many ended as which error; AssertionError where that isn't all that happened."""
    assert report["status"] in (0, 1), f"status {report['status']}: {report['err'][-500:]}"
    records = [json.loads(line) for line in report["out"].splitlines()]
    assert [os.path.basename(record["source"]) for record in records] == names, "not every image has its row"
    errors = [record["error"] for record in records if "error" in record]
    for error in errors:
        assert error["type"] in ERRORS, error
        assert error["message"].isprintable() and 0 < len(error["message"]) < 300, error
    answered = [record["predictions"] for record in records if "predictions" in record]
    assert all(len(predictions) == 5 for predictions in answered)
    assert report["status"] == bool(errors)
    # A warning for each error row, and nothing else: no traceback, no message of a library.
    messages = report["err"].splitlines()
    assert len(messages) == len(errors), report["err"][-500:]
    for message, error in zip(messages, errors, strict=True):
        assert message.endswith(f": {error['type']}: {error['message']}"), message
    assert report["memory"] <= MOST_MEMORY, f"{report['memory'] / 1e6:.0f} MB"
    return {"answered": len(answered), **Counter(error["type"] for error in errors)}


def main(least: int, seed: int = 0) -> None:
    """At least ``least`` images, from the folder of ``seed`` on; what became of them all is said at the end."""
    total: Counter[str] = Counter()
    worst = slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        weights = tiny_weights(Path(folder))
        while total["images"] < least:
            done = run(seed, weights)
            print(seed, done, flush=True)
            worst, slowest = max(worst, done["memory"]), max(slowest, done["seconds"])
            total.update({name: done[name] for name in ("images", "answered", *ERRORS) if name in done})
            seed += 1
    print(f"{dict(total)}, {worst / 1e6:.0f} MB at most, {slowest:.0f} s a folder at most")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
