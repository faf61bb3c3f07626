"""Peak memory at 1,000 pictures and at 100,000: it has to be the same."""

from __future__ import annotations

from itertools import islice

from material import Material
from processes import DENSENET, megabytes_of, run
from report import Table, verdict
from suite import Effort, alone

GROWTH = 1.1


def measure(material: Material, effort: Effort) -> list[Table]:
    """Peak memory, by the number of pictures."""
    environment = {"DENSENET_CACHE": str(material.empty())}
    weights = material.tiny_weights()
    most = effort.of(100_000, 3_000)
    names = material.tiny_pictures(most)
    counts = [most // 100, most // 10, most]
    samples = {}
    for count in [10, *counts]:  # the first makes the graph
        listed = material.empty() / "pictures.txt"
        with names.open() as lines, listed.open("w") as file:
            file.writelines(islice(lines, count))
        output = str(material.empty() / "x.jsonl")
        command = [*DENSENET, "predict", "--files-from", str(listed), "--weights", str(weights), "-o", output]
        samples[count] = run(command, environment)
    growth = megabytes_of(samples[most]) / megabytes_of(samples[counts[0]])
    rows = [
        (f"{count:,}", f"{megabytes_of(samples[count]):.1f} MB", f"{count / samples[count].seconds:,.0f}")
        for count in counts
    ]
    rows.append(("last over first", f"**{growth:.3f}**", f"{GROWTH} at most ({verdict(growth, most=GROWTH)})"))
    note = (
        "One run of each, `--files-from` and `-o x.jsonl`: pictures of 48x48 (names of ten files) and a network of "
        "a few layers, so that the number of pictures is all that is large."
    )
    return [Table("memory", ("Pictures", "peak memory", "pictures/s"), tuple(rows), note)]


if __name__ == "__main__":
    alone(measure)
