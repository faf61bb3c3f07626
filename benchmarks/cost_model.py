"""A cost model of runs: what an image, a part, and a run cost, and what follows for machines and collections.

As a script, it prints predictions for named machine types from the costs that ``on_ray.py`` measured last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from suite import Table


@dataclass(frozen=True)
class Costs:
    """Core-seconds per image with all cores busy, which share caches and memory; and other costs.

    Attributes:
        read: Reading the file of an image.
        decode: Decoding and resizing it.
        engine: Precision -> computing it.
        switch: Precision -> what decoding and computing in turn take more than both alone, because each leaves the
            caches and the clock rate of a core in a state that is bad for the other.
        record: Making its record.
        part: Seconds of a worker for a part on Ray, without its images.
        start: Precision -> seconds of a run with one image.
        bytes: Bytes of an image file.
    """

    read: float
    decode: float
    engine: dict[str, float]
    switch: dict[str, float]
    record: float
    part: float
    start: dict[str, float]
    bytes: float

    def image(self, precision: str) -> float:
        """Return the processor seconds per image."""
        return self.read + self.decode + self.engine[precision] + self.switch[precision] + self.record

    def table(self) -> Table:
        """Return the costs as a table."""
        rows = [
            ("reading", f"{self.read * 1e3:.2f} core-ms per image"),
            ("decoding and resizing", f"{self.decode * 1e3:.2f} core-ms per image"),
            *(
                (f"DenseNet-121, {precision}", f"{seconds * 1e3:.2f} core-ms per image")
                for precision, seconds in self.engine.items()
            ),
            *(
                (f"decoding and DenseNet-121 in turn, {precision}", f"{seconds * 1e3:+.2f} core-ms per image")
                for precision, seconds in self.switch.items()
            ),
            ("record", f"{self.record * 1e3:.2f} core-ms per image"),
            ("image file", f"{self.bytes / 1e3:.0f} kB"),
            *((f"start of `predict`, {precision}", f"{seconds:.2f} s") for precision, seconds in self.start.items()),
            ("part on Ray", f"{self.part * 1e3:.0f} ms of a worker"),
        ]
        return Table("costs", ("Cost", "Measured"), tuple(rows))


def predict_seconds(
    costs: Costs, images: int, cores: int, precision: str, *, part_size: int | None = None, threads: int = 8
) -> float:
    """Return the seconds of a run: of the plain command, or without the start of Ray, if there is a part size.

    Args:
        costs: The costs.
        images: The number of images.
        cores: The number of cores.
        precision: The precision.
        part_size: The images of a part on Ray, or None for the plain command.
        threads: The threads of a worker.
    """
    busy = images * costs.image(precision) / cores
    if part_size is None:
        return costs.start[precision] + busy
    workers = max(1, cores // threads)
    parts = math.ceil(images / part_size)
    return busy + math.ceil(parts / workers) * costs.part


@dataclass(frozen=True)
class Machine:
    """A machine type of a cloud provider, from its documentation.

    Attributes:
        name: Its name.
        cores: Physical cores: two virtual processors are one core on these machines.
        gigabits: Bandwidth of the network in Gbit/s that it has all the time.
        has_amx: Whether it computes in bfloat16 with AMX.
    """

    name: str
    cores: int
    gigabits: float
    has_amx: bool


MACHINES = (
    Machine("c7i.4xlarge (Intel, AMX, 16 vCPU)", 8, 6.25, True),
    Machine("c7i.24xlarge (Intel, AMX, 96 vCPU)", 48, 37.5, True),
    Machine("c3-standard-44 (Intel, AMX, 44 vCPU)", 22, 32, True),
    Machine("c7i.24xlarge, float32", 48, 37.5, False),
)
"""The types c7i are Amazon's and c3 are Google's. Their vCPU are hyperthreads. The model counts a core once:
hyperthreads are expected to add little."""


def images_per_second(costs: Costs, machine: Machine) -> tuple[float, str]:
    """Return the predicted rate of one machine, and what limits it."""
    precision = "bfloat16" if machine.has_amx else "float32"
    compute = machine.cores / costs.image(precision)
    network = machine.gigabits * 1e9 / 8 / costs.bytes
    return (compute, "processor") if compute < network else (network, "network")


def predictions(costs: Costs) -> Table:
    """Return predictions for large collections, which nobody has measured."""
    rows = []
    for machine in MACHINES:
        rate, limit = images_per_second(costs, machine)
        rows.append(
            (
                machine.name,
                f"{rate:,.0f}",
                limit,
                *(f"{images / rate / 3600:,.0f}" for images in (1e8, 1e9)),
                f"{rate * costs.bytes * 8 / 1e9:.2f}",
            )
        )
    columns = ("Machine", "Images/s", "Limit", "Hours for 100 million", "Hours for a billion", "Gbit/s per machine")
    return Table("predictions", columns, tuple(rows), "Predictions: nothing in this table was measured.")
