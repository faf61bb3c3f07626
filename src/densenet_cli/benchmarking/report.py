"""Benchmark results: summary statistics, the machine, the report, its JSON form, and the fastest settings."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Self

from densenet_cli.benchmarking.agreement import Agreement
from densenet_cli.engines import available_cores
from densenet_cli.text import to_unicode

Stage = Literal["decode", "inference", "end_to_end", "predict"]
"""What is measured in a process with a loaded model.

``decode``: image files to network input, in all threads. ``inference``: network input to probabilities.
``end_to_end``: a stream of image files to predictions, as for a folder. ``predict``: one image file to a prediction.
"""

MIN_SPEEDUP = 1.02
"""Smallest speedup over the default settings that is worth recommending."""

MIN_QUARTILE_COUNT = 15
"""Smallest number of values whose quartiles are reliable enough to compare two settings."""

VECTOR_EXTENSIONS = ("avx2", "avx512f", "avx512_bf16", "amx_tile")
"""CPU flags in ``/proc/cpuinfo`` that affect the speed of a network."""


@dataclass(frozen=True)
class Machine:
    """A machine and its software.

    Attributes:
        processor: Name, and on Linux family, model, and vector extensions, because a virtual machine may hide the name.
        cores: Number of cores available to this process.
        load: Load average of the last minute; None if the system does not report it.
        memory: Bytes of RAM; None if the system does not report it.
        system: Operating system and architecture.
        python: Python version.
        packages: Package name -> version.
    """

    processor: str
    cores: int
    load: float | None
    memory: int | None
    system: str
    python: str
    packages: dict[str, str]

    @property
    def is_busy(self) -> bool:
        """Whether other processes used a considerable part of the cores."""
        return self.load is not None and self.load > self.cores / 4


@dataclass(frozen=True, slots=True)
class Summary:
    """Median and quartiles of measured values, which a few slow outliers do not affect.

    Mean and standard deviation are omitted on purpose: times have a lower bound and no upper bound, so both are
    dominated by the slowest measurement.

    Attributes:
        count: Number of values, at least 1.
        median: Median, in the unit of the values.
        lower_quartile, upper_quartile: Quartiles by linear interpolation (the default of NumPy and R; type 7 in Hyndman
            and Fan, "Sample quantiles in statistical packages", The American Statistician 50, 1996).
        minimum, maximum: Smallest and largest value.
    """

    count: int
    median: float
    lower_quartile: float
    upper_quartile: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Summarize values. Raises ``ValueError`` if there are none."""
        ordered = sorted(values)
        if not ordered:
            raise ValueError("no values to summarize")
        lower, median, upper = (
            statistics.quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else ordered * 3
        )
        return cls(len(ordered), median, lower, upper, ordered[0], ordered[-1])

    def is_above(self, other: Summary) -> bool:
        """Return whether these values are larger than ``other`` by more than the spread.

        With at least ``MIN_QUARTILE_COUNT`` values each, the interquartile ranges must not overlap. Quartiles of fewer
        values are unreliable: with four values per setting, the best of eight equal settings would be above another one
        in a third of the cases. Fewer values must therefore not overlap at all, which happens by chance in about 5% of
        the cases (tests/benchmarking/test_report.py simulates it).
        """
        if min(self.count, other.count) < MIN_QUARTILE_COUNT:
            return self.minimum > other.maximum
        return self.lower_quartile > other.upper_quartile


@dataclass(frozen=True)
class BenchmarkCase:
    """One thing to measure in a process with a loaded model.

    Attributes:
        engine: Engine name.
        threads: Number of threads for decoding and inference.
        stage: What is measured.
        batch_size: Images per batch; 1 for the stages ``decode`` and ``predict``, which have no batches. None for
            images that are computed at the same time, one per thread.
    """

    engine: str
    threads: int
    stage: Stage
    batch_size: int | None = 1


@dataclass(frozen=True)
class CommandTiming:
    """Time and memory of ``densenet predict`` in a new process.

    Attributes:
        engine: Engine name.
        images: Number of images per process.
        seconds: Wall time from start to end.
        peak_memory: Peak resident memory in bytes; None if the system does not report it.
    """

    engine: str
    images: int
    seconds: Summary
    peak_memory: Summary | None


@dataclass(frozen=True)
class FastestSettings:
    """The threads, and for an engine with batches the batch size, with the highest end-to-end throughput.

    Attributes:
        case: The fastest case.
        throughput: Its images per second.
        default_throughput: Images per second with the default settings; None if they were not measured.
    """

    case: BenchmarkCase
    throughput: Summary
    default_throughput: Summary | None

    @property
    def speedup(self) -> float | None:
        """Ratio of the medians to the default; None if the default was not measured."""
        return self.throughput.median / self.default_throughput.median if self.default_throughput else None

    @property
    def is_recommended(self) -> bool:
        """Whether the settings are measurably faster than the default."""
        if self.default_throughput is None:
            return False
        return self.throughput.is_above(self.default_throughput) and (self.speedup or 0) >= MIN_SPEEDUP


@dataclass(frozen=True)
class BenchmarkReport:
    """Results of a benchmark.

    Attributes:
        model: Model name.
        machine: The machine.
        images: Description of the images, as JSON values.
        settings: Further settings that the results depend on, as JSON values.
        rounds: Number of rounds, without the warm-up.
        default_settings: Default batch size and threads.
        precisions: Precision of each engine.
        agreement: Agreement of the requested engine with float32 on the images; None if it computes in float32, or if
            the weights are random.
        commands: Timings of whole processes.
        times: Seconds per image of each case, one value per measurement.
    """

    model: str
    machine: Machine
    images: Mapping[str, Any]
    settings: Mapping[str, Any]
    rounds: int
    default_settings: tuple[int, int]
    commands: tuple[CommandTiming, ...]
    times: Mapping[BenchmarkCase, tuple[float, ...]]
    precisions: Mapping[str, str]
    agreement: Agreement | None = None

    @property
    def engines(self) -> list[str]:
        """The measured engines, the requested one first."""
        return list(dict.fromkeys(case.engine for case in self.times))

    def has_batches(self, engine: str) -> bool:
        """Return whether an engine processes batches. Others process one image per thread."""
        return BenchmarkCase(engine, self.threads_of(engine)[0], "end_to_end", None) not in self.times

    def threads_of(self, engine: str) -> list[int]:
        """Return the measured numbers of threads of an engine."""
        return list(dict.fromkeys(case.threads for case in self.times if case.engine == engine))

    def throughput(self, case: BenchmarkCase) -> Summary | None:
        """Return images per second; None if the case was not measured."""
        return _throughput(self.times[case]) if case in self.times else None

    def latency(self, case: BenchmarkCase) -> Summary | None:
        """Return seconds per image; None if the case was not measured."""
        return Summary.of(self.times[case]) if case in self.times else None

    @property
    def fastest(self) -> FastestSettings | None:
        """The fastest settings of the requested engine; None if only one was measured."""
        engine = self.engines[0]
        rates = {
            case: _throughput(times)
            for case, times in self.times.items()
            if case.stage == "end_to_end" and case.engine == engine
        }
        if len(rates) < 2:
            return None
        best = max(rates, key=lambda case: rates[case].median)
        batch_size, threads = self.default_settings
        default = BenchmarkCase(engine, threads, "end_to_end", batch_size if self.has_batches(engine) else None)
        return FastestSettings(best, rates[best], rates.get(default))

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values (see the reference of ``benchmark``)."""
        fastest = self.fastest
        return {
            "model": to_unicode(self.model),
            "machine": asdict(self.machine),
            "images": dict(self.images),
            "settings": dict(self.settings),
            "rounds": self.rounds,
            "commands": [
                {
                    "engine": command.engine,
                    "precision": self.precisions[command.engine],
                    "images": command.images,
                    "seconds": asdict(command.seconds),
                    "peak_bytes": asdict(command.peak_memory) if command.peak_memory else None,
                }
                for command in self.commands
            ],
            "latency": [
                {**self._case_to_dict(case), "seconds": asdict(Summary.of(times))}
                for case, times in self.times.items()
                if case.stage == "predict" or (case.stage == "inference" and case.batch_size == 1)
            ],
            "throughput": [
                {
                    **self._case_to_dict(case),
                    "batch_size": None if case.stage == "decode" else case.batch_size,
                    "images_per_second": asdict(_throughput(times)),
                }
                for case, times in self.times.items()
                if case.stage != "predict" and not self._is_latency(case)
            ],
            "agreement": self.agreement and self.agreement.to_dict(),
            "fastest": fastest
            and {
                "batch_size": fastest.case.batch_size,
                "threads": fastest.case.threads,
                "images_per_second": fastest.throughput.median,
                "speedup": fastest.speedup,
                "recommended": fastest.is_recommended,
            },
        }

    def _is_latency(self, case: BenchmarkCase) -> bool:
        """Return whether a case is only the latency of one image, because throughput is measured otherwise."""
        return case.stage == "inference" and case.batch_size == 1 and not self.has_batches(case.engine)

    def _case_to_dict(self, case: BenchmarkCase) -> dict[str, Any]:
        precision = self.precisions[case.engine]
        return {"engine": case.engine, "precision": precision, "stage": case.stage, "threads": case.threads}


def _throughput(times: Iterable[float]) -> Summary:
    return Summary.of(1 / time for time in times)


def describe_machine(packages: Iterable[str]) -> Machine:
    """Describe this machine, with the versions of these installed distributions."""
    return Machine(
        _processor(),
        available_cores(),
        round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        _memory(),
        f"{platform.system()} {platform.release()}, {platform.machine()}",
        platform.python_version(),
        {package: version(package) for package in packages},
    )


def _processor() -> str:
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
        fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if "model name" in fields:
            flags = fields.get("flags", "").split()
            details = f"family {fields.get('cpu family')}, model {fields.get('model')}"
            extensions = ", ".join(name for name in VECTOR_EXTENSIONS if name in flags)
            return f"{fields['model name']} ({details}{f'; {extensions}' if extensions else ''})"
    if sys.platform == "darwin":
        with suppress(OSError, subprocess.SubprocessError):
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    return platform.processor() or platform.machine() or "unknown"


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
