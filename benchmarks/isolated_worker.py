"""A worker process for decoding: ``isolated_worker.py IMAGE ROUNDS`` prints median times and memory as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import psutil

from densenet_cli.errors import DecoderCrashedError
from densenet_cli.images import decoding
from densenet_cli.images.isolation import WorkerPool
from densenet_cli.images.isolation.worker import Worker
from densenet_cli.images.memory import DecodeBudget
from densenet_cli.images.preprocessing import Preprocessing
from densenet_cli.images.sources import Source, from_object

ROOT = Path(__file__).parents[1]
PREPROCESSING = Preprocessing()


def median_milliseconds(work: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1000 * median(times)


def main(image: str, rounds: int) -> None:
    # A HEIC decoder that crashes on demand.
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support" / "decoders")]
    from tests.support.decoders.pillow_heif import heic

    budget = DecodeBudget(700)
    source, crash = from_object(image), Source("crash", heic("abort"), "bytes")

    def start_worker() -> None:
        started.append(Worker(budget, None))
        started[-1].wait_until_ready()

    def crash_and_recover() -> None:
        try:
            workers.load(crash, PREPROCESSING)
        except DecoderCrashedError:
            workers.load(source, PREPROCESSING)

    started: list[Worker] = []
    workers = WorkerPool(budget)
    decoding.load(source, PREPROCESSING, budget)
    workers.load(source, PREPROCESSING)
    results = {"main_process_ms": 0.0, "worker_ms": 0.0}
    for _ in range(3):  # alternating, so that a slow period of the machine affects both
        results["main_process_ms"] += (
            median_milliseconds(lambda: decoding.load(source, PREPROCESSING, budget), 10 * rounds) / 3
        )
        results["worker_ms"] += median_milliseconds(lambda: workers.load(source, PREPROCESSING), 10 * rounds) / 3
    (child,) = psutil.Process().children()
    results["memory"] = child.memory_full_info().uss
    results["start_ms"] = median_milliseconds(start_worker, rounds)
    results["crash_ms"] = median_milliseconds(crash_and_recover, rounds)
    for worker in started:
        worker.end()
    workers.close()
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
