"""How processes scale: cheap images with several threads, and a simulation of a server with many cores.

The simulation replaces the time in C code (decoding and inference) by sleeps of its measured duration. They release
the GIL, as the C code does, and at most as many run at the same time as the server has cores. Everything else is
real: reading and decoding a small image, a network of a few layers, the threads, and the processes. All of it runs on
the few cores of this machine, so several processes are faster on a real server.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections import deque
from functools import partial
from itertools import cycle, islice, repeat
from pathlib import Path
from statistics import median

from inputs import Inputs
from processes import DENSENET, median_seconds, run, run_json, script
from suite import Table, Workload, run_one

from densenet_cli.engines import available_cores

THREADS = (1, 2, 4, 8)
CORES = (1, 4, 16, 64)
PROCESSES = (1, 2, 4)
DECODE = 2.9e-3
"""Seconds to decode and resize a photograph of 500x375 pixels, on one core."""
INFERENCE = {"float32": 43e-3, "bfloat16": 9.1e-3, "near zero": 0.0}
"""Seconds of DenseNet-121 for one image, on one core with AMX."""


def measure(inputs: Inputs, workload: Workload) -> list[Table]:
    """Measure images per second of one process and of several."""
    return [
        _measure_threads(inputs, workload),
        _simulate_cores(inputs, workload),
        _simulate_processes(inputs, workload),
    ]


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


def _simulate_processes(inputs: Inputs, workload: Workload) -> Table:
    weights, rounds = inputs.small_weights(), workload.count(3, quick=1)
    image = Path(inputs.small_images(10).read_text().splitlines()[0])
    environment = {"DENSENET_CACHE": str(inputs.folder / "cache-many-cores"), "PYTHONPATH": str(Path(__file__).parent)}
    rows = []
    for precision, inference in INFERENCE.items():
        decode = DECODE if inference else 0.0
        cores = CORES[-1]
        ideal = cores / (decode + inference) if inference else None
        count = workload.count(round(6 * (ideal or 3000)), quick=20)
        for processes in PROCESSES:
            arguments = ("--simulate", weights, image, cores, decode, inference, count, "--processes", processes)
            runs = [run_json(script("many_cores", *arguments), environment) for _ in range(rounds)]
            rate, parent, child = (median(values) for values in zip(*runs, strict=True))
            times = (f"{parent * 1e3:.2f} ms", f"{child * 1e3:.2f} ms" if processes > 1 else "")
            rows.append((precision, str(processes), f"{rate:,.0f}", f"{ideal:,.0f}" if ideal else "", *times))
    note = (
        f"Medians of {rounds} runs, without the start, of a classifier on {cores} simulated cores. Parent and child: "
        f"the CPU time of an image in the process that writes results, and in the others. This machine has "
        f"{available_cores()} cores, which limit the rate to {available_cores()} divided by the sum of both."
    )
    columns = ("Network", "Processes", "Images/s", "Ideal", "Parent", "Child")
    return Table("many-processes", columns, tuple(rows), note)


def simulate_costs(cores: int, decode: float, inference: float) -> None:
    """Let this process have a number of cores on which images take as long as given."""
    from densenet_cli.images.loading import ImageLoader
    from densenet_cli.model import Model

    free = threading.Semaphore(cores)
    os.sched_getaffinity = lambda _: set(range(cores))

    def add_wait(kind: type, name: str, seconds: float) -> None:
        method = getattr(kind, name)

        def wait_after(*arguments, **options):
            result = method(*arguments, **options)
            with free:
                time.sleep(seconds)
            return result

        if seconds:
            setattr(kind, name, wait_after)

    add_wait(ImageLoader, "load", decode)
    add_wait(Model, "run", inference)


def simulate_processes(
    weights: Path, image: Path, cores: int, decode: float, inference: float, count: int, processes: int
) -> tuple[float, float, float]:
    """Measure a classifier with several processes on a simulated server.

    Returns:
        Images per second, and the CPU seconds of an image in this process and in the others.
    """
    import psutil

    from densenet_cli import Classifier
    from densenet_cli import processes as pool
    from densenet_cli.processes import worker

    simulate_costs(cores, decode, inference)  # for this process, until the others have started
    call = f"simulate_costs({cores // processes}, {decode}, {inference})"
    main = "main(**settings)"
    worker.CHILD_CODE = worker.CHILD_CODE.replace(main, f"import many_cores; many_cores.{call}; {main}")
    first = [0] if processes == 1 else []
    stream = pool._Group.stream

    def note_and_stream(group, sources, first_index, *arguments):
        first.append(first_index)
        return stream(group, sources, first_index, *arguments)

    pool._Group.stream = note_and_stream
    with Classifier(weights=weights, input_size=32, threads=cores, processes=processes) as classifier:
        end, start, parent, child = 0, 0.0, 0.0, 0.0
        children: list[psutil.Process] = []
        for number, prediction in enumerate(classifier.predict_many(repeat(str(image)))):
            prediction.to_json()
            if not end and first and number >= first[0] + 1000:
                children = psutil.Process().children()
                end, start, parent, child = number + count, time.perf_counter(), time.process_time(), _cpu(children)
            elif end and number == end:
                elapsed = time.perf_counter() - start
                cpu_times = time.process_time() - parent, _cpu(children) - child
                break
        return count / elapsed, cpu_times[0] / count, cpu_times[1] / count


def _cpu(processes) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


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
    parser.add_argument("--processes", type=int)
    arguments, _ = parser.parse_known_args()
    if arguments.simulate is None:
        run_one(measure)
        return
    weights, image, cores, decode, inference, count = arguments.simulate
    values = (Path(weights), Path(image), int(cores), float(decode), float(inference), int(count))
    processes = arguments.processes
    print(json.dumps(simulate_processes(*values, processes) if processes else simulate(*values)))


if __name__ == "__main__":
    main()
