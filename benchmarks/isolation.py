"""``--isolate`` and ``--timeout`` compared with a run without them: folders, a new process, and one worker."""

from __future__ import annotations

from inputs import Inputs
from processes import DENSENET, median_megabytes, median_seconds, run, run_json, script
from suite import Table, Workload, run_one

from densenet_cli.benchmarking.processes import ProcessResult

OPTIONS = {"No isolation": [], "`--isolate`": ["--isolate"], "`--timeout 60`": ["--timeout", "60"]}


def measure(inputs: Inputs, workload: Workload) -> list[Table]:
    """Measure what decoding in worker processes costs."""
    count, rounds, starts = workload.count(500, quick=40), workload.count(5, quick=1), workload.count(25, quick=2)
    folder = inputs.photographs(count)
    photograph = sorted(folder.iterdir())[0]
    environment = {"DENSENET_CACHE": str(inputs.new_folder())}
    predict = [*DENSENET, "predict", "--format", "jsonl", "--weights"]
    densenet121, small = ([*predict, str(weights)] for weights in (inputs.weights(), inputs.small_weights()))
    run([*densenet121, str(photograph)], environment)
    run([*small, str(photograph)], environment)
    whole = _run_in_turn([*densenet121, str(folder)], environment, rounds)
    decoding = _run_in_turn([*small, str(folder)], environment, rounds)
    single = _run_in_turn([*densenet121, str(photograph)], environment, starts)
    rows = [
        (
            name,
            *_cells(whole, name, f"{count / median_seconds(whole[name]):.1f}"),
            *_cells(decoding, name, f"{count / median_seconds(decoding[name]):.0f}"),
            *_cells(single, name, f"{median_seconds(single[name]):.3f}"),
            f"{median_megabytes(whole[name]):.0f} MB",
        )
        for name in OPTIONS
    ]
    columns = (
        f"{count} photographs",
        "DenseNet-121, images/s",
        "Relative time",
        "Small network, images/s",
        "Relative time",
        "One image, new process, s",
        "Relative time",
        "Peak memory without workers",
    )
    note = (
        f"Medians of {rounds} rounds ({starts} for one image) of one run each, of whole processes. The small network "
        "takes almost no time, so what remains is decoding."
    )
    return [Table("isolation", columns, tuple(rows), note), _measure_worker(photograph, workload)]


def _run_in_turn(command: list[str], environment: dict[str, str], rounds: int) -> dict[str, list[ProcessResult]]:
    results: dict[str, list[ProcessResult]] = {name: [] for name in OPTIONS}
    for _ in range(rounds):
        for name, options in OPTIONS.items():
            results[name].append(run([*command, *options], environment))
    return results


def _cells(results: dict[str, list[ProcessResult]], name: str, value: str) -> tuple[str, str]:
    """Return a value, and the time relative to no isolation."""
    relative = median_seconds(results[name]) / median_seconds(results["No isolation"])
    return value, f"**{relative:.2f}**" if OPTIONS[name] else ""


def _measure_worker(photograph: object, workload: Workload) -> Table:
    rounds = workload.count(21, quick=3)
    results = run_json(script("isolated_worker", photograph, rounds))
    rows = (
        ("Decode one photograph in the main process, ms", f"{results['main_process_ms']:.2f}"),
        ("Decode it in a worker and return the pixels, ms", f"{results['worker_ms']:.2f}"),
        ("Start a worker, ms", f"{results['start_ms']:.0f}"),
        ("An image that crashes two workers, and the next image in a third, ms", f"{results['crash_ms']:.0f}"),
        ("Unshared memory of an idle worker", f"{results['memory'] / 1e6:.0f} MB"),
    )
    note = f"Medians of {rounds} ({30 * rounds} for decoding)."
    return Table("isolation-worker", ("Worker process", "Median"), rows, note)


if __name__ == "__main__":
    run_one(measure)
