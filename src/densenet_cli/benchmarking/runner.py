"""Run a benchmark in rounds that measure every case once, so that a slow period of the machine affects all alike.

Without image files and weights, a benchmark uses synthetic ones: images with the statistics of photographs, and random
weights.
"""

from __future__ import annotations

import math
import os
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from densenet_cli import variants
from densenet_cli.benchmarking.agreement import with_precision
from densenet_cli.benchmarking.processes import PredictBenchmark, PredictTask
from densenet_cli.benchmarking.report import BenchmarkCase, BenchmarkReport, describe_machine
from densenet_cli.benchmarking.worker import BenchmarkWorker
from densenet_cli.engines import BATCH_SIZE, available_cores
from densenet_cli.errors import UsageError
from densenet_cli.layers import array_shapes
from densenet_cli.output.atomic import output_errors
from densenet_cli.text import to_unicode
from densenet_cli.topology import DenseNetConfig
from densenet_cli.weights import safetensors

COMPARISON_ENGINE = "tensorflow"
"""The engine that ``compare`` adds."""

MIN_ROUNDS = 4
"""Rounds to run regardless of the time limit, without the warm-up."""
TARGET_ROUNDS = 6
"""Rounds to fit into the time limit, with the warm-up."""
MIN_CASE_SECONDS, MAX_CASE_SECONDS = 0.02, 0.5
"""Time per case and round."""

IMAGE_COUNT = 8
IMAGE_SIZE = (500, 375)
"""Width and height, the most common size in ImageNet."""
GRAIN = 5
"""Standard deviation of the simulated camera noise, of 255. It makes the files as large as ImageNet's, about 110 kB."""
JPEG_QUALITY = 92

PACKAGES = ("densenet-cli", "onnxruntime", "numpy", "pillow")
ENGINE_PACKAGES = {"openvino": "openvino", "tensorflow": "tensorflow"}
"""Engine -> further package that its speed depends on."""

BenchmarkProgress = Callable[[str, float], None]
"""Called with a description of the current measurement, and the completed share of the benchmark in [0, 1]."""


@dataclass(frozen=True)
class BenchmarkPlan:
    """What to measure.

    Attributes:
        options: Arguments of ``Classifier`` except ``batch_size`` and ``threads``; ``engine`` and ``precision`` are
            required.
        arguments: The same options as command-line arguments, except the engine, the precision, and those of int8.
        batch_sizes: Batch sizes to measure, each with each number of threads, for an engine that processes batches.
        threads: Numbers of threads to measure.
        images: Image files; synthetic images if empty.
        seconds: Approximate duration. ``MIN_ROUNDS`` rounds are run regardless.
        compare: Also measure ``COMPARISON_ENGINE`` in float32, with the largest number of threads.
        random_weights: Use random weights instead of those of the variant.
    """

    options: Mapping[str, Any]
    arguments: Sequence[str]
    batch_sizes: tuple[int, ...]
    threads: tuple[int, ...]
    images: tuple[Path, ...] = ()
    seconds: float = 60.0
    compare: bool = False
    random_weights: bool = False

    @property
    def engine(self) -> str:
        """The requested engine."""
        return str(self.options["engine"])

    @property
    def precisions(self) -> dict[str, str]:
        """All engines to measure and their precisions, the requested one first."""
        precisions = {self.engine: str(self.options["precision"])}
        return {**precisions, COMPARISON_ENGINE: "float32"} if self.compare else precisions

    @property
    def engine_arguments(self) -> dict[str, list[str]]:
        """All engines, and the command-line arguments for each."""
        arguments = {}
        for engine, precision in self.precisions.items():
            arguments[engine] = ["--engine", engine, "--precision", precision]
            if precision == "int8" and self.options.get("int8_images"):
                arguments[engine] += ["--int8-images", str(self.options["int8_images"])]
            if precision == "int8" and self.options.get("allow_low_agreement"):
                arguments[engine].append("--allow-low-agreement")
        return arguments

    @property
    def workers(self) -> list[tuple[str, int]]:
        """The combinations of engine and threads to measure, in the order of the report."""
        combinations = [(self.engine, threads) for threads in self.threads]
        return [*combinations, (COMPARISON_ENGINE, max(self.threads))] if self.compare else combinations

    def cases(self, engine: str, threads: int, has_batches: bool) -> list[BenchmarkCase]:
        """Return the cases to measure with a loaded model, in the order of the report."""
        # Batch size 1 is the latency of the network.
        inference = sorted({1, *self.batch_sizes}) if has_batches else [1, None]
        end_to_end = self.batch_sizes if has_batches else [None]
        return [
            BenchmarkCase(engine, threads, "predict"),
            BenchmarkCase(engine, threads, "decode"),
            *(BenchmarkCase(engine, threads, "inference", size) for size in inference),
            *(BenchmarkCase(engine, threads, "end_to_end", size) for size in end_to_end),
        ]


def default_threads(cores: int) -> tuple[int, ...]:
    """Return the numbers of threads to measure by default: 1, a quarter, half, and all of the cores."""
    return tuple(sorted({1, max(1, cores // 4), max(1, cores // 2), cores}))


def run_benchmark(
    plan: BenchmarkPlan, progress: BenchmarkProgress = lambda description, share: None
) -> BenchmarkReport:
    """Run a benchmark. Temporary files are removed at the end.

    Raises:
        UsageError: No image can be decoded.
        WeightsError: The weights are unavailable or invalid.
        CommandFailedError: ``densenet predict`` or a worker process failed.
    """
    start = time.monotonic()
    packages = [ENGINE_PACKAGES[engine] for engine in plan.precisions if engine in ENGINE_PACKAGES]
    machine = describe_machine([*PACKAGES, *packages])  # before the benchmark itself raises the load
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="densenet-benchmark-")))
        progress("preparing", 0.0)
        model = _ModelArguments(plan, folder)
        images = plan.images or tuple(write_images(folder))
        workers: dict[tuple[str, int], BenchmarkWorker] = {}
        cases: list[BenchmarkCase] = []
        for engine, threads in plan.workers:
            progress(f"starting {engine}", 0.0)
            options = {**with_precision(model.options, engine, plan.precisions[engine]), "threads": threads}
            worker = stack.enter_context(BenchmarkWorker(options, images, model.environment))
            workers[engine, threads] = worker
            cases += plan.cases(engine, threads, worker.info["has_batches"])
        info = workers[plan.engine, plan.threads[0]].info
        decodable = [path for path in images if os.fsdecode(path) not in info["failed"]]
        if not decodable:
            raise UsageError(f"None of the images can be decoded: {next(iter(info['failed'].values()))}")
        agreement = None
        if plan.precisions[plan.engine] != "float32" and not plan.random_weights:
            progress("comparing with float32", 0.0)
            agreement = workers[plan.engine, plan.threads[-1]].agreement()
        commands = PredictBenchmark(plan.engine_arguments, model.arguments, decodable, model.environment, folder)
        times, rounds = _run_rounds(plan.seconds, cases, workers, commands, start, progress)
        image_info = _describe_images(plan, decodable, info)
    return BenchmarkReport(
        info["model"],
        machine,
        image_info,
        _describe_settings(plan, info, time.monotonic() - start),
        rounds,
        (BATCH_SIZE, available_cores()),
        commands.timings(),
        times,
        plan.precisions,
        agreement,
    )


class _ModelArguments:
    """The options, arguments, and environment variables that select the model. Writes random weights if requested."""

    def __init__(self, plan: BenchmarkPlan, folder: Path) -> None:
        self.options: dict[str, Any] = dict(plan.options)
        self.arguments = tuple(plan.arguments)
        self.environment: dict[str, str | None] = {}
        if plan.random_weights:
            variant = variants.get(plan.options["variant"] or variants.DEFAULT)
            path = folder / f"{variant.model}.safetensors"
            write_random_weights(path, variant.config)
            self.options["weights"] = str(path)
            self.arguments += ("--weights", str(path))
            # The graph of random weights does not belong in the user's cache.
            self.environment["DENSENET_CACHE"] = str(folder / "cache")


def _run_rounds(
    seconds: float,
    cases: Sequence[BenchmarkCase],
    workers: Mapping[tuple[str, int], BenchmarkWorker],
    commands: PredictBenchmark,
    start: float,
    progress: BenchmarkProgress,
) -> tuple[dict[BenchmarkCase, tuple[float, ...]], int]:
    """Run a warm-up round, then as many rounds as there is time for.

    Returns:
        Seconds per image of each case, and the number of rounds without the warm-up.
    """
    times: dict[BenchmarkCase, list[float]] = {case: [] for case in cases}
    case_seconds = min(max(seconds / TARGET_ROUNDS / len(cases), MIN_CASE_SECONDS), MAX_CASE_SECONDS)
    round_, round_seconds = -1, 0.0
    while round_ < MIN_ROUNDS or time.monotonic() + round_seconds < start + seconds:
        round_start = time.monotonic()
        tasks: list[BenchmarkCase | PredictTask] = [*cases, *commands.tasks(round_)]
        random.Random(round_).shuffle(tasks)
        for number, task in enumerate(tasks):
            share_of_rounds = (round_ + 1 + number / len(tasks)) / (MIN_ROUNDS + 1)
            share_of_time = (time.monotonic() - start) / max(seconds, MIN_CASE_SECONDS)
            progress(_describe_task(task), min(share_of_rounds, share_of_time, 1.0))
            if isinstance(task, PredictTask):
                result = commands.run(task)
                if round_ >= 0:
                    commands.add(task, result)
            else:
                samples = workers[task.engine, task.threads].measure(task.stage, task.batch_size, case_seconds)
                if round_ >= 0:
                    times[task] += [elapsed / images for images, elapsed in samples]
        round_, round_seconds = round_ + 1, time.monotonic() - round_start
    return {case: tuple(values) for case, values in times.items()}, round_


def _describe_task(task: BenchmarkCase | PredictTask) -> str:
    if isinstance(task, PredictTask):
        return f"densenet predict, {task.engine}, images: {task.images}"
    return f"{task.stage.replace('_', ' ')}, {task.engine}, threads: {task.threads}"


def _describe_images(plan: BenchmarkPlan, decodable: Sequence[Path], info: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "synthetic": not plan.images,
        "count": len(decodable),
        "failed": {to_unicode(name): reason for name, reason in info["failed"].items()},
        "mean_bytes": sum(path.stat().st_size for path in decodable) // len(decodable),
        "mean_pixels": info["mean_pixels"],
    }


def _describe_settings(plan: BenchmarkPlan, info: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    return {
        "random_weights": plan.random_weights,
        "engine": plan.engine,
        "precision": plan.precisions[plan.engine],
        "compared_with": COMPARISON_ENGINE if plan.compare else None,
        "preprocess": info["preprocess"],
        "input_size": info["input_size"],
        "crops": info["crops"],
        "batch_sizes": list(plan.batch_sizes) if info["has_batches"] or plan.compare else None,
        "threads": list(plan.threads),
        "default_batch_size": BATCH_SIZE if info["has_batches"] or plan.compare else None,
        "default_threads": available_cores(),
        "seconds": round(seconds, 1),
    }


def write_images(folder: Path) -> list[Path]:
    """Write ``IMAGE_COUNT`` JPEGs to ``folder``, the same in every call, and return their paths.

    Raises:
        OutputError: They cannot be written.
    """
    rng = np.random.default_rng(0)
    paths = [folder / f"image-{number:02d}.jpg" for number in range(IMAGE_COUNT)]
    with output_errors(folder):
        for path in paths:
            make_image(rng).save(path, quality=JPEG_QUALITY)
    return paths


def make_image(rng: np.random.Generator) -> Image.Image:
    """Make an RGB image of noise with the statistics of a photograph.

    The amplitudes of a photograph are inversely proportional to the frequency (Field, "Relations between the statistics
    of natural images and the response properties of cortical cells", JOSA A 4, 1987), and its colors vary less than its
    brightness. The time to decode a JPEG depends on its size in bits, which is about that of a photograph.
    """
    brightness = 45 * _noise(rng, 1.1)[..., None]
    colors = 14 * np.stack([_noise(rng, 1.4) for _ in range(3)], axis=-1)
    grain = GRAIN * rng.standard_normal((*IMAGE_SIZE[::-1], 3))
    return Image.fromarray((118 + brightness + colors + grain).clip(0, 255).astype(np.uint8))


def _noise(rng: np.random.Generator, exponent: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return 1/f**exponent noise with mean 0 and standard deviation 1, (height, width)."""
    width, height = IMAGE_SIZE
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf  # zero mean
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((height, width))) / frequency**exponent, (height, width))
    result: np.ndarray[tuple[int, int], np.dtype[np.float64]] = noise / noise.std()
    return result


def write_random_weights(path: Path, config: DenseNetConfig) -> None:
    """Write a safetensors checkpoint of random weights. Its speed is that of real weights; its predictions are random.

    The time of a multiplication does not depend on the operands, except for denormal numbers. Kernels are drawn so that
    activations keep their scale at any depth (He et al., "Delving deep into rectifiers", ICCV 2015, equation 10), and
    batch norms are the identity.

    Raises:
        OutputError: The file cannot be written.
    """
    rng = np.random.default_rng(0)

    def random_array(name: str, shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        if name == "kernel":
            scale = np.float32(math.sqrt(2 / math.prod(shape[:-1])))
            return rng.standard_normal(shape, np.float32) * scale
        return np.full(shape, 1 if name in ("gamma", "moving_variance") else 0, np.float32)

    arrays = {
        layer: {name: random_array(name, shape) for name, shape in shapes.items()}
        for layer, shapes in array_shapes(config).items()
    }
    safetensors.write(path, arrays, config)
