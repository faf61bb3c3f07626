"""Fuzzing of the checkpoint readers: every damaged file is loaded or rejected, quickly and with little memory.

    python -m tests.weights.fuzz_checkpoints 20000

reads that many damaged files of each format in a separate process, which is killed if it takes too long. The same seed
produces the same files.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from densenet_cli.errors import CheckpointError
from densenet_cli.topology import DenseNetConfig
from densenet_cli.weights import checkpoint, safetensors
from tests.support import checkpoints as support
from tests.support.networks import unscaled_arrays
from tests.support.torch_files import Call, state_dict, without_checksums, write_archive, write_stream

CONFIG = DenseNetConfig((1, 2), growth_rate=2, stem_width=4, classes=3)
ROOT = Path(__file__).parents[2]
CONFIG_FILE = "config.json"
SECONDS_PER_FILE = 10.0


def training_checkpoint(arrays) -> dict[str, object]:
    """Return what a training script saves: a state dict beside objects of other classes."""
    arguments = Call("argparse", "Namespace", state={"lr": 0.1, "data": Call("pathlib", "PosixPath", "data")})
    return {"epoch": 3, "state_dict": state_dict(arrays, CONFIG), "args": arguments, "losses": [0.5, 0.25]}


def write_without_checksums(path: Path, arrays) -> None:
    """Write an archive whose checksums do not reveal damage."""
    write_archive(path, training_checkpoint(arrays))
    path.write_bytes(without_checksums(path.read_bytes()))


def copy_model(name: str):
    """Return a function that writes a recorded file of PyTorch with a whole model, without checksums."""
    return lambda path, _: path.write_bytes(without_checksums((ROOT / "tests" / "data" / "torch" / name).read_bytes()))


def copy_recorded(archive: str, name: str):
    """Return a function that writes a recorded file of Keras, which contains the configuration of its model."""
    return lambda path, _: path.write_bytes(zipfile.Path(ROOT / "tests" / "data" / archive, name).read_bytes())


def write_timm_folder(path: Path, _: object) -> None:
    """Write a checkpoint of timm with its ``config.json``, which is the file to damage."""
    folder = ROOT / "tests" / "data" / "timm" / "gray-max"
    path.write_bytes((folder / "model.safetensors").read_bytes())
    path.with_name(CONFIG_FILE).write_bytes((folder / CONFIG_FILE).read_bytes())


RECORDED = {
    "torch-model": copy_model("module-with-head.pth"),
    "timm-config": write_timm_folder,
    "keras2-config": copy_recorded("keras2.zip", "nested.h5"),
    "keras3-config": copy_recorded("keras3.zip", "sequential.h5"),
    "keras3-archive": copy_recorded("keras3.zip", "sequential.keras"),
}
LAYOUTS = {
    **RECORDED,
    "published": lambda path, arrays: support.write_legacy_h5(path, arrays, CONFIG),
    "keras3": lambda path, arrays: support.write_legacy_h5(path, arrays, CONFIG, False, "model_weights", ""),
    "numbered": lambda path, arrays: support.write_numbered_h5(path, arrays, CONFIG),
    "unnamed": lambda path, arrays: support.write_numbered_h5(path, arrays, CONFIG, names=False),
    "archive": lambda path, arrays: support.write_keras_archive(path, arrays, CONFIG),
    "torch": lambda path, arrays: write_archive(path, training_checkpoint(arrays)),
    "torch-without-checksums": lambda path, arrays: write_without_checksums(path, arrays),
    "torch-stream": lambda path, arrays: write_stream(path, training_checkpoint(arrays)),
    "ours": lambda path, arrays: safetensors.write(path, arrays, CONFIG),
}


def damage(data: bytes, rng: random.Random) -> bytes:
    """Truncate ``data``, or change a few of its bits, bytes, numbers, or blocks."""
    if rng.random() < 0.15:
        return data[: rng.randrange(len(data))]
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        offset = rng.randrange(len(out))
        kind = rng.randrange(5)
        if kind == 0:
            out[offset] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[offset] = rng.choice((0, 1, 127, 128, 255))
        elif kind == 2:
            piece = rng.choice((bytes(8), b"\xff" * 8, b"\xff" * 4, (1 << rng.randrange(63)).to_bytes(8, "little")))
            out[offset : offset + len(piece)] = piece
        elif kind == 3:
            out[offset : offset + 8] = rng.randrange(len(data)).to_bytes(8, "little")
        else:
            source, length = rng.randrange(len(data)), rng.randrange(1, 64)
            out[offset : offset + length] = data[source : source + length]
    return bytes(out)


def run(layout: str, seed: int, files: int) -> dict[str, float]:
    """Read ``files`` damaged files of ``layout`` in this process. Errors other than ``CheckpointError`` propagate."""
    rng = random.Random(seed)
    report = {"files": 0, "rejected": 0, "slowest_s": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint"
        LAYOUTS[layout](path, unscaled_arrays(CONFIG))
        target = path.with_name(CONFIG_FILE) if layout == "timm-config" else path
        data = target.read_bytes()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(files):
            target.write_bytes(damage(data, rng))
            print(report["files"], file=sys.stderr, flush=True)
            start = time.perf_counter()
            try:
                checkpoint.read(path)
            except CheckpointError as error:
                report["rejected"] += 1
                assert str(path) in str(error) and "\n" not in str(error)
            report["files"] += 1
            report["slowest_s"] = max(report["slowest_s"], time.perf_counter() - start)
    report["memory_mb"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return report


def run_in_process(layout: str, seed: int, files: int) -> dict[str, float]:
    """Call ``run`` in a separate process, which may crash or hang."""
    command = [sys.executable, "-m", "tests.weights.fuzz_checkpoints", str(files), layout, str(seed)]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60 + files * SECONDS_PER_FILE / 100, check=False
    )
    if result.returncode:
        raise AssertionError(f"{layout}, seed {seed}: status {result.returncode} at file {result.stderr[-2000:]}")
    return json.loads(result.stdout)


def main(files: int, layout: str | None = None, seed: int = 0) -> None:
    """Fuzz one format in this process, or every format in a separate process."""
    if layout:
        print(json.dumps(run(layout, seed, files)))
        return
    for name in LAYOUTS:
        print(name, run_in_process(name, seed, files), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:3], *map(int, sys.argv[3:4]))
