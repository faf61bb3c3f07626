"""A decoding process: ``isolated_worker.py IMAGE ROUNDS`` prints medians of its times, and its memory, as JSON."""

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
from densenet_cli.images.isolation.worker import Worker
from densenet_cli.images.isolation.workers import Workers
from densenet_cli.images.preprocessing import Preprocessing
from densenet_cli.images.sources import Source, from_object

ROOT = Path(__file__).parents[1]
PREPROCESSING = Preprocessing()


def milliseconds(work: Callable[[], object], rounds: int) -> float:
    """Median of the time that ``work`` takes."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1000 * median(times)


def main(image: str, rounds: int) -> None:
    sys.path[:0] = [
        str(ROOT),
        str(ROOT / "tests" / "support" / "decoders"),
    ]  # a decoder of HEIC that does as it is told
    from tests.support.decoders.pillow_heif import heic

    budget = decoding.DecodeBudget(700)
    source, crash = from_object(image), Source("crash", heic("abort"), "bytes")

    def start() -> None:
        started.append(Worker(budget, None))
        started[-1].wait_until_ready()

    def crash_and_go_on() -> None:
        try:
            workers.load(crash, PREPROCESSING)
        except DecoderCrashedError:
            workers.load(source, PREPROCESSING)

    started: list[Worker] = []
    workers = Workers(budget)
    decoding.load(source, PREPROCESSING, budget)
    workers.load(source, PREPROCESSING)
    found = {"here_ms": 0.0, "there_ms": 0.0}
    for _ in range(3):  # in turn, so that the machine is as warm for one as for the other
        found["here_ms"] += milliseconds(lambda: decoding.load(source, PREPROCESSING, budget), 10 * rounds) / 3
        found["there_ms"] += milliseconds(lambda: workers.load(source, PREPROCESSING), 10 * rounds) / 3
    (child,) = psutil.Process().children()
    found["memory"] = child.memory_full_info().uss
    found["start_ms"] = milliseconds(start, rounds)
    found["crash_ms"] = milliseconds(crash_and_go_on, rounds)
    for worker in started:
        worker.end()
    workers.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
