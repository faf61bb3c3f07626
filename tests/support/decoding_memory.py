"""Measure the memory of decoding: ``python -m tests.support.decoding_memory`` answers each line with two numbers.

A line is ``exact`` or ``reduced`` and the path of an image. The numbers are the bytes reserved for the image and the
bytes by which the process grew at its peak. Each image is decoded in a fork of a process that has imported everything
and decoded nothing large.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from densenet_cli.images.decoding import load
from densenet_cli.images.memory import DecodeBudget
from densenet_cli.images.preprocessing import Preprocessing
from densenet_cli.images.sources import from_object
from tests.support.images import ENCODINGS, load_pixels, photograph


class RecordingBudget(DecodeBudget):
    """A budget that admits everything.

    Attributes:
        reserved: bytes reserved last.
    """

    def __init__(self) -> None:
        super().__init__(1 << 40)
        self.reserved = 0

    @contextmanager
    def reserve(self, needed: int) -> Iterator[None]:
        self.reserved = needed
        yield


def measure(path: str, preprocessing: Preprocessing) -> str:
    ctypes.CDLL(None).malloc_trim(0)
    before = process_status("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # reset the peak
    budget = RecordingBudget()
    load(from_object(path), preprocessing, budget)
    return f"{budget.reserved} {process_status('VmHWM') - before}"


def process_status(name: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))


def main() -> None:
    for encoding in ENCODINGS:
        load_pixels(encoding.encode(photograph("coffee", (64, 48))))
    for line in sys.stdin:
        mode, _, path = line.rstrip("\n").partition(" ")
        child = os.fork()
        if child == 0:
            try:
                channels = {"mean": (0.5,), "std": (0.5,)} if mode == "gray" else {}
                print(measure(path, Preprocessing(exact=mode != "reduced", **channels)), flush=True)
            finally:
                os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
