"""``densenet explain`` compared with ``densenet predict``: one image in a new process, and a folder."""

from __future__ import annotations

from inputs import Inputs
from processes import DENSENET, median_megabytes, median_seconds, run, seconds_range
from suite import Table, Workload, run_one

from densenet_cli.benchmarking.processes import ProcessResult


def measure(inputs: Inputs, workload: Workload) -> list[Table]:
    """Measure time and memory of class activation maps as JSON and as drawings."""
    weights = inputs.weights()
    environment = {"DENSENET_CACHE": str(inputs.new_folder())}
    count = workload.count(200, quick=16)
    folder = inputs.photographs(count)
    image = sorted(folder.iterdir())[0]
    drawings = inputs.new_folder()

    def commands(source: object) -> dict[str, list[str]]:
        arguments = [str(source), "--weights", str(weights)]
        return {
            "`predict`": [*DENSENET, "predict", *arguments, "--format", "jsonl"],
            "`explain --format jsonl`": [*DENSENET, "explain", *arguments, "--format", "jsonl"],
            "`explain -o DIR`": [*DENSENET, "explain", *arguments, "-o", str(drawings), "--overwrite", "-q"],
        }

    run(commands(image)["`predict`"], environment)
    sources = (
        ("explain-one", "One image", image, workload.count(21, quick=2)),
        ("explain-folder", f"Folder of {count} photographs, 500x375", folder, workload.count(5, quick=1)),
    )
    tables = []
    for table, heading, source, rounds in sources:
        results: dict[str, list[ProcessResult]] = {name: [] for name in commands(source)}
        for _ in range(rounds):
            for name, command in commands(source).items():
                results[name].append(run(command, environment))
        predict_seconds = median_seconds(results["`predict`"])
        rows = tuple(
            (
                name,
                f"{median_seconds(samples):.3f}",
                seconds_range(samples),
                f"{median_seconds(samples) / predict_seconds:.2f}",
                f"{median_megabytes(samples):.0f} MB",
            )
            for name, samples in results.items()
        )
        columns = (heading, "Median, s", "Range, s", "Relative to `predict`", "Peak memory")
        tables.append(Table(table, columns, rows, f"Medians of {rounds} rounds of one run each."))
    return tables


if __name__ == "__main__":
    run_one(measure)
