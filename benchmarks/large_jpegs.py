"""JPEGs of 12 megapixels, decoded at reduced scale and, with ``--exact``, at full scale."""

from __future__ import annotations

from inputs import LARGE_KINDS, Inputs
from processes import DENSENET, median_megabytes, median_seconds, run, run_json, script
from suite import Table, Workload, run_one


def measure(inputs: Inputs, workload: Workload) -> list[Table]:
    """Measure speed and accuracy of decoding at reduced scale."""
    weights, count = inputs.weights(), workload.count(48, quick=4)
    folder = inputs.large_photographs(count)
    environment = {"DENSENET_CACHE": str(inputs.new_folder())}
    predict = [*DENSENET, "predict", str(folder), "--weights", str(weights), "--format", "jsonl"]
    run(predict, environment)
    rounds = workload.count(5, quick=1)
    reduced, exact = [], []
    for _ in range(rounds):
        reduced.append(run(predict, environment))
        exact.append(run([*predict, "--exact"], environment))
    results = run_json(script("reduced_scale", weights, folder), environment)
    rows = (
        *(
            (name, f"{count / median_seconds(runs):.1f}", f"{decode_ms:.0f}", f"{median_megabytes(runs):.0f} MB")
            for name, runs, decode_ms in (
                ("Reduced scale (default)", reduced, results["reduced_ms"]),
                ("`--exact`", exact, results["exact_ms"]),
            )
        ),
        (
            "Ratio",
            f"**{median_seconds(exact) / median_seconds(reduced):.2f}**",
            f"{results['exact_ms'] / results['reduced_ms']:.1f}",
            f"{median_megabytes(exact) / median_megabytes(reduced):.1f}",
        ),
    )
    kinds = [results[kind] for kind in LARGE_KINDS]
    differences = (
        ("Maximum pixel difference (of 255)", *(str(kind["max_pixel_difference"]) for kind in kinds)),
        ("Mean pixel difference (of 255)", *(f"{kind['mean_pixel_difference']:.3f}" for kind in kinds)),
        ("Maximum difference in probability", *(f"{kind['max_probability_difference']:.4f}" for kind in kinds)),
        ("Images with the same top-1 class", *(f"{kind['same_top1']} of {kind['images']}" for kind in kinds)),
    )
    columns = (
        f"{count} JPEGs of 4000x3000",
        "Images/s, whole command",
        "Decode and resize, ms, one thread",
        "Peak memory",
    )
    note = (
        f"Medians of {rounds} rounds of one run each. Half of the images are an enlarged photograph with noise. The "
        "others are a mosaic of 64 photographs, which is sharp in every pixel and therefore the harder case."
    )
    return [
        Table("large", columns, rows, note),
        Table("reduced-scale", ("Effect of reduced scale", *(kind.capitalize() for kind in LARGE_KINDS)), differences),
    ]


if __name__ == "__main__":
    run_one(measure)
