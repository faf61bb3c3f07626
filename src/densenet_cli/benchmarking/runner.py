"""Everything in turn, round after round: what slows the machine for a while slows all of it alike."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from densenet_cli import variants
from densenet_cli.benchmarking import machine, synthetic
from densenet_cli.benchmarking.commands import Commands, Job
from densenet_cli.benchmarking.plan import REFERENCE, Plan
from densenet_cli.benchmarking.report import Cell, Report
from densenet_cli.benchmarking.worker import Worker
from densenet_cli.classifier import BATCH_SIZE
from densenet_cli.errors import UsageError
from densenet_cli.pipeline import available_cores
from densenet_cli.results import unicode

LEAST_ROUNDS = 4
SLICES = 6
"""Rounds, the one that warms up among them, that the time is divided into."""
LONGEST_SLICE, SHORTEST_SLICE = 0.5, 0.02
"""Seconds that one thing is measured at a time."""
PACKAGES = ("densenet-cli", "onnxruntime", "numpy", "pillow")

Progress = Callable[[str, float], None]
"""Told what is being measured, and which share of the work, in [0, 1], is done."""


def measure(plan: Plan, progress: Progress = lambda what, done: None) -> Report:
    """Measure what ``plan`` says. Whatever is written for it is gone at the end.

    Raises:
        UsageError: none of the images can be decoded.
        WeightsError: weights that can't be had, or don't fit.
        CommandFailed: the command or a measuring process ended in an error.
    """
    start = time.monotonic()
    packages = (*PACKAGES, REFERENCE) if REFERENCE in plan.engines else PACKAGES
    described = machine.describe(packages)  # before anything here keeps it busy
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="densenet-benchmark-")))
        progress("making images", 0.0)
        model = _Model(plan, folder)
        images = plan.images or tuple(synthetic.write_photographs(folder))
        workers: dict[tuple[str, int], Worker] = {}
        for cell in plan.cells():
            if (cell.engine, cell.threads) not in workers:
                progress(f"starting {cell.engine}", 0.0)
                own = {**model.options, "engine": cell.engine, "threads": cell.threads}
                worker = Worker(own, images, model.environment)
                workers[cell.engine, cell.threads] = stack.enter_context(worker)
        about = workers[plan.engine, plan.threads[0]].about
        usable = [path for path in images if os.fsdecode(path) not in about["unusable"]]
        if not usable:
            reason = next(iter(about["unusable"].values()))
            raise UsageError(f"None of the images can be decoded: {reason}")
        commands = Commands(plan.engines, model.arguments, usable, model.environment, folder)
        times, rounds = _rounds(plan, workers, commands, start, progress)
        measured_with = _images(plan, usable, about)
    return Report(
        about["model"],
        described,
        measured_with,
        _settings(plan, about, time.monotonic() - start),
        rounds,
        (BATCH_SIZE, available_cores()),
        commands.summaries(),
        times,
    )


class _Model:
    """How a model is named to workers and commands; with random weights, a checkpoint and a cache in ``folder``."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.options: dict[str, Any] = dict(plan.options)
        self.arguments = tuple(plan.arguments)
        self.environment: dict[str, str | None] = {}
        if plan.random_weights:
            variant = variants.get(plan.options["variant"] or variants.DEFAULT)
            path = folder / f"{variant.model}.safetensors"
            synthetic.write_random_weights(path, variant.config)
            self.options["weights"] = str(path)
            self.arguments += ("--weights", str(path))
            # The graph made of them is of no use to anybody later.
            self.environment["DENSENET_CACHE"] = str(folder / "cache")


def _rounds(
    plan: Plan, workers: Mapping[tuple[str, int], Worker], commands: Commands, start: float, progress: Progress
) -> tuple[dict[Cell, tuple[float, ...]], int]:
    """Seconds an image, by cell, and the number of rounds: one that warms up, then as many as there is time for."""
    cells = plan.cells()
    times: dict[Cell, list[float]] = {cell: [] for cell in cells}
    slice_ = min(max(plan.seconds / SLICES / len(cells), SHORTEST_SLICE), LONGEST_SLICE)
    rounds, lasted = -1, 0.0
    while rounds < LEAST_ROUNDS or time.monotonic() + lasted < start + plan.seconds:
        began = time.monotonic()
        jobs: list[Cell | Job] = [*cells, *commands.jobs(rounds)]
        random.Random(rounds).shuffle(jobs)
        for number, job in enumerate(jobs):
            by_rounds = (rounds + 1 + number / len(jobs)) / (LEAST_ROUNDS + 1)
            by_time = (time.monotonic() - start) / max(plan.seconds, SHORTEST_SLICE)
            progress(_said(job), min(by_rounds, by_time, 1.0))
            if isinstance(job, Job):
                taken = commands.run(job)
                if rounds >= 0:
                    commands.keep(job, taken)
            else:
                samples = workers[job.engine, job.threads].measure(job.part, job.batch_size, slice_)
                if rounds >= 0:
                    times[job] += [seconds / images for images, seconds in samples]
        rounds, lasted = rounds + 1, time.monotonic() - began
    return {cell: tuple(found) for cell, found in times.items()}, rounds


def _said(job: Cell | Job) -> str:
    if isinstance(job, Job):
        return f"densenet predict, {job.engine}, images: {job.images}"
    return f"{job.part}, {job.engine}, batch size {job.batch_size}, threads: {job.threads}"


def _images(plan: Plan, usable: Sequence[Path], about: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "made": not plan.images,
        "count": len(usable),
        "unusable": {unicode(name): reason for name, reason in about["unusable"].items()},
        "mean_bytes": sum(path.stat().st_size for path in usable) // len(usable),
        "mean_pixels": about["pixels"],
    }


def _settings(plan: Plan, about: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    return {
        "random_weights": plan.random_weights,
        "engine": plan.engine,
        "compared_with": REFERENCE if plan.compare else None,
        "preprocess": about["preprocess"],
        "input_size": about["input_size"],
        "crops": about["crops"],
        "batch_sizes": list(plan.batch_sizes),
        "threads": list(plan.threads),
        "default_batch_size": BATCH_SIZE,
        "default_threads": available_cores(),
        "seconds": round(seconds, 1),
    }
