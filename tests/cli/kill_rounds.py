"""Interrupt the command at random moments and let it go on: in the end the file is that of an uninterrupted run.

    python -m tests.cli.kill_rounds 50

runs that many rounds for JSON Lines and as many for CSV. A round starts ``predict -o FILE --resume`` on a few thousand
images, some of them broken, ends it by SIGINT, SIGTERM or SIGKILL at a moment that the seed decides, and starts it
again, some times over, until it is done.
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
MOST_KILLS = 4
"""In a round; then it may finish."""
SECONDS = 300
"""That no run takes."""


@dataclass
class Material:
    """Images, and what an uninterrupted run makes of them.

    Attributes:
        folder: of the images.
        weights: of the network that answers.
        expected: the whole file, by suffix.
        seconds: that an uninterrupted run took, by suffix.
        names: the sources, in order.
    """

    folder: Path
    weights: Path
    expected: dict[str, bytes]
    seconds: dict[str, float]
    names: list[str]


def prepare(folder: Path, count: int, suffixes: tuple[str, ...] = (".jsonl", ".csv")) -> Material:
    """``count`` small images under awkward names, one in nine of them broken, and the files of uninterrupted runs."""
    images = folder / "images"
    names = make_images(images, count)
    material = Material(images, tiny_weights(folder), {}, {}, names)
    for suffix in suffixes:
        output = folder / f"uninterrupted{suffix}"
        started = time.monotonic()
        assert start(material, output).wait(SECONDS) == 1, "some images are broken"
        material.seconds[suffix] = time.monotonic() - started
        material.expected[suffix] = output.read_bytes()
        assert sources(output) == names
    return material


def make_images(folder: Path, count: int) -> list[str]:
    """Their names in the order of a walk. Links to a few files, so that thousands are there in a moment."""
    originals = folder.parent / "originals"
    originals.mkdir()
    data = [encode(Image.new("RGB", (30 + n, 40 - n), (25 * n, 255 - 25 * n, 99)), "PNG") for n in range(8)]
    for number, content in enumerate([*data, data[0][:-40]]):
        (originals / str(number)).write_bytes(content)
    names = []
    for number in range(count):
        below = folder / f'{number // 500}, "{number // 500}"\n'
        below.mkdir(parents=True, exist_ok=True)
        name = below / f"{number:05}{' é' if number % 7 else ''}.png"
        os.link(originals / str(number % 9), name)
        names.append(str(name))
    return sorted(names)


def start(material: Material, output: Path, *options: str) -> subprocess.Popen[bytes]:
    """The command, on its way; what it says is in ``messages`` beside the output."""
    command = [sys.executable, "-m", "densenet_cli", "predict", str(material.folder), *options]
    command += ["--weights", str(material.weights), "-o", str(output)]
    environment = {**os.environ, "DENSENET_CACHE": str(material.folder.parent / "cache")}
    with output.with_name("messages").open("wb") as messages:
        return subprocess.Popen(command, env=environment, stderr=messages, stdout=messages, preexec_fn=restore_sigint)


def sources(output: Path) -> list[str]:
    """The source of each image's record in a file of records, in order. A name's escapes are undone."""
    if output.suffix == ".jsonl":
        return [json.loads(line)["source"] for line in output.read_text(encoding="utf-8").splitlines()]
    with output.open(encoding="utf-8", newline="") as file:
        rows = [row["source"] for row in csv.DictReader(file) if row["rank"] in ("", "1")]
    return [row.replace("\\\\", "\\") for row in rows]


def run_round(seed: int, material: Material, output: Path, most_kills: int = MOST_KILLS) -> Counter[str]:
    """One round: how often it was ended by which signal. AssertionError where anything is lost, twice or half there."""
    rng = random.Random(seed)
    expected, seconds = material.expected[output.suffix], material.seconds[output.suffix]
    kills: Counter[str] = Counter()
    for path in (output, output.with_name(f"{output.name}.meta.json")):
        path.unlink(missing_ok=True)
    while True:
        process = start(material, output, "--resume")
        asked = rng.choice(SIGNALS) if kills.total() < most_kills else None
        if asked and not kills:  # in its work, once a round for certain
            _wait_for(process, output, rng.uniform(0, 0.9) * len(expected))
        elif asked:  # anywhere, its start and its end among them
            with suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0, seconds))
        if asked:
            process.send_signal(asked)
        status = process.wait(SECONDS)
        said = output.with_name("messages").read_text()
        written = output.read_bytes() if output.exists() else b""
        assert expected.startswith(written), f"seed {seed}: other bytes than an uninterrupted run's"
        if status == 1:  # done: some images are broken
            break
        # Before the command has said what a signal means to it, the system ends the process, and Python may say where.
        assert asked and status in (-asked, 130), f"seed {seed}: status {status}: {said[-1000:]}"
        if status == 130:
            assert said.splitlines()[-1] == "Interrupted." and "Traceback" not in said, said[-1000:]
        assert written[-1:] in (b"", b"\n")
        kills[signal.Signals(asked).name] += 1
    assert written == expected, f"seed {seed}: {len(written)} bytes instead of {len(expected)}"
    assert sources(output) == material.names
    return kills


def _wait_for(process: subprocess.Popen[bytes], output: Path, size: float) -> None:
    while process.poll() is None and (not output.exists() or output.stat().st_size < size):
        time.sleep(0.002)


def main(rounds: int, count: int = 2000) -> None:
    """Rounds for either format, and how often which signal ended a run in them."""
    with tempfile.TemporaryDirectory() as folder:
        material = prepare(Path(folder), count)
        kills: dict[str, Counter[str]] = {suffix: Counter() for suffix in material.expected}
        for seed in range(rounds):
            for suffix, counted in kills.items():
                counted += run_round(seed, material, Path(folder) / f"out{suffix}")
            said = ", ".join(f"{suffix} ended by {dict(counted)}" for suffix, counted in kills.items())
            print(f"{seed + 1} rounds of {count} images: {said}: nothing lost", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
