"""One image in a new process: ``densenet predict photo.jpg`` compared with a Keras script, and where its time goes."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from statistics import median

from inputs import Inputs
from processes import DENSENET, median_megabytes, median_seconds, run, run_json, script, seconds_range
from suite import Table, Workload, run_one, target_status

from densenet_cli.benchmarking.processes import ProcessResult

TARGET_SPEEDUP, TARGET_MEMORY_RATIO = 25, 5


def measure(inputs: Inputs, workload: Workload) -> list[Table]:
    """Measure time and memory of one image in a new process."""
    weights = inputs.weights()
    image = sorted(inputs.photographs(2).iterdir())[0]
    environment = {"DENSENET_CACHE": str(inputs.new_folder())}
    predict = [*DENSENET, "predict", str(image), "--weights", str(weights)]
    keras_script = script("keras_script", weights, image)
    keras_mode = run([*predict, "--preprocess", "keras", "--format", "json"], environment)
    _check_same_predictions(keras_mode, run(keras_script))
    rounds = workload.count(11, quick=2)
    command, keras = [], []
    run(predict, environment)
    for _ in range(rounds):
        keras.append(run(keras_script))
        # Five runs of the command take little time compared with one of Keras, and improve the median.
        command += [run(predict, environment) for _ in range(5)]
    speedup = median_seconds(keras) / median_seconds(command)
    memory_ratio = median_megabytes(keras) / median_megabytes(command)
    rows = (
        ("`densenet predict photo.jpg`", *_cells(command)),
        ("Keras script", *_cells(keras)),
        ("Ratio", f"**{speedup:.1f}**", "", f"**{memory_ratio:.1f}**"),
        (
            "Target",
            f"at least {TARGET_SPEEDUP} ({target_status(speedup, minimum=TARGET_SPEEDUP)})",
            "",
            f"at least {TARGET_MEMORY_RATIO} ({target_status(memory_ratio, minimum=TARGET_MEMORY_RATIO)})",
        ),
    )
    note = (
        f"Medians of {rounds} rounds of one Keras script and five runs of the command. The graph was cached before. "
        "With `--preprocess keras`, the command returns the script's five classes and probabilities (checked)."
    )
    columns = ("One image, new process", "Median, s", "Range, s", "Peak memory")
    return [
        Table("cold-start", columns, rows, note),
        _measure_phases(inputs, environment, workload),
        _measure_imports(predict, environment),
    ]


def _cells(results: list[ProcessResult]) -> tuple[str, str, str]:
    return f"{median_seconds(results):.3f}", seconds_range(results), f"{median_megabytes(results):.0f} MB"


def _check_same_predictions(command: ProcessResult, keras: ProcessResult) -> None:
    """Exit unless both return the same five classes and probabilities, because nothing else is comparable."""
    scores = [(label["index"], label["probability"]) for label in json.loads(command.stdout)[0]["predictions"]]
    expected = [(int(i), float(p) / 100) for i, p in re.findall(r"^ *(\d+) ([\d.]+)%$", keras.stdout, re.MULTILINE)]
    same_classes = [index for index, _ in scores] == [index for index, _ in expected]
    if not same_classes or any(abs(a[1] - b[1]) > 2e-5 for a, b in zip(scores, expected, strict=True)):
        sys.exit(f"The predictions differ:\n{scores}\n{expected}")


def _measure_phases(inputs: Inputs, environment: dict[str, str], workload: Workload) -> Table:
    image = sorted(inputs.photographs(2).iterdir())[0]
    command = script("cold_start_phases", inputs.weights(), image)
    rounds = workload.count(21, quick=3)
    python = [run([sys.executable, "-c", "pass"]) for _ in range(rounds)]
    runs = [run_json(command, environment) for _ in range(rounds)]
    phases = [("Start and exit Python", median_seconds(python) * 1e3)]
    phases += [(samples[0][0], median(time for _, time in samples)) for samples in zip(*runs, strict=True)]
    rows = [(phase, f"{time:.1f}") for phase, time in phases]
    rows.append(("Sum", f"{sum(time for _, time in phases):.0f}"))
    note = (
        f"Medians of {rounds} processes that run the steps in sequence. The command decodes the image while it creates "
        "the session, so it takes slightly less than the sum."
    )
    return Table("phases", ("Step of a cold start", "ms"), tuple(rows), note)


def _measure_imports(command: list[str], environment: dict[str, str]) -> Table:
    """Sum up the output of ``python -X importtime`` by package."""
    process = [sys.executable, "-c", IMPORT_TIMES, *command[1:]]
    times: Counter[str] = Counter()
    modules: Counter[str] = Counter()
    for line in run(process, environment).stdout.splitlines():
        if match := re.fullmatch(r"import time: +(\d+) \| +\d+ \| +(\S+)", line):
            package = match[2].partition(".")[0]
            package = "standard library" if package in sys.stdlib_module_names else package
            times[package] += int(match[1])
            modules[package] += 1
    rows = tuple((package, str(modules[package]), f"{time / 1e3:.1f}") for package, time in times.most_common(8))
    note = "One process under `python -X importtime`, which slows imports down. Self time by package."
    return Table("imports", ("Package", "Modules", "Import time, ms"), rows, note)


IMPORT_TIMES = (
    "import subprocess, sys; sys.stdout.write(subprocess.run([sys.executable, '-X', 'importtime', '-m', "
    "'densenet_cli', *sys.argv[1:]], capture_output=True, text=True, check=True).stderr)"
)
"""Program that runs the command and prints what ``importtime`` writes to standard error."""

if __name__ == "__main__":
    run_one(measure)
