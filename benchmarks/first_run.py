"""The first run with a new checkpoint, which reads it, and emits, optimizes, and caches its graph."""

from __future__ import annotations

from inputs import Inputs
from processes import DENSENET, median_megabytes, median_seconds, run, script, seconds_range
from suite import Table, Workload, run_one, target_status

TARGET_SPEEDUP = 5


def measure(inputs: Inputs, workload: Workload) -> list[Table]:
    """Measure time and memory of one image with an empty cache."""
    weights = inputs.weights()
    image = sorted(inputs.photographs(2).iterdir())[0]
    predict = [*DENSENET, "predict", str(image), "--weights", str(weights)]
    keras_script = script("keras_script", weights, image)
    rounds = workload.count(7, quick=2)
    command, keras = [], []
    for round_ in range(rounds + 1):
        results = run(keras_script), run(predict, {"DENSENET_CACHE": str(inputs.new_folder())})
        if round_ > 0:  # the first round reads files from disk, the others from the system's cache
            keras.append(results[0])
            command.append(results[1])
    speedup = median_seconds(keras) / median_seconds(command)
    memory_ratio = median_megabytes(keras) / median_megabytes(command)
    rows = (
        *(
            (name, f"{median_seconds(results):.2f}", seconds_range(results), f"{median_megabytes(results):.0f} MB")
            for name, results in (("`densenet predict`, empty cache", command), ("Keras script", keras))
        ),
        ("Ratio", f"**{speedup:.1f}**", "", f"{memory_ratio:.1f}"),
        ("Target", f"at least {TARGET_SPEEDUP} ({target_status(speedup, minimum=TARGET_SPEEDUP)})", "", ""),
    )
    columns = ("First run with a checkpoint", "Median, s", "Range, s", "Peak memory")
    return [Table("first-run", columns, rows, f"Medians of {rounds} rounds of one run each.")]


if __name__ == "__main__":
    run_one(measure)
