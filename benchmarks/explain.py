"""What ``densenet explain`` costs beside ``densenet predict``: one image in a fresh process, and a folder."""

from __future__ import annotations

from material import Material
from processes import DENSENET, memory_of, run, seconds_of, spread
from report import Table
from suite import Effort, alone

from densenet_cli.benchmarking.processes import ProcessResult as Run


def measure(material: Material, effort: Effort) -> list[Table]:
    """Time and memory of maps, as numbers and as drawings."""
    weights = material.weights()
    environment = {"DENSENET_CACHE": str(material.empty())}
    images = effort.of(200, 16)
    folder = material.photographs(images)
    image = sorted(folder.iterdir())[0]
    drawings = material.empty()

    def commands(source: object) -> dict[str, list[str]]:
        model = [str(source), "--weights", str(weights)]
        return {
            "`predict`": [*DENSENET, "predict", *model, "--format", "jsonl"],
            "`explain --format jsonl`": [*DENSENET, "explain", *model, "--format", "jsonl"],
            "`explain -o DIR`": [*DENSENET, "explain", *model, "-o", str(drawings), "--overwrite", "-q"],
        }

    run(commands(image)["`predict`"], environment)
    tables = []
    for what, source, rounds in (("One image", image, effort.of(21, 2)), ("A folder", folder, effort.of(5, 1))):
        runs: dict[str, list[Run]] = {name: [] for name in commands(source)}
        for _ in range(rounds):  # one of each in turn
            for name, command in commands(source).items():
                runs[name].append(run(command, environment))
        first = seconds_of(runs["`predict`"])
        rows = tuple(
            (
                name,
                f"{seconds_of(done):.3f}",
                spread(done),
                f"{seconds_of(done) / first:.2f}",
                f"{memory_of(done):.0f} MB",
            )
            for name, done in runs.items()
        )
        kind = "explain-one" if source is image else "explain-folder"
        count = "" if source is image else f", {images} photographs of 500x375"
        columns = (f"{what}{count}", "median, s", "fastest to slowest, s", "to `predict`", "peak memory")
        tables.append(Table(kind, columns, rows, f"Medians of {rounds} rounds, one of each in turn."))
    return tables


if __name__ == "__main__":
    alone(measure)
