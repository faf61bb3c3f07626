"""A folder of photographs in bfloat16: the whole command compared with float32, the bare engines, and PyTorch.

``TORCH_PYTHON`` is the Python interpreter with PyTorch, by default this one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from inputs import Inputs
from processes import DENSENET, FOLDER, median_megabytes, median_seconds, run, run_json, script, seconds_range
from suite import Table, Workload, run_one, target_status

from densenet_cli.benchmarking.processes import ProcessResult
from densenet_cli.engines.precision import cpu_flags, supported

HAS_AMX = "amx_bf16" in cpu_flags()
TARGET_SPEEDUP = 3.3 if HAS_AMX else 1.6
TARGET_SHARE = 0.95
"""Throughput of the command as a share of what decoding and the engine together allow."""
TARGET_TORCH_RATIO = 1.6
TORCH_PYTHON = os.environ.get("TORCH_PYTHON", sys.executable)


def measure(inputs: Inputs, workload: Workload) -> list[Table]:
    """Measure images per second in bfloat16, and the time of one image."""
    if "bfloat16" not in supported():
        print("This processor does not compute in bfloat16.")
        return []
    count, rounds = workload.count(1000, quick=60), workload.count(2, quick=1)
    folder, weights = inputs.photographs(count), inputs.weights()
    environment = {"DENSENET_CACHE": str(inputs.new_folder())}
    commands = _commands(inputs, folder, weights)
    for command in commands.values():  # caches the graphs
        run([*command[:2], str(next(folder.iterdir())), *command[3:]], environment)
    results: dict[str, list[ProcessResult]] = {name: [] for name in commands}
    engine_samples, torch_samples = [], []
    for _ in range(rounds):
        for name, command in commands.items():
            results[name].append(run(command, environment))
        images = workload.count(1000, quick=40)
        engine_samples.append(run_json(script("precision_engines", weights, folder, images), environment))
        if _has_torch():
            torch_samples.append(run_json([TORCH_PYTHON, str(FOLDER / "torch_engine.py"), str(images // 4)]))
    engines = {name: median(sample[name] for sample in engine_samples) for name in engine_samples[0]}
    torch = {name: median(sample[name] for sample in torch_samples) for name in ("eager", "compiled") if torch_samples}
    return [
        _folder_table(count, rounds, results, engines, torch, torch_samples[0]["version"] if torch else None),
        _one_image_table(inputs, workload, sorted(folder.iterdir())[0], weights),
    ]


def _has_torch() -> bool:
    return subprocess.run([TORCH_PYTHON, "-c", "import torch"], capture_output=True, check=False).returncode == 0


def _commands(inputs: Inputs, folder: Path, weights: Path) -> dict[str, list[str]]:
    """Return the commands. Each writes its output to a new folder and replaces that of an earlier run."""

    def command(name: str, output: str, *options: str) -> list[str]:
        results = ["-o", str(inputs.new_folder() / output), "--overwrite", "--quiet"]
        return [*DENSENET, name, str(folder), "--weights", str(weights), *options, *results]

    bfloat16 = ("--precision", "bfloat16")
    page = str(inputs.new_folder() / "x.html")
    return {
        "`predict`": command("predict", "x.jsonl"),
        "`predict --precision bfloat16`": command("predict", "x.jsonl", *bfloat16),
        "the same with `--html`": command("predict", "x.jsonl", *bfloat16, "--html", page),
        "the same with `--isolate`": command("predict", "x.jsonl", *bfloat16, "--isolate"),
        "`embed --precision bfloat16`": command("embed", "x.npz", *bfloat16),
    }


def _folder_table(
    count: int,
    rounds: int,
    results: dict[str, list[ProcessResult]],
    engines: dict[str, float],
    torch: dict[str, float],
    torch_version: str | None,
) -> Table:
    rates = {name: count / median_seconds(samples) for name, samples in results.items()}
    float32_rate, rate = rates["`predict`"], rates["`predict --precision bfloat16`"]
    limit = 1 / (1 / engines["decode"] + 1 / engines["bfloat16"])
    rows = [
        (
            name,
            f"{rates[name]:.1f}",
            seconds_range(samples),
            f"{rates[name] / float32_rate:.2f}",
            f"{median_megabytes(samples):.0f} MB",
        )
        for name, samples in results.items()
    ]
    alone = {
        "Decoding alone": engines["decode"],
        "Engine alone, float32": engines["float32"],
        "Engine alone, bfloat16": engines["bfloat16"],
        "Decoding and bfloat16 together": limit,
        **{f"PyTorch alone, bfloat16, {name}": value for name, value in torch.items()},
    }
    rows += [(name, f"{value:.1f}", "", f"{value / float32_rate:.2f}", "") for name, value in alone.items()]
    ratios = [
        ("bfloat16 / float32, whole command", rate / float32_rate, TARGET_SPEEDUP),
        ("bfloat16 / decoding and engine together", rate / limit, TARGET_SHARE),
    ]
    if torch:
        ratios.append(("bfloat16 / PyTorch compiled alone", rate / torch["compiled"], TARGET_TORCH_RATIO))
    rows += [
        (name, f"**{ratio:.2f}**", f"at least {target} ({target_status(ratio, minimum=target)})", "", "")
        for name, ratio, target in ratios
    ]
    columns = (f"{count:,} photographs", "Images/s", "Range of the time, s", "Relative to float32", "Peak memory")
    note = (
        f"Medians of {rounds} rounds of one run each. The rates of commands include the start and end of the process. "
        "Memory is that of the main process."
        + (f" PyTorch {torch_version} processes batches of 8 or 32, whichever is faster." if torch_version else "")
    )
    return Table("precision", columns, tuple(rows), note)


def _one_image_table(inputs: Inputs, workload: Workload, image: Path, weights: Path) -> Table:
    """Measure one image in a new process, with the graph in the cache and without."""
    environment = {"DENSENET_CACHE": str(inputs.new_folder())}
    predict = [*DENSENET, "predict", str(image), "--weights", str(weights), "--precision"]
    starts, firsts = workload.count(25, quick=2), workload.count(5, quick=1)
    precisions = ("float32", "bfloat16")
    for precision in precisions:
        run([*predict, precision], environment)
    cases: dict[tuple[str, str], list[ProcessResult]] = {
        (name, precision): [] for name in ("Graph in the cache", "Empty cache") for precision in precisions
    }
    for round_ in range(starts):
        for precision in precisions:
            cases["Graph in the cache", precision].append(run([*predict, precision], environment))
            if round_ < firsts:
                new = {"DENSENET_CACHE": str(inputs.new_folder())}
                cases["Empty cache", precision].append(run([*predict, precision], new))
    rows = tuple(
        (
            f"{name}, {precision}",
            f"{median_seconds(samples):.3f}",
            seconds_range(samples),
            f"{median_megabytes(samples):.0f} MB",
        )
        for (name, precision), samples in cases.items()
    )
    note = f"Medians of {starts} runs in turn, and of {firsts} with an empty cache."
    return Table("precision-one", ("One image, new process", "Median, s", "Range, s", "Peak memory"), rows, note)


if __name__ == "__main__":
    run_one(measure)
