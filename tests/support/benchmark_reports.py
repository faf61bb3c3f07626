"""Benchmark reports with given times."""

from __future__ import annotations

from densenet_cli.benchmarking.report import BenchmarkCase, BenchmarkReport, CommandTiming, Machine, Summary

MACHINE = Machine(
    "A processor (family 1, model 2)", 2, 0.1, 8 * 10**9, "Linux 6, x86_64", "3.11.7", {"onnxruntime": "1"}
)


def make_report(
    rates: dict[tuple[int | None, int], list[float]],
    default_settings=(8, 2),
    precisions=None,
    random_weights=True,
    agreement=None,
) -> BenchmarkReport:
    """Make a report.

    ``rates`` maps (batch size, threads) to end-to-end images per second, equal for each engine. The batch size is None
    for one image per thread. ``precisions`` maps engines to precisions.
    """
    precisions = precisions or {"tensorflow": "float32"}
    times: dict[BenchmarkCase, tuple[float, ...]] = {}
    for engine in precisions:
        for threads in sorted({threads for _, threads in rates}):
            times[BenchmarkCase(engine, threads, "predict")] = (0.051, 0.05, 0.052)
            times[BenchmarkCase(engine, threads, "decode")] = (0.004, 0.005)
            times[BenchmarkCase(engine, threads, "inference")] = (0.04, 0.05, 0.045)
            for batch_size, case_threads in rates:
                if case_threads == threads:
                    times[BenchmarkCase(engine, threads, "inference", batch_size)] = (0.03, 0.031)
                    times[BenchmarkCase(engine, threads, "end_to_end", batch_size)] = tuple(
                        1 / rate for rate in rates[batch_size, threads]
                    )
    return BenchmarkReport(
        model="densenet121",
        machine=MACHINE,
        images={"synthetic": True, "count": 8, "failed": {}, "mean_bytes": 110_000, "mean_pixels": 187_500},
        settings={"random_weights": random_weights, "input_size": 224, "crops": 1, "preprocess": "crop"},
        rounds=3,
        default_settings=default_settings,
        commands=tuple(
            CommandTiming(engine, images, Summary.of([0.25, 0.26]), Summary.of([1.5e8]) if images == 1 else None)
            for images in (1, 48)
            for engine in precisions
        ),
        times=times,
        precisions=precisions,
        agreement=agreement,
    )
