"""Peak memory of predict and embed at 1,000 and at 100,000 images, which must be the same."""

from __future__ import annotations

from itertools import islice

from inputs import Inputs
from processes import DENSENET, megabytes, run
from suite import Table, Workload, run_one, target_status

from densenet_cli.benchmarking.processes import ProcessResult

MAX_GROWTH = 1.1
NOTE = (
    "One run each with `--files-from` and `-o {output}`, images of 48x48 (hard links to ten files), and a network of a "
    "few layers, so that only the number of images is large."
)


def measure(inputs: Inputs, workload: Workload) -> list[Table]:
    """Measure peak memory by the number of images."""
    count = workload.count(100_000, quick=3_000)
    return [
        _table("memory", _run_counts(inputs, count, "predict", "x.jsonl"), NOTE.format(output="x.jsonl")),
        _table("memory_embed", _run_counts(inputs, count, "embed", "x.npz"), NOTE.format(output="x.npz")),
    ]


def _run_counts(inputs: Inputs, max_count: int, command: str, output: str) -> dict[int, ProcessResult]:
    """Run the command on a hundredth, a tenth, and all of the images."""
    environment = {"DENSENET_CACHE": str(inputs.new_folder())}
    weights = inputs.small_weights()
    all_images = inputs.small_images(max_count)
    results = {}
    for count in (10, max_count // 100, max_count // 10, max_count):  # the first run caches the graph
        folder = inputs.new_folder()
        image_list = folder / "images.txt"
        with all_images.open() as lines, image_list.open("w") as file:
            file.writelines(islice(lines, count))
        arguments = ["--files-from", str(image_list), "--weights", str(weights), "-o", str(folder / output)]
        results[count] = run([*DENSENET, command, *arguments], environment)
    del results[10]
    return results


def _table(name: str, results: dict[int, ProcessResult], note: str) -> Table:
    growth = megabytes(results[max(results)]) / megabytes(results[min(results)])
    rows = [
        (f"{count:,}", f"{megabytes(result):.1f} MB", f"{count / result.seconds:,.0f}")
        for count, result in results.items()
    ]
    rows.append(("Ratio of last to first", f"**{growth:.3f}**", ""))
    rows.append(("Target", f"at most {MAX_GROWTH} ({target_status(growth, maximum=MAX_GROWTH)})", ""))
    return Table(name, ("Images", "Peak memory", "Images/s"), tuple(rows), note)


if __name__ == "__main__":
    run_one(measure)
