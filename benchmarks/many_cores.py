"""How one process scales: cheap images with several threads, and a simulation of a server with many cores.

The simulation replaces the time in C code (decoding and inference) by waits of its measured duration. They release
Python's lock, as the C code does, and at most as many run at the same time as the server has cores. Everything else is
real: reading and decoding a small image, a network of a few layers, and the threads.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections import deque
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median

from inputs import Inputs
from processes import DENSENET, median_seconds, run, run_json, script
from suite import Table, Workload, run_one

THREADS = (1, 2, 4, 8)
CORES = (1, 4, 16, 64)
DECODE = 2.9e-3
"""Seconds to decode and resize a photograph of 500x375 pixels, on one core."""
INFERENCE = {"float32": 43e-3, "bfloat16": 9.1e-3, "near zero": 0.0}
"""Seconds of DenseNet-121 for one image, on one core with AMX."""


def measure(inputs: Inputs, workload: Workload) -> list[Table]:
    """Measure images per second of one process."""
    return [_measure_threads(inputs, workload), _simulate_cores(inputs, workload)]


def _measure_threads(inputs: Inputs, workload: Workload) -> Table:
    count, rounds = workload.count(10_000, quick=200), workload.count(5, quick=1)
    weights, images = inputs.small_weights(), inputs.small_images(count)
    environment = {"DENSENET_CACHE": str(inputs.new_folder())}
    command = [*DENSENET, "predict", "--files-from", str(images), "--weights", str(weights), "--format", "jsonl"]
    command += ["--input-size", "32", "--threads"]
    run([*command, "1"], environment)
    results = {threads: [run([*command, str(threads)], environment)] for threads in THREADS}
    for _ in range(rounds - 1):
        for threads in THREADS:
            results[threads].append(run([*command, str(threads)], environment))
    rows = tuple((str(threads), f"{count / median_seconds(results[threads]):,.0f}") for threads in THREADS)
    note = f"Medians of {rounds} runs of whole processes, {count:,} JPEGs of 48x48, a network of a few layers."
    return Table("threads", ("Threads", "Images/s"), rows, note)


def _simulate_cores(inputs: Inputs, workload: Workload) -> Table:
    weights, rounds = inputs.small_weights(), workload.count(3, quick=1)
    image = Path(inputs.small_images(10).read_text().splitlines()[0])
    rows = []
    for precision, inference in INFERENCE.items():
        decode = DECODE if inference else 0.0
        for cores in CORES:
            ideal = cores / (decode + inference) if inference else None
            count = workload.count(round(min(20_000, max(200, 4 * (ideal or 2000)))), quick=20)
            arguments = ("--simulate", weights, image, cores, decode, inference, count)
            environment = {"DENSENET_CACHE": str(inputs.folder / "cache-many-cores")}
            rate = median(run_json(script("many_cores", *arguments), environment) for _ in range(rounds))
            share = f"{rate / ideal:.0%}" if ideal else ""
            rows.append((precision, str(cores), f"{rate:,.0f}", f"{ideal:,.0f}" if ideal else "", share))
    note = (
        f"Medians of {rounds} runs of one process, without its start. Ideal: the number of cores divided by the time "
        f"of an image on one core, {DECODE * 1e3:.1f} ms for decoding and {INFERENCE['float32'] * 1e3:.0f} ms (float32)"
        f" or {INFERENCE['bfloat16'] * 1e3:.1f} ms (bfloat16) for the network."
    )
    return Table("many-cores", ("Network", "Simulated cores", "Images/s", "Ideal", "Share"), tuple(rows), note)


def simulate(weights: Path, image: Path, cores: int, decode: float, inference: float, count: int) -> float:
    """Return the images per second of one process on a simulated server."""
    from densenet_cli import Classifier
    from densenet_cli.images.sources import Source, expand
    from densenet_cli.pipeline import stream

    classifier = Classifier(weights=weights, input_size=32, threads=1)
    free = threading.Semaphore(cores)
    sources = list(expand([str(image)]))

    def wait(seconds: float) -> None:
        if seconds:
            with free:
                time.sleep(seconds)

    def load(source: Source, index: int):
        loaded = classifier._loader.load(source, classifier.preprocessing)
        wait(decode)
        return loaded

    def compute(pixels, alone: bool):
        outputs = classifier._model.run(pixels, ("probabilities",), alone=False)
        wait(inference)
        return {name: rows[0] for name, rows in outputs.items()}

    predict = classifier.predictor(5)
    process = partial(stream, load=load, run=compute, batch_size=8, threads=2 * cores, concurrent=True)
    deque(process(islice(cycle(sources), 50)), maxlen=0)  # a warm-up
    start = time.perf_counter()
    for result in process(islice(cycle(sources), count)):
        predict(result).to_json()
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--simulate", nargs=6)
    arguments, _ = parser.parse_known_args()
    if arguments.simulate is None:
        run_one(measure)
        return
    weights, image, cores, decode, inference, count = arguments.simulate
    print(json.dumps(simulate(Path(weights), Path(image), int(cores), float(decode), float(inference), int(count))))


if __name__ == "__main__":
    main()
