"""Training: one step and one epoch of ``tiny``'s network, beside PyTorch if it is installed.

``TORCH_PYTHON`` is the Python interpreter with PyTorch, by default this one. All processes exist at the same time and
train in turn, so that other load on the machine affects all of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from inputs import Inputs
from processes import ENVIRONMENT, FOLDER
from suite import Table, Workload, run_one, target_status

SIZE, BATCH_SIZE = 48, 64
PRECISIONS = ("float32", "bfloat16")
TARGETS = {"float32": 1.0, "bfloat16": 0.85}
"""Speed of a step as a share of PyTorch's."""
TORCH_PYTHON = os.environ.get("TORCH_PYTHON", sys.executable)


class Worker:
    """A process that trains on request. Use it as a context manager."""

    def __init__(self, framework: str, precision: str, folder: Path) -> None:
        python = TORCH_PYTHON if framework == "torch" else sys.executable
        command = [python, str(FOLDER / "training_worker.py"), framework, precision, str(folder)]
        environment = {name: value for name, value in {**os.environ, **ENVIRONMENT}.items() if value is not None}
        self._process = subprocess.Popen(
            [*command, str(SIZE), str(BATCH_SIZE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def __enter__(self) -> Worker:
        if self._read() != "ready":
            raise SystemExit(f"{' '.join(map(str, self._process.args))} failed.")
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> str:
        return self._process.stdout.readline().strip()

    def seconds(self, work: str) -> float:
        """Return the time of one ``step`` or ``epoch``."""
        self._process.stdin.write(f"{work}\n")
        self._process.stdin.flush()
        return float(self._read())


def measure(inputs: Inputs, workload: Workload) -> list[Table]:
    """Measure steps and epochs, and compare them with PyTorch's."""
    has_torch = subprocess.run([TORCH_PYTHON, "-c", "import torch, PIL"], capture_output=True).returncode == 0
    frameworks = ("densenet", "torch") if has_torch else ("densenet",)
    images = workload.count(1280, quick=128)
    folder = inputs.classes(images)
    work = {"step": (BATCH_SIZE, workload.count(15, quick=2)), "epoch": (images, workload.count(3, quick=1))}
    rows = []
    for precision in PRECISIONS:
        with ExitStack() as stack:
            workers = {name: stack.enter_context(Worker(name, precision, folder)) for name in frameworks}
            for name, (count, rounds) in work.items():
                times: dict[str, list[float]] = {framework: [] for framework in frameworks}
                for _ in range(rounds + (name == "step")):
                    for framework, worker in workers.items():
                        times[framework].append(worker.seconds(name))
                rates = {framework: count / median(samples) for framework, samples in times.items()}
                rows.append(_row(precision, name, rates))
    steps, epochs = work["step"][1], work["epoch"][1]
    note = (
        f"{SIZE}x{SIZE} pixels, batches of {BATCH_SIZE}, medians of {steps} steps and {epochs} epochs of {images:,} "
        "images in turn. A step has its batch in memory. An epoch includes loading and augmenting the images: densenet "
        "reads decoded images from its cache; PyTorch decodes 64x64 JPEGs in a DataLoader."
    )
    columns = ("Training", "densenet, images/s", "PyTorch, images/s", "Ratio", "Target")
    return [Table("training", columns, tuple(rows), note)]


def _row(precision: str, work: str, rates: dict[str, float]) -> tuple[str, ...]:
    densenet, torch = rates["densenet"], rates.get("torch")
    if torch is None:
        return (f"One {work}, {precision}", f"{densenet:.0f}", "not installed", "", "")
    ratio, target = densenet / torch, TARGETS[precision]
    status = f"at least {target:.2f} ({target_status(ratio, minimum=target)})" if work == "step" else ""
    return (f"One {work}, {precision}", f"{densenet:.0f}", f"{torch:.0f}", f"**{ratio:.2f}**", status)


if __name__ == "__main__":
    run_one(measure)
