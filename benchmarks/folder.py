"""A folder of photographs: the whole command beside its own engine fed from memory, numpy, and Keras over tf.data."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, median

import processes
from material import Material
from processes import DENSENET, memory_of, run, script, seconds_of, spread
from report import Table, verdict
from suite import Effort, alone

BATCHES = (1, 4, 8, 16, 32)
APART = "apart"
MODES = (*map(str, BATCHES), APART)
OF_THE_ENGINE = 0.9


def multiply_adds() -> int:
    """Of DenseNet-121 for one image, the transitions' pools moved before their convolutions: a quarter of those."""
    from densenet_cli.layers import layers
    from densenet_cli.variants import VARIANTS

    return sum(
        layer.multiply_adds // (4 if layer.name.startswith("pool") else 1) for layer in layers(VARIANTS["121"].config)
    )


def measure(material: Material, effort: Effort) -> list[Table]:
    """Images per second of a folder."""
    weights, count = material.weights(), effort.of(1000, 60)
    folder = material.photographs(count)
    environment = {"DENSENET_CACHE": str(material.empty())}
    ours = [*DENSENET, "predict", str(folder), "--weights", str(weights), "-o"]
    rounds = effort.of(2, 1)
    run([*DENSENET, "predict", str(next(folder.iterdir())), "--weights", str(weights)], environment)
    command, keras, products = [], [], []
    bare: dict[str, list[float]] = {mode: [] for mode in MODES}
    for _ in range(rounds):
        command.append(run([*ours, str(material.empty() / "x.jsonl")], environment))
        # In turn with the command, all sizes each time: the machine is as warm for one as for the other.
        rates = processes.answer(script("bare_engine", weights, effort.of(320, 32), *BATCHES), environment)
        for mode in MODES:
            bare[mode].append(rates[mode])
        # A build of BLAS that was told of another processor would make the comparison meaningless.
        products.append(processes.answer(script("matrix_product"), BLAS))
        keras.append(run(script("keras_folder", weights, folder, material.empty() / "keras.jsonl")))
    engine = {mode: median(rates) for mode, rates in bare.items()}
    apart = engine.pop(APART)
    best = max(engine, key=lambda mode: engine[mode])
    rate, keras_rate = count / seconds_of(command), count / seconds_of(keras)
    share, ratio = rate / engine[best], rate / keras_rate
    work = 2 * multiply_adds() / 1e9
    rows = (
        ("the whole command, `-o x.jsonl`", f"{rate:.1f}", spread(command), f"{memory_of(command):.0f} MB"),
        ("Keras, `model.predict` over tf.data", f"{keras_rate:.1f}", spread(keras), f"{memory_of(keras):.0f} MB"),
        *((f"the engine alone, batch {mode}", f"{engine[mode]:.1f}", "", "") for mode in engine),
        ("the engine alone, an image a thread", f"{apart:.1f}", "", ""),
        ("the command, of the engine at its best batch size", f"**{share:.1%}**", "", ""),
        ("target", f"{OF_THE_ENGINE:.0%} ({verdict(share, least=OF_THE_ENGINE)})", "", ""),
        ("the command, of the engine with an image a thread", f"{rate / apart:.1%}", "", ""),
        ("the command, times Keras", f"**{ratio:.2f}**", "", f"1/{memory_of(keras) / memory_of(command):.1f}"),
    )
    columns = (f"{count:,} photographs", "images/s", "whole run, s", "peak memory")
    note = (
        f"Medians of {rounds} rounds, in each of them all of these in turn. Rates of the two commands are of whole "
        f"processes, start and end included; the photographs have {_mean_size(folder):.0f} kB on average."
    )
    arithmetic = (
        ("the engine alone, at its best batch size", f"{engine[best] * work:.0f}"),
        ("the engine alone, an image a thread", f"{apart * work:.0f}"),
        ("the whole command", f"{rate * work:.0f}"),
        ("numpy's float32 matrix product, 2,048 x 2,048", f"{median(products):.0f}"),
    )
    return [
        Table("folder", columns, rows, note),
        Table(
            "arithmetic",
            ("Arithmetic", "GFLOP/s"),
            arithmetic,
            f"{multiply_adds() / 1e9:.3f} G multiply-adds an image, counted as two operations each.",
        ),
    ]


BLAS = {"OPENBLAS_CORETYPE": None, "OPENBLAS_L2_SIZE": None}


def _mean_size(photographs: Path) -> float:
    """In kB."""
    return mean(path.stat().st_size for path in photographs.iterdir()) / 1000


if __name__ == "__main__":
    alone(measure)
