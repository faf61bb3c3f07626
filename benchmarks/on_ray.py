"""Scale: predict on Ray against the plain command, the memory of the driver, and the cost model of runs.

The costs of the model are measured on their own: decoding and the engine in this process, everything else from runs of
few images. The runs that it predicts are then measured. Tables are written to ``docs/concepts/scale.md``. As a script,
only the model is measured.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import processes
from cost_model import Costs, predict_seconds, predictions
from inputs import Inputs
from suite import Table, Workload, run_one, target_status

SCALE = Path(__file__).parents[1] / "docs" / "concepts" / "scale.md"
PART_SIZE = 100
THROUGHPUT_TARGET = 0.85
MODEL_TARGET = 0.15
PRECISIONS = ("float32", "bfloat16")
SPEED = re.compile(r"([\d,]+) images? in ([\d.]+) s \(([\d.]+)/s\), after ([\d.]+) s")


class RayRun(NamedTuple):
    """A run on Ray: seconds of the parts, seconds before them, and the driver's peak memory in megabytes."""

    seconds: float
    startup: float
    megabytes: float


def measure(inputs: Inputs, workload: Workload) -> list[Table]:
    """Return the tables of the throughput and of the driver's memory."""
    photographs, weights = inputs.photographs(workload.count(1000, 60)), inputs.weights()
    images = len(list(photographs.iterdir()))
    runs = [
        (run_plain(photographs, weights, "float32"), run_on_ray([photographs], weights, part_size=PART_SIZE))
        for _ in range(workload.count(2, 1))
    ]
    seconds = median(plain for plain, _ in runs)
    ray_seconds = median(run.seconds for _, run in runs)
    startup = median(run.startup for _, run in runs)
    small = inputs.small_weights()
    listed = inputs.small_images(workload.count(1_000, 100))
    few = run_on_ray(["--files-from", repeat(listed, 1)], small, part_size=1000)
    many_count = workload.count(1_000_000, 2_000)
    many = run_on_ray(["--files-from", repeat(listed, many_count // 1000 or 1)], small, part_size=1000)
    many_images = len(listed.read_text().splitlines()) * (many_count // 1000 or 1)
    throughput = Table(
        "ray",
        (f"{images:,} photographs, DenseNet-121", "Images/s", "Seconds", "Relative to `predict`"),
        (
            ("`predict`", f"{images / seconds:.1f}", f"{seconds:.1f}", "1.00"),
            (
                "`predict --ray local`, without start-up",
                f"{images / ray_seconds:.1f}",
                f"{ray_seconds:.1f}",
                f"**{seconds / ray_seconds:.2f}**",
            ),
            ("start-up of Ray and its workers", "", f"{startup:.1f}", ""),
        ),
        f"Target: at least {THROUGHPUT_TARGET}, {target_status(seconds / ray_seconds, minimum=THROUGHPUT_TARGET)}. "
        f"The parts have {PART_SIZE} images.",
        SCALE,
    )
    memory = Table(
        "ray-memory",
        ("Records (a network of few layers)", "Parts", "Images/s", "Peak memory of the driver"),
        tuple(
            (f"{count:,}", f"{-(-count // 1000):,}", f"{count / run.seconds:.0f}", f"{run.megabytes:.0f} MB")
            for count, run in ((len(listed.read_text().splitlines()), few), (many_images, many))
        ),
        document=SCALE,
    )
    return [throughput, memory]


def measure_model(inputs: Inputs, workload: Workload) -> list[Table]:
    """Return the costs of the model, the runs that it predicts, and what follows for large collections."""
    photographs, weights = inputs.photographs(workload.count(1000, 60)), inputs.weights()
    images = len(list(photographs.iterdir()))
    costs = measure_costs(inputs, workload)
    cores = len(os.sched_getaffinity(0))
    rounds = workload.count(2, 1)
    rows = []
    for name, precision, part_size in (
        ("`predict`, float32", "float32", None),
        ("`predict`, bfloat16", "bfloat16", None),
        ("`predict --ray local`, float32", "float32", PART_SIZE),
    ):
        measured = median(
            run_on_ray([photographs], weights, part_size).seconds
            if part_size
            else run_plain(photographs, weights, precision)
            for _ in range(rounds)
        )
        predicted = predict_seconds(costs, images, cores, precision, part_size=part_size)
        rows.append((name, f"{measured:.1f}", f"{predicted:.1f}", f"{predicted / measured - 1:+.0%}"))
    worst = max(abs(float(row[3].rstrip("%"))) / 100 for row in rows)
    model = Table(
        "model",
        ("Run", "Measured, s", "Predicted, s", "Difference"),
        tuple(rows),
        f"Target: within {MODEL_TARGET:.0%}, {target_status(worst, maximum=MODEL_TARGET)}.",
    )
    return [replace(table, document=SCALE) for table in (costs.table(), model, predictions(costs))]


def run_plain(photographs: Path, weights: Path, precision: str) -> float:
    """Return the seconds of the plain command. The first run of a precision creates its graph, so it runs twice."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*processes.DENSENET, "predict", "--weights", str(weights), "--precision", precision, "--quiet"]
        processes.run([*command, str(next(photographs.iterdir())), "-o", f"{folder}/first.jsonl"])
        return processes.run([*command, str(photographs), "-o", f"{folder}/out.jsonl"]).seconds


def run_on_ray(sources: Sequence[object], weights: Path, part_size: int, status: int = 0) -> RayRun:
    """Run the command on a local Ray. ``status`` is its exit status."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*processes.DENSENET, "predict", *map(str, sources), "--weights", str(weights), "--ray", "local"]
        command += ["-o", f"{folder}/out", "--part-size", str(part_size)]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment)
        with peak_memory(process.pid) as peak:
            assert process.stderr
            output = process.stderr.read().decode()
            process.wait()
    match = SPEED.search(output)
    if process.returncode != status or not match:
        raise SystemExit(f"{' '.join(command)} failed:\n{output}")
    return RayRun(float(match[2]), float(match[4]), peak[0] / processes.MEGABYTE)


@contextmanager
def peak_memory(pid: int) -> Iterator[list[int]]:
    """Yield a list whose only item is the peak memory of a process in bytes, without that of its children."""
    peak = [0]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                return
            if match := re.search(r"VmHWM:\s+(\d+) kB", status):
                peak[0] = int(match[1]) * 1024

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def repeat(listed: Path, times: int) -> Path:
    """Return a list with the names of another one, repeated."""
    path = listed.with_name(f"{listed.stem}-{times}.list")
    with path.open("w") as file:
        for _ in range(times):
            file.write(listed.read_text())
    return path


def measure_costs(inputs: Inputs, workload: Workload) -> Costs:
    """Measure the costs of the model, none of them in the runs that it predicts."""
    from densenet_cli import Classifier
    from densenet_cli.images.decoding import load
    from densenet_cli.images.sources import Source, from_object
    from densenet_cli.pace import MAX_CHUNK

    paths = sorted(inputs.photographs(workload.count(1000, 60)).iterdir())[: workload.count(200, 20)]
    weights = inputs.weights()
    classifier = Classifier(weights=weights)
    sources = [from_object(path) for path in paths]
    pixels = [load(source, classifier.preprocessing).pixels for source in sources]
    decode = core_seconds(lambda source: load(source, classifier.preprocessing), sources)
    read = core_seconds(Path.read_bytes, paths)
    engine, switch = {}, {}
    groups = [sources[start : start + MAX_CHUNK] for start in range(0, len(sources), MAX_CHUNK)]
    for precision in PRECISIONS:
        with Classifier(weights=weights, precision=precision) as model:
            compute = partial(model.run, alone=False)
            compute(pixels[0])
            engine[precision] = core_seconds(compute, pixels)

            def decode_and_compute(group: Sequence[Source], compute: Callable[[Any], object] = compute) -> None:
                for image in [load(source, classifier.preprocessing).pixels for source in group]:
                    compute(image)

            both = core_seconds(decode_and_compute, groups) * len(groups) / len(sources)
            switch[precision] = both - decode - engine[precision]
    predictor = classifier.predictor()
    results = list(classifier.stream(sources[:50]))
    record = core_seconds(lambda result: predictor(result).to_json(), results, threads=1)
    with tempfile.TemporaryDirectory() as folder:
        starts = {}
        for precision in PRECISIONS:
            command = [*processes.DENSENET, "predict", str(paths[0]), "--weights", str(weights)]
            command += ["--precision", precision, "-o"]
            runs = [processes.run([*command, f"{folder}/{precision}{number}.jsonl"]) for number in range(3)]
            starts[precision] = min(run.seconds for run in runs)
        listed = Path(folder) / "missing.txt"
        parts = workload.count(40, 5)
        listed.write_text("".join(f"{folder}/missing-{number}.jpg\n" for number in range(parts)))
        part = run_on_ray(["--files-from", listed], inputs.small_weights(), part_size=1, status=1).seconds / parts
    size = sum(path.stat().st_size for path in paths) / len(paths)
    return Costs(read, decode - read, engine, switch, record, part, starts, size)


def core_seconds(task: Callable[[Any], object], items: Sequence[Any], threads: int | None = None) -> float:
    """Return the time of all cores per item, while each core has a thread that calls ``task``. Best of three rounds."""
    cores = threads or len(os.sched_getaffinity(0))
    times = []
    for _ in range(3):
        with ThreadPoolExecutor(cores) as pool:
            start = time.perf_counter()
            for _ in pool.map(task, items):
                pass
            times.append((time.perf_counter() - start) * cores / len(items))
    return min(times)


if __name__ == "__main__":
    run_one(measure_model)
