"""``--isolate`` and ``--timeout`` beside the same run without them: folders, a fresh process, a worker."""

from __future__ import annotations

import processes
from material import Material
from processes import DENSENET, memory_of, run, script, seconds_of
from report import Table
from suite import Effort, alone

from densenet_cli.benchmarking.processes import ProcessResult as Run

MODES = {"without": [], "`--isolate`": ["--isolate"], "`--timeout 60`": ["--timeout", "60"]}


def measure(material: Material, effort: Effort) -> list[Table]:
    """What decoding in processes of its own costs."""
    count, rounds, starts = effort.of(500, 40), effort.of(5, 1), effort.of(25, 2)
    folder = material.photographs(count)
    photograph = sorted(folder.iterdir())[0]
    environment = {"DENSENET_CACHE": str(material.empty())}
    predict = [*DENSENET, "predict", "--format", "jsonl", "--weights"]
    network, tiny = ([*predict, str(weights)] for weights in (material.weights(), material.tiny_weights()))
    run([*network, str(photograph)], environment)
    run([*tiny, str(photograph)], environment)
    whole = _in_turn([*network, str(folder)], environment, rounds)
    decoding = _in_turn([*tiny, str(folder)], environment, rounds)
    single = _in_turn([*network, str(photograph)], environment, starts)
    rows = [
        (
            mode,
            *_cells(whole, mode, f"{count / seconds_of(whole[mode]):.1f}"),
            *_cells(decoding, mode, f"{count / seconds_of(decoding[mode]):.0f}"),
            *_cells(single, mode, f"{seconds_of(single[mode]):.3f}"),
            f"{memory_of(whole[mode]):.0f} MB",
        )
        for mode in MODES
    ]
    columns = (
        f"{count} photographs",
        "DenseNet-121, images/s",
        "time",
        "a network of a few layers, images/s",
        "time",
        "one image, a fresh process, s",
        "time",
        "peak memory, workers aside",
    )
    note = (
        f"Medians of {rounds} rounds ({starts} for one image), each way once a round; whole processes, start and end "
        "included. The network of a few layers takes next to no time: what is left there is decoding."
    )
    return [Table("isolation", columns, tuple(rows), note), _worker(photograph, effort)]


def _in_turn(command: list[str], environment: dict[str, str], rounds: int) -> dict[str, list[Run]]:
    """Each way once a round."""
    found: dict[str, list[Run]] = {mode: [] for mode in MODES}
    for _ in range(rounds):
        for mode, options in MODES.items():
            found[mode].append(run([*command, *options], environment))
    return found


def _cells(found: dict[str, list[Run]], mode: str, number: str) -> tuple[str, str]:
    """A number, and how many times the time without."""
    return number, f"**{seconds_of(found[mode]) / seconds_of(found['without']):.2f}**" if MODES[mode] else ""


def _worker(photograph: object, effort: Effort) -> Table:
    rounds = effort.of(21, 3)
    found = processes.answer(script("isolated_worker", photograph, rounds))
    rows = (
        ("decoding one photograph in the command itself, ms", f"{found['here_ms']:.2f}"),
        ("decoding it in a worker, its pixels brought back, ms", f"{found['there_ms']:.2f}"),
        ("starting a worker, ms", f"{found['start_ms']:.0f}"),
        ("an image that crashes two workers, and the next one in a third, ms", f"{found['crash_ms']:.0f}"),
        ("memory of a worker between two images, that it shares with no other", f"{found['memory'] / 1e6:.0f} MB"),
    )
    note = f"Medians of {rounds} ({30 * rounds} for decoding)."
    return Table("isolation-worker", ("A worker", "median"), rows, note)


if __name__ == "__main__":
    alone(measure)
