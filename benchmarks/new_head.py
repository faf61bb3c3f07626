"""``densenet train --freeze all`` compared with ``densenet predict`` for the same photographs."""

from __future__ import annotations

import os

from inputs import Inputs
from processes import DENSENET, median_megabytes, median_seconds, run, seconds_range
from suite import Table, Workload, run_one, target_status

from densenet_cli.benchmarking.processes import ProcessResult

CLASSES = 10
MAX_RATIO = 2.0
"""The time of training as a multiple of that of predict."""


def measure(inputs: Inputs, workload: Workload) -> list[Table]:
    """Measure the time from the images to a new classifier, with an empty cache of features."""
    weights, environment = inputs.weights(), {"DENSENET_CACHE": str(inputs.new_folder())}
    count, rounds = workload.count(1000, quick=60), workload.count(3, quick=1)
    photographs, classes = sorted(inputs.photographs(count).iterdir()), inputs.new_folder()
    for number, path in enumerate(photographs):
        folder = classes / f"class {number % CLASSES}"
        folder.mkdir(exist_ok=True)
        os.link(path, folder / path.name)
    output, results = inputs.new_folder(), {}
    predict = [*DENSENET, "predict", str(classes), "--weights", str(weights), "--overwrite"]
    train = [*DENSENET, "train", str(classes), "--from", str(weights), "--freeze", "all", "--overwrite"]
    names = {
        "`predict`": [*predict, "-o", str(output / "labels.csv")],
        "`train --freeze all`": [*train, "-o", str(output / "run")],
        "`train --freeze all`, features in the cache": [*train, "-o", str(output / "run")],
    }
    samples: dict[str, list[ProcessResult]] = {name: [] for name in names}
    run([*predict[:-1], "-o", str(output / "first.csv"), "--overwrite"], environment)  # stores the graph
    for _ in range(rounds):
        features = str(inputs.new_folder())
        for name, command in names.items():
            cache = ["--cache", features] if "train" in name else []
            samples[name].append(run([*command, *cache], environment))
    results = {name: median_seconds(values) for name, values in samples.items()}
    ratio = results["`train --freeze all`"] / results["`predict`"]
    rows = [
        (
            name,
            f"{median_seconds(values):.1f}",
            seconds_range(values),
            f"{results[name] / results['`predict`']:.2f}",
            f"{median_megabytes(values):.0f} MB",
        )
        for name, values in samples.items()
    ]
    rows.append(("Target", "", "", f"at most {MAX_RATIO:g} ({target_status(ratio, maximum=MAX_RATIO)})", ""))
    columns = (f"{count:,} photographs, 500x375", "Median, s", "Range, s", "Relative to `predict`", "Peak memory")
    note = f"DenseNet-121 with random weights, {CLASSES} classes. Medians of {rounds} rounds of one run each."
    return [Table("new-head", columns, tuple(rows), note)]


if __name__ == "__main__":
    run_one(measure)
