"""Interrupt and resume the command at random moments. The output must be that of an uninterrupted run.

    python -m tests.cli.kill_rounds 50

runs 50 rounds for each format, JSON Lines and CSV. A round runs ``predict -o FILE --resume`` on some thousand images,
some of which are damaged. It ends the command with SIGINT, SIGTERM, or SIGKILL at random moments (given by the seed)
and restarts it until it completes.
"""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tests.support.command import restore_sigint
from tests.support.images import encode
from tests.support.networks import tiny_weights

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
MAX_KILLS = 4
"""Per round. The command then runs to the end."""
TIMEOUT = 300
"""In seconds, per run of the command."""


@dataclass
class Dataset:
    """Images, and the results of uninterrupted runs.

    Attributes:
        folder: Folder of the images.
        weights: Weights of the model.
        expected: Complete output file by suffix.
        seconds: Duration of an uninterrupted run by suffix.
        names: Sources in order.
    """

    folder: Path
    weights: Path
    expected: dict[str, bytes]
    seconds: dict[str, float]
    names: list[str]


def prepare(folder: Path, count: int, suffixes: tuple[str, ...] = (".jsonl", ".csv")) -> Dataset:
    """Create ``count`` small images with unusual names, one in nine damaged, and the outputs of uninterrupted runs."""
    images = folder / "images"
    names = make_images(images, count)
    dataset = Dataset(images, tiny_weights(folder), {}, {}, names)
    for suffix in suffixes:
        output = folder / f"uninterrupted{suffix}"
        started = time.monotonic()
        assert start(dataset, output).wait(TIMEOUT) == 1, "some images are damaged"
        dataset.seconds[suffix] = time.monotonic() - started
        dataset.expected[suffix] = output.read_bytes()
        assert sources(output) == names
    return dataset


def make_images(folder: Path, count: int) -> list[str]:
    """Create images as links to a few files, which is fast. Return their names in the order of a walk."""
    originals = folder.parent / "originals"
    originals.mkdir()
    data = [encode(Image.new("RGB", (30 + n, 40 - n), (25 * n, 255 - 25 * n, 99)), "PNG") for n in range(8)]
    for number, content in enumerate([*data, data[0][:-40]]):
        (originals / str(number)).write_bytes(content)
    names = []
    for number in range(count):
        subfolder = folder / f'{number // 500}, "{number // 500}"\n'
        subfolder.mkdir(parents=True, exist_ok=True)
        name = subfolder / f"{number:05}{' é' if number % 7 else ''}.png"
        os.link(originals / str(number % 9), name)
        names.append(str(name))
    return sorted(names)


def start(dataset: Dataset, output: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start the command. Its messages go to the file ``messages`` next to the output."""
    command = [sys.executable, "-m", "densenet_cli", "predict", str(dataset.folder), *options]
    command += ["--weights", str(dataset.weights), "-o", str(output)]
    environment = {**os.environ, "DENSENET_CACHE": str(dataset.folder.parent / "cache")}
    with output.with_name("messages").open("wb") as messages:
        return subprocess.Popen(command, env=environment, stderr=messages, stdout=messages, preexec_fn=restore_sigint)


def sources(output: Path) -> list[str]:
    """Return the sources in a file of records, in order and without escapes."""
    if output.suffix == ".jsonl":
        return [json.loads(line)["source"] for line in output.read_text(encoding="utf-8").splitlines()]
    with output.open(encoding="utf-8", newline="") as file:
        rows = [row["source"] for row in csv.DictReader(file) if row["rank"] in ("", "1")]
    return [row.replace("\\\\", "\\") for row in rows]


def run_round(seed: int, dataset: Dataset, output: Path, max_kills: int = MAX_KILLS) -> Counter[str]:
    """Run one round and count the signals that ended the command.

    Raises:
        AssertionError: A record is missing, repeated, or incomplete.
    """
    rng = random.Random(seed)
    expected, seconds = dataset.expected[output.suffix], dataset.seconds[output.suffix]
    kills: Counter[str] = Counter()
    for path in (output, output.with_name(f"{output.name}.meta.json")):
        path.unlink(missing_ok=True)
    while True:
        process = start(dataset, output, "--resume")
        signal_number = rng.choice(SIGNALS) if kills.total() < max_kills else None
        if signal_number and not kills:  # at least once per round while records are written
            _wait_for(process, output, rng.uniform(0, 0.9) * len(expected))
        elif signal_number:  # at any moment, including start and end
            with suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0, seconds))
        if signal_number:
            process.send_signal(signal_number)
        status = process.wait(TIMEOUT)
        messages = output.with_name("messages").read_text()
        written = output.read_bytes() if output.exists() else b""
        assert expected.startswith(written), f"seed {seed}: the output differs from that of an uninterrupted run"
        if status == 1:  # complete: some images are damaged
            break
        # Before the command has installed its handlers, a signal ends the process, and Python may print a traceback.
        assert signal_number and status in (-signal_number, 130), f"seed {seed}: status {status}: {messages[-1000:]}"
        if status == 130:
            assert messages.splitlines()[-1] == "Interrupted." and "Traceback" not in messages, messages[-1000:]
        assert written[-1:] in (b"", b"\n")
        kills[signal.Signals(signal_number).name] += 1
    assert written == expected, f"seed {seed}: {len(written)} bytes instead of {len(expected)}"
    assert sources(output) == dataset.names
    return kills


def _wait_for(process: subprocess.Popen[bytes], output: Path, size: float) -> None:
    while process.poll() is None and (not output.exists() or output.stat().st_size < size):
        time.sleep(0.002)


def main(rounds: int, count: int = 2000) -> None:
    """Run rounds for both formats, and print which signals ended the command how often."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = prepare(Path(folder), count)
        kills: dict[str, Counter[str]] = {suffix: Counter() for suffix in dataset.expected}
        for seed in range(rounds):
            for suffix, counted in kills.items():
                counted += run_round(seed, dataset, Path(folder) / f"out{suffix}")
            summary = ", ".join(f"{suffix} ended by {dict(counted)}" for suffix, counted in kills.items())
            print(f"{seed + 1} rounds of {count} images, nothing lost: {summary}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
