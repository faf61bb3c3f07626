"""Precisions: which ones this machine computes fast, and the engine for each."""

from __future__ import annotations

import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from densenet_cli import engines
from densenet_cli.errors import UsageError

ENGINE_OF_PRECISION = {"float32": engines.DEFAULT, "bfloat16": "openvino", "int8": "openvino"}
"""Precision -> the default engine for it."""


def choose(precision: str, engine: str | None) -> tuple[str, str]:
    """Return the engine and the precision for a caller's choice.

    Args:
        precision: One of ``engines.PRECISION_CHOICES``. ``auto`` is bfloat16 on processors with AMX if its engine is
            installed, else float32. Processors that only have AVX512_BF16 are not faster with it in every case.
        engine: A key of ``engines.ENGINES``, or None for the default engine of the precision.

    Raises:
        UsageError: A value is unknown, the processor does not support the precision, or the engine does not.
    """
    if precision not in engines.PRECISION_CHOICES:
        raise UsageError(f"Unknown precision {precision!r}. Choose from {', '.join(engines.PRECISION_CHOICES)}.")
    if engine is not None and engine not in engines.ENGINES:
        raise UsageError(f"Unknown engine {engine!r}. Choose from {', '.join(engines.ENGINES)}.")
    if precision == "auto":
        has_engine = engine == "openvino" or (engine is None and find_spec("openvino") is not None)
        precision = "bfloat16" if has_engine and "amx_bf16" in cpu_flags() else "float32"
    engine = engine or ENGINE_OF_PRECISION[precision]
    if engine == "openvino" and find_spec("openvino") is None:
        needs = "The engine openvino" if precision == "float32" else f"The precision {precision}"
        raise UsageError(f"{needs} requires OpenVINO: pip install openvino")
    if precision != "float32":
        if engine != "openvino":
            raise UsageError(f"The engine {engine} only computes in float32. Omit `engine`, or use openvino.")
        if precision not in supported():
            raise UsageError(
                f"This processor does not compute in {precision}. Supported precisions: {', '.join(supported())}."
            )
    return engine, precision


@cache
def supported() -> tuple[str, ...]:
    """Return the precisions that this processor has instructions for.

    They are those of ``/proc/cpuinfo``, or on systems without it those that OpenVINO reports. int8 requires VNNI, which
    OpenVINO does not report.
    """
    if sys.platform == "linux" and cpu_flags():
        has_bfloat16 = not cpu_flags().isdisjoint({"amx_bf16", "avx512_bf16", "bf16"})
    elif find_spec("openvino") is None:
        has_bfloat16 = False
    else:
        from densenet_cli.engines.openvino import get_core

        has_bfloat16 = "BF16" in get_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    is_supported = {
        "float32": True,
        "bfloat16": has_bfloat16,
        "int8": not cpu_flags().isdisjoint({"avx512_vnni", "avx_vnni"}),
    }
    return tuple(name for name in engines.PRECISIONS if is_supported[name])


@cache
def cpu_flags() -> frozenset[str]:
    """Return the instruction set extensions that Linux lists in ``/proc/cpuinfo``, or nothing on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):  # x86 and ARM
            return frozenset(value.split())
    return frozenset()
