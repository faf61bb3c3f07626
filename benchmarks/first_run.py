"""The first run with a new checkpoint: it is read, the graph emitted, optimized and cached."""

from __future__ import annotations

from material import Material
from processes import DENSENET, memory_of, run, script, seconds_of, spread
from report import Table, verdict
from suite import Effort, alone

FASTER = 5


def measure(material: Material, effort: Effort) -> list[Table]:
    """Time of one image with an empty cache."""
    weights = material.weights()
    image = sorted(material.photographs(2).iterdir())[0]
    ours = [*DENSENET, "predict", str(image), "--weights", str(weights)]
    keras = script("keras_script", weights, image)
    rounds = effort.of(7, 2)
    command, reference = [], []
    for round_ in range(rounds + 1):
        samples = run(keras), run(ours, {"DENSENET_CACHE": str(material.empty())})
        if round_:  # the first one reads files that the disk holds; the others find them in memory
            reference.append(samples[0])
            command.append(samples[1])
    faster = seconds_of(reference) / seconds_of(command)
    rows = (
        (
            "`densenet predict`, empty cache",
            f"{seconds_of(command):.2f}",
            spread(command),
            f"{memory_of(command):.0f} MB",
        ),
        ("the Keras script", f"{seconds_of(reference):.2f}", spread(reference), f"{memory_of(reference):.0f} MB"),
        ("ratio", f"**{faster:.1f}**", "", f"{memory_of(reference) / memory_of(command):.1f}"),
        ("target", f"{FASTER} ({verdict(faster, least=FASTER)})", "", ""),
    )
    columns = ("The first run with a checkpoint", "median, s", "fastest to slowest, s", "peak memory")
    return [Table("first-run", columns, rows, f"Medians of {rounds} rounds, one of each in turn.")]


if __name__ == "__main__":
    alone(measure)
