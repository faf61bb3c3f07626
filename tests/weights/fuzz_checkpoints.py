"""Damage checkpoints at random and read them: an error of ours or a checkpoint each time, quickly and in little memory.

    python -m tests.weights.fuzz_checkpoints 20000

runs that many files of each layout, in a process of their own that is ended when one file takes longer than a file
may. The same seed damages the same way.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from densenet_cli.errors import CheckpointError
from densenet_cli.topology import DenseNetConfig
from densenet_cli.weights import checkpoint, safetensors
from tests.support import checkpoints as support
from tests.support.networks import uncalibrated

CONFIG = DenseNetConfig((1, 2), growth_rate=2, stem_width=4, classes=3)
ROOT = Path(__file__).parents[2]
SECONDS_A_FILE = 10.0

LAYOUTS = {
    "published": lambda path, arrays: support.write_legacy_h5(path, arrays, CONFIG),
    "keras3": lambda path, arrays: support.write_legacy_h5(path, arrays, CONFIG, False, "model_weights", ""),
    "numbered": lambda path, arrays: support.write_numbered_h5(path, arrays, CONFIG),
    "nameless": lambda path, arrays: support.write_numbered_h5(path, arrays, CONFIG, names=False),
    "archive": lambda path, arrays: support.write_keras_archive(path, arrays, CONFIG),
    "ours": lambda path, arrays: safetensors.write(path, arrays, CONFIG),
}


def damaged(data: bytes, rng: random.Random) -> bytes:
    """``data`` cut short, or with a few bits, bytes, numbers or pieces of it changed."""
    if rng.random() < 0.15:
        return data[: rng.randrange(len(data))]
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(out))
        kind = rng.randrange(5)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.choice((0, 1, 127, 128, 255))
        elif kind == 2:
            piece = rng.choice((bytes(8), b"\xff" * 8, b"\xff" * 4, (1 << rng.randrange(63)).to_bytes(8, "little")))
            out[at : at + len(piece)] = piece
        elif kind == 3:
            out[at : at + 8] = rng.randrange(len(data)).to_bytes(8, "little")
        else:
            source, length = rng.randrange(len(data)), rng.randrange(1, 64)
            out[at : at + length] = data[source : source + length]
    return bytes(out)


def run(layout: str, seed: int, files: int) -> dict[str, float]:
    """Read ``files`` damaged files of ``layout`` in this process. Anything but a ``CheckpointError`` is raised."""
    rng = random.Random(seed)
    report = {"files": 0, "refused": 0, "slowest_s": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint"
        LAYOUTS[layout](path, uncalibrated(CONFIG))
        data = path.read_bytes()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(files):
            path.write_bytes(damaged(data, rng))
            print(report["files"], file=sys.stderr, flush=True)
            start = time.perf_counter()
            try:
                checkpoint.read(path)
            except CheckpointError as error:
                report["refused"] += 1
                assert str(path) in str(error) and "\n" not in str(error)
            report["files"] += 1
            report["slowest_s"] = max(report["slowest_s"], time.perf_counter() - start)
    report["memory_mb"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return report


def run_apart(layout: str, seed: int, files: int) -> dict[str, float]:
    """The same in a process of its own, which may crash or hang without taking the caller along."""
    command = [sys.executable, "-m", "tests.weights.fuzz_checkpoints", str(files), layout, str(seed)]
    # The children's import path: the repository, and whatever this process has.
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60 + files * SECONDS_A_FILE / 100, check=False
    )
    if done.returncode:
        raise AssertionError(f"{layout}, seed {seed}: status {done.returncode} at file {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def main(files: int, layout: str | None = None, seed: int = 0) -> None:
    """One layout here, or all of them, each in a process of its own."""
    if layout:
        print(json.dumps(run(layout, seed, files)))
        return
    for name in LAYOUTS:
        print(name, run_apart(name, seed, files), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:3], *map(int, sys.argv[3:4]))
