"""What is to be measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densenet_cli.benchmarking.report import Cell

REFERENCE = "tensorflow"
"""The engine that ``compare`` puts beside another."""

BATCH_SIZES = (1, 4, 8, 16)


def usual_threads(cores: int) -> tuple[int, ...]:
    """The numbers of threads worth trying: one, a quarter and a half of the cores, all of them."""
    return tuple(sorted({1, max(1, cores // 4), max(1, cores // 2), cores}))


@dataclass(frozen=True)
class Plan:
    """What is to be measured.

    Attributes:
        options: what ``Classifier`` takes, ``engine`` among it, but for ``batch_size`` and ``threads``.
        arguments: the same as arguments of ``densenet predict``, but for the engine.
        batch_sizes, threads: to be tried, each with each.
        images: paths of images; empty for some that are made.
        seconds: about how long; a few rounds are made however long they take.
        compare: measure TensorFlow's engine as well, with the largest number of threads.
        random_weights: run the variant with random numbers for weights.
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
        """The one asked for."""
        return str(self.options["engine"])

    @property
    def engines(self) -> tuple[str, ...]:
        """All that are measured, the one asked for first."""
        return (self.engine, REFERENCE) if self.compare else (self.engine,)

    def cells(self) -> list[Cell]:
        """What is measured in processes that run already, in the report's order."""
        pairs = [(self.engine, threads) for threads in self.threads]
        if self.compare:
            pairs.append((REFERENCE, max(self.threads)))
        found = []
        for engine, threads in pairs:
            found += [Cell(engine, threads, "answer"), Cell(engine, threads, "decoding")]
            # Batches of one are an engine's latency, whatever was asked for.
            found += [Cell(engine, threads, "engine", size) for size in sorted({1, *self.batch_sizes})]
            found += [Cell(engine, threads, "together", size) for size in self.batch_sizes]
        return found
