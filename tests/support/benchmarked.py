"""Reports of speed without measuring any: times that a test says."""

from __future__ import annotations

from densenet_cli.benchmarking.machine import Machine
from densenet_cli.benchmarking.report import Cell, Command, Report
from densenet_cli.benchmarking.statistics import Summary

MACHINE = Machine(
    "A processor (family 1, model 2)", 2, 0.1, 8 * 10**9, "Linux 6, x86_64", "3.11.7", {"onnxruntime": "1"}
)


def report(rates: dict[tuple[int, int], list[float]], default=(8, 2), engines=("onnx",), random_weights=True) -> Report:
    """``rates`` are images per second of both together, by (batch size, threads), in every engine."""
    times: dict[Cell, tuple[float, ...]] = {}
    for engine in engines:
        for threads in sorted({threads for _, threads in rates}):
            times[Cell(engine, threads, "answer")] = (0.051, 0.05, 0.052)
            times[Cell(engine, threads, "decoding")] = (0.004, 0.005)
            times[Cell(engine, threads, "engine")] = (0.04, 0.05, 0.045)
            for batch_size, own in rates:
                if own == threads:
                    times[Cell(engine, threads, "engine", batch_size)] = (0.03, 0.031)
                    times[Cell(engine, threads, "together", batch_size)] = tuple(
                        1 / rate for rate in rates[batch_size, threads]
                    )
    return Report(
        model="densenet121",
        machine=MACHINE,
        images={"made": True, "count": 8, "unusable": {}, "mean_bytes": 110_000, "mean_pixels": 187_500},
        settings={"random_weights": random_weights, "input_size": 224, "crops": 1, "preprocess": "crop"},
        rounds=3,
        default=default,
        commands=tuple(
            Command(engine, images, Summary.of([0.25, 0.26]), Summary.of([1.5e8]) if images == 1 else None)
            for images in (1, 48)
            for engine in engines
        ),
        times=times,
    )
