"""12-megapixel JPEGs, decoded at reduced scale and, with ``--exact``, in full: what each costs."""

from __future__ import annotations

import processes
from material import LARGE_KINDS, Material
from processes import DENSENET, memory_of, run, script, seconds_of
from report import Table
from suite import Effort, alone


def measure(material: Material, effort: Effort) -> list[Table]:
    """Speed and exactness of reduced-scale decoding."""
    weights, count = material.weights(), effort.of(48, 4)
    folder = material.large_photographs(count)
    environment = {"DENSENET_CACHE": str(material.empty())}
    ours = [*DENSENET, "predict", str(folder), "--weights", str(weights), "--format", "jsonl"]
    run(ours, environment)
    rounds = effort.of(5, 1)
    reduced, exact = [], []
    for _ in range(rounds):
        reduced.append(run(ours, environment))
        exact.append(run([*ours, "--exact"], environment))
    found = processes.answer(script("reduced_scale", weights, folder), environment)
    rows = (
        (
            "reduced scale (the default)",
            f"{count / seconds_of(reduced):.1f}",
            f"{found['reduced_ms']:.0f}",
            f"{memory_of(reduced):.0f} MB",
        ),
        (
            "`--exact`",
            f"{count / seconds_of(exact):.1f}",
            f"{found['exact_ms']:.0f}",
            f"{memory_of(exact):.0f} MB",
        ),
        (
            "ratio",
            f"**{seconds_of(exact) / seconds_of(reduced):.2f}**",
            f"{found['exact_ms'] / found['reduced_ms']:.1f}",
            f"{memory_of(exact) / memory_of(reduced):.1f}",
        ),
    )
    kinds = [found[kind] for kind in LARGE_KINDS]
    costs = (
        ("largest difference of a pixel, of 255", *(str(kind["largest_pixel"]) for kind in kinds)),
        ("mean difference of a pixel, of 255", *(f"{kind['mean_pixel']:.3f}" for kind in kinds)),
        ("largest difference of a probability", *(f"{kind['largest_probability']:.4f}" for kind in kinds)),
        ("images with the same first label", *(f"{kind['same_first']} of {kind['images']}" for kind in kinds)),
    )
    columns = (
        f"{count} JPEGs of 4000x3000",
        "images/s, whole command",
        "decode and resize, ms, one thread",
        "peak memory",
    )
    note = (
        f"Medians of {rounds} rounds, one of each in turn. In turn the images are a photograph enlarged, with grain, "
        "and a mosaic of 64 photographs, sharp in every pixel: the harder case."
    )
    return [
        Table("large", columns, rows, note),
        Table("reduced-scale", ("What reduced scale changes", *LARGE_KINDS), costs),
    ]


if __name__ == "__main__":
    alone(measure)
