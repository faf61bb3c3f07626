"""Describe the machine that a benchmark runs on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from densenet_cli.pipeline import available_cores

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
