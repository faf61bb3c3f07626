"""The machine that something was measured on, named."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

VECTORS = ("avx2", "avx512f", "avx512_bf16", "amx_tile")
"""The wide instructions that matter to a network's speed, as Linux calls them."""


@dataclass(frozen=True)
class Machine:
    """Where something was measured.

    Attributes:
        processor: its name and, since a virtual machine may hide it, its family, model and widest vectors.
        cores: that this process may use.
        load: processes that wanted a core, on average of the minute before; None where the system doesn't tell.
        memory: bytes of it, None where the system doesn't tell.
        system: operating system and architecture.
        python: version.
        packages: name -> version.
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
        """Whether other work took a good part of the cores."""
        return self.load is not None and self.load > self.cores / 4

    def to_dict(self) -> dict[str, Any]:
        """As JSON's types."""
        return asdict(self)


def describe(packages: Iterable[str]) -> Machine:
    """This machine, with the versions of the distributions named in ``packages``."""
    from densenet_cli.pipeline import available_cores

    return Machine(
        processor(),
        available_cores(),
        round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        _memory(),
        f"{platform.system()} {platform.release()}, {platform.machine()}",
        platform.python_version(),
        {package: version(package) for package in packages},
    )


def processor() -> str:
    """The processor's name, as far as the system knows it."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
        fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if "model name" in fields:
            flags = fields.get("flags", "").split()
            details = f"family {fields.get('cpu family')}, model {fields.get('model')}"
            vectors = ", ".join(name for name in VECTORS if name in flags)
            return f"{fields['model name']} ({details}{f'; {vectors}' if vectors else ''})"
    if sys.platform == "darwin":
        with suppress(OSError, subprocess.SubprocessError):
            asked = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    return platform.processor() or platform.machine() or "unknown"


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
