"""Peak memory at 1,000 images and at 100,000, of predict and of embed: it has to be the same."""

from __future__ import annotations

from itertools import islice

from material import Material
from processes import DENSENET, Run, megabytes_of, run
from report import Table, verdict
from suite import Effort, alone

GROWTH = 1.1
NOTE = (
    "One run of each, `--files-from` and `-o {output}`: images of 48x48 (names of ten files) and a network of "
    "a few layers, so that the number of images is all that is large."
)


def measure(material: Material, effort: Effort) -> list[Table]:
    """Peak memory, by the number of images."""
    most = effort.of(100_000, 3_000)
    return [
        _table("memory", most, _samples(material, most, "predict", "x.jsonl"), NOTE.format(output="x.jsonl")),
        _table("memory_embed", most, _samples(material, most, "embed", "x.npz"), NOTE.format(output="x.npz")),
    ]


def _samples(material: Material, most: int, command: str, output: str) -> dict[int, Run]:
    """A run by the number of images: a hundredth of ``most``, a tenth, and all."""
    environment = {"DENSENET_CACHE": str(material.empty())}
    weights = material.tiny_weights()
    names = material.tiny_images(most)
    samples = {}
    for count in (10, most // 100, most // 10, most):  # the first makes the graph
        folder = material.empty()
        listed = folder / "images.txt"
        with names.open() as lines, listed.open("w") as file:
            file.writelines(islice(lines, count))
        arguments = ["--files-from", str(listed), "--weights", str(weights), "-o", str(folder / output)]
        samples[count] = run([*DENSENET, command, *arguments], environment)
    del samples[10]
    return samples


def _table(name: str, most: int, samples: dict[int, Run], note: str) -> Table:
    growth = megabytes_of(samples[most]) / megabytes_of(samples[most // 100])
    rows = [
        (f"{count:,}", f"{megabytes_of(sample):.1f} MB", f"{count / sample.seconds:,.0f}")
        for count, sample in samples.items()
    ]
    rows.append(("last over first", f"**{growth:.3f}**", f"{GROWTH} at most ({verdict(growth, most=GROWTH)})"))
    return Table(name, ("Images", "peak memory", "images/s"), tuple(rows), note)


if __name__ == "__main__":
    alone(measure)
