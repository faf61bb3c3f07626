"""A folder of photographs: the whole command compared with its own engine without decoding, and with Keras."""

from __future__ import annotations

from statistics import mean, median

from inputs import Inputs
from processes import DENSENET, median_megabytes, median_seconds, run, run_json, script, seconds_range
from suite import Table, Workload, run_one, target_status

BATCH_SIZES = (1, 4, 8, 16, 32)
PER_THREAD = "one_image_per_thread"
TARGET_SHARE = 0.9
"""Throughput of the command as a share of the engine at its best batch size."""
BLAS = {"OPENBLAS_CORETYPE": None, "OPENBLAS_L2_SIZE": None}
"""Unset so that OpenBLAS detects the processor, and its speed is comparable."""


def multiply_adds() -> int:
    """Count those of DenseNet-121 for one image. Pooling before the convolution leaves a quarter in a transition."""
    from densenet_cli.layers import list_layers
    from densenet_cli.variants import VARIANTS

    return sum(
        layer.multiply_adds // (4 if layer.name.startswith("pool") else 1)
        for layer in list_layers(VARIANTS["121"].config)
    )


def measure(inputs: Inputs, workload: Workload) -> list[Table]:
    """Measure images per second for a folder."""
    weights, count = inputs.weights(), workload.count(1000, quick=60)
    folder = inputs.photographs(count)
    environment = {"DENSENET_CACHE": str(inputs.new_folder())}
    predict = [*DENSENET, "predict", str(folder), "--weights", str(weights), "-o"]
    rounds = workload.count(2, quick=1)
    run([*DENSENET, "predict", str(next(folder.iterdir())), "--weights", str(weights)], environment)
    command, keras, matrix_products = [], [], []
    engine_rates: dict[str, list[float]] = {name: [] for name in (*map(str, BATCH_SIZES), PER_THREAD)}
    for _ in range(rounds):
        command.append(run([*predict, str(inputs.new_folder() / "x.jsonl")], environment))
        rates = run_json(script("bare_engine", weights, workload.count(320, quick=32), *BATCH_SIZES), environment)
        for name, samples in engine_rates.items():
            samples.append(rates[name])
        matrix_products.append(run_json(script("matrix_product"), BLAS))
        keras.append(run(script("keras_folder", weights, folder, inputs.new_folder() / "keras.jsonl")))
    engine = {name: median(samples) for name, samples in engine_rates.items()}
    per_thread = engine.pop(PER_THREAD)
    best = max(engine.values())
    rate, keras_rate = count / median_seconds(command), count / median_seconds(keras)
    megabytes, keras_megabytes = median_megabytes(command), median_megabytes(keras)
    rows = (
        ("`densenet predict -o x.jsonl`", f"{rate:.1f}", seconds_range(command), f"{megabytes:.0f} MB"),
        ("Keras, `model.predict` with tf.data", f"{keras_rate:.1f}", seconds_range(keras), f"{keras_megabytes:.0f} MB"),
        *((f"Engine only, batch size {size}", f"{engine[size]:.1f}", "", "") for size in engine),
        ("Engine only, one image per thread", f"{per_thread:.1f}", "", ""),
        ("Command / engine at its best batch size", f"**{rate / best:.1%}**", "", ""),
        ("Target", f"at least {TARGET_SHARE:.0%} ({target_status(rate / best, minimum=TARGET_SHARE)})", "", ""),
        ("Command / engine with one image per thread", f"{rate / per_thread:.1%}", "", ""),
        ("Command / Keras", f"**{rate / keras_rate:.2f}**", "", f"{megabytes / keras_megabytes:.2f}"),
    )
    columns = (f"{count:,} photographs", "Images/s", "Range of the time, s", "Peak memory")
    mean_kilobytes = mean(path.stat().st_size for path in folder.iterdir()) / 1000
    note = (
        f"Medians of {rounds} rounds of one run each. The rates of the command and of Keras include the start and end "
        f"of the process. The mean size of a photograph is {mean_kilobytes:.0f} kB."
    )
    gigaflop = 2 * multiply_adds() / 1e9
    compute = (
        ("Engine only, best batch size", f"{best * gigaflop:.0f}"),
        ("Engine only, one image per thread", f"{per_thread * gigaflop:.0f}"),
        ("Whole command", f"{rate * gigaflop:.0f}"),
        ("NumPy float32 matrix product, 2,048 x 2,048", f"{median(matrix_products):.0f}"),
    )
    compute_note = f"{multiply_adds() / 1e9:.3f} billion multiply-adds per image, counted as two operations each."
    return [
        Table("folder", columns, rows, note),
        Table("compute", ("Compute", "GFLOP/s"), compute, compute_note),
    ]


if __name__ == "__main__":
    run_one(measure)
