"""The result of a measurement, and its JSON form: everything that the tables show, and more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from densenet_cli.benchmarking.machine import Machine
from densenet_cli.benchmarking.statistics import Summary
from densenet_cli.results import unicode

Part = Literal["decoding", "engine", "together", "answer"]

WORTH_A_WORD = 1.02
"""A setting that is faster by less than this is not worth an option."""


@dataclass(frozen=True, order=True)
class Cell:
    """One thing that is measured in a process that is already running.

    Attributes:
        engine: which one.
        threads: that decode and compute.
        part: ``decoding`` alone, the ``engine`` alone, both ``together`` as in a run over a folder, or the ``answer``
            to one image.
        batch_size: images computed at once; 1 where there is no batch.
    """

    engine: str
    threads: int
    part: Part
    batch_size: int = 1


@dataclass(frozen=True)
class Command:
    """What whole processes of ``densenet predict`` took.

    Attributes:
        engine: which one.
        images: how many each of them classified.
        seconds: from start to end.
        memory: bytes of peak memory; None where the system doesn't tell.
    """

    engine: str
    images: int
    seconds: Summary
    memory: Summary | None


@dataclass(frozen=True)
class Fastest:
    """Which batch size and threads gave most images a second, decoding and engine together.

    Attributes:
        cell: the fastest.
        rate: its images per second.
        default: those of the setting that is used when none is asked for; None where that was not measured.
    """

    cell: Cell
    rate: Summary
    default: Summary | None

    @property
    def gain(self) -> float | None:
        """How many times the default's median."""
        return self.rate.median / self.default.median if self.default else None

    @property
    def is_worth_setting(self) -> bool:
        """Whether it beats the default by more than the spread."""
        return self.default is not None and self.rate.is_above(self.default) and (self.gain or 0) >= WORTH_A_WORD


@dataclass(frozen=True)
class Report:
    """A measurement.

    Attributes:
        model: the model's name.
        machine: where.
        images: what the images were, of JSON's types.
        settings: what else the numbers depend on, of JSON's types.
        rounds: how often everything was measured in turn, the first time, which warms up, left out.
        default: the batch size and threads that are used when none is asked for.
        commands: whole processes.
        times: seconds that one image of a cell took; more exactly, those of a piece of work over its images.
    """

    model: str
    machine: Machine
    images: Mapping[str, Any]
    settings: Mapping[str, Any]
    rounds: int
    default: tuple[int, int]
    commands: tuple[Command, ...]
    times: Mapping[Cell, tuple[float, ...]]

    @property
    def engines(self) -> list[str]:
        """Those measured, the one asked for first."""
        return list(dict.fromkeys(cell.engine for cell in self.times))

    def rate(self, cell: Cell) -> Summary | None:
        """Images per second; None where it was not measured."""
        return Summary.of(1 / time for time in self.times[cell]) if cell in self.times else None

    def latency(self, cell: Cell) -> Summary | None:
        """Seconds an image; None where it was not measured."""
        return Summary.of(self.times[cell]) if cell in self.times else None

    @property
    def fastest(self) -> Fastest | None:
        """Among the settings of the engine that was asked for; None where there was no choice."""
        cells = [cell for cell in self.times if cell.part == "together" and cell.engine == self.engines[0]]
        if len(cells) < 2:
            return None
        rates = {cell: Summary.of(1 / time for time in self.times[cell]) for cell in cells}
        best = max(cells, key=lambda cell: rates[cell].median)
        batch_size, threads = self.default
        return Fastest(best, rates[best], rates.get(Cell(self.engines[0], threads, "together", batch_size)))

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON's types (``docs/benchmark.md`` describes it)."""
        return {
            "model": unicode(self.model),
            "machine": self.machine.to_dict(),
            "images": dict(self.images),
            "settings": dict(self.settings),
            "rounds": self.rounds,
            "commands": [
                {
                    "engine": command.engine,
                    "images": command.images,
                    "seconds": command.seconds.to_dict(),
                    "peak_bytes": command.memory.to_dict() if command.memory else None,
                }
                for command in self.commands
            ],
            "latency": [
                {
                    "engine": cell.engine,
                    "part": cell.part,
                    "threads": cell.threads,
                    "seconds": Summary.of(times).to_dict(),
                }
                for cell, times in self.times.items()
                if cell.part == "answer" or (cell.part == "engine" and cell.batch_size == 1)
            ],
            "throughput": [
                {
                    "engine": cell.engine,
                    "part": cell.part,
                    "threads": cell.threads,
                    "batch_size": None if cell.part == "decoding" else cell.batch_size,
                    "images_per_second": Summary.of(1 / time for time in times).to_dict(),
                }
                for cell, times in self.times.items()
                if cell.part != "answer"
            ],
            "fastest": _fastest(self.fastest),
        }


def _fastest(fastest: Fastest | None) -> dict[str, Any] | None:
    if fastest is None:
        return None
    return {
        "batch_size": fastest.cell.batch_size,
        "threads": fastest.cell.threads,
        "images_per_second": fastest.rate.median,
        "times_the_default": fastest.gain,
        "worth_setting": fastest.is_worth_setting,
    }
