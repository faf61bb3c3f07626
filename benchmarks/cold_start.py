"""One image, a fresh process: ``densenet predict photo.jpg`` beside a Keras script, and where its time goes."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from statistics import median

from material import Material
from processes import DENSENET, memory_of, run, script, seconds_of, spread
from report import Table, verdict
from suite import Effort, alone

from densenet_cli.benchmarking.processes import ProcessResult as Run

FASTER, LIGHTER = 25, 5


def measure(material: Material, effort: Effort) -> list[Table]:
    """Time and memory of one image in a fresh process."""
    weights = material.weights()
    image = sorted(material.photographs(2).iterdir())[0]
    environment = {"DENSENET_CACHE": str(material.empty())}
    ours = [*DENSENET, "predict", str(image), "--weights", str(weights)]
    keras = script("keras_script", weights, image)
    _check_same_answer(run([*ours, "--preprocess", "keras", "--format", "json"], environment), run(keras))
    rounds = effort.of(11, 2)
    command, reference = [], []
    run(ours, environment)
    for _ in range(rounds):
        reference.append(run(keras))
        # Several of ours to one of theirs: a round takes little longer, and its median says more.
        command += [run(ours, environment) for _ in range(5)]
    faster = seconds_of(reference) / seconds_of(command)
    lighter = memory_of(reference) / memory_of(command)
    rows = (
        ("`densenet predict photo.jpg`", _seconds(command), spread(command), f"{memory_of(command):.0f} MB"),
        ("the Keras script", _seconds(reference), spread(reference), f"{memory_of(reference):.0f} MB"),
        ("ratio", f"**{faster:.1f}**", "", f"**{lighter:.1f}**"),
        (
            "target",
            f"{FASTER} ({verdict(faster, least=FASTER)})",
            "",
            f"{LIGHTER} ({verdict(lighter, least=LIGHTER)})",
        ),
    )
    note = (
        f"Medians of {rounds} rounds, each of one Keras script and then five runs of the command. The graph was "
        "cached before. With `--preprocess keras` the command gave the script's five numbers (checked)."
    )
    columns = ("One image, a fresh process", "median, s", "fastest to slowest, s", "peak memory")
    return [
        Table("cold-start", columns, rows, note),
        _phases(material, environment, effort),
        _imports(ours, environment),
    ]


def _seconds(samples: list[Run]) -> str:
    return f"{seconds_of(samples):.3f}"


def _check_same_answer(ours: Run, keras: Run) -> None:
    """Both name the same five classes with the same probabilities: otherwise there is nothing to compare."""
    got = [(label["index"], label["probability"]) for label in json.loads(ours.stdout)[0]["predictions"]]
    expected = [(int(i), float(p) / 100) for i, p in re.findall(r"^ *(\d+) ([\d.]+)%$", keras.stdout, re.MULTILINE)]
    same = [index for index, _ in got] == [index for index, _ in expected]
    if not same or any(abs(a[1] - b[1]) > 2e-5 for a, b in zip(got, expected, strict=True)):
        sys.exit(f"The two don't give the same answer:\n{got}\n{expected}")


def _phases(material: Material, environment: dict[str, str], effort: Effort) -> Table:
    image = sorted(material.photographs(2).iterdir())[0]
    command = script("phases", material.weights(), image)
    rounds = effort.of(21, 3)
    bare = [run([sys.executable, "-c", "pass"]) for _ in range(rounds)]
    runs = [json.loads(run(command, environment).stdout.splitlines()[-1]) for _ in range(rounds)]
    steps = [("Python, starting and ending", seconds_of(bare) * 1e3)]
    steps += [(steps_[0][0], median(time for _, time in steps_)) for steps_ in zip(*runs, strict=True)]
    rows = [(step, f"{time:.1f}") for step, time in steps]
    rows.append(("together", f"{sum(time for _, time in steps):.0f}"))
    note = (
        f"Medians of {rounds} processes that take the steps one after the other; the command decodes beside the "
        "session's loading, so it takes a little less than the sum."
    )
    return Table("phases", ("Step of a cold start", "ms"), tuple(rows), note)


def _imports(command: list[str], environment: dict[str, str]) -> Table:
    """What ``-X importtime`` says, by package."""
    process = [sys.executable, "-c", IMPORTS, *command[1:]]
    times: Counter[str] = Counter()
    modules: Counter[str] = Counter()
    for line in run(process, environment).stdout.splitlines():
        if match := re.fullmatch(r"import time: +(\d+) \| +\d+ \| +(\S+)", line):
            package = match[2].partition(".")[0]
            package = "standard library" if package in sys.stdlib_module_names else package
            times[package] += int(match[1])
            modules[package] += 1
    rows = tuple((package, str(modules[package]), f"{time / 1e3:.1f}") for package, time in times.most_common(8))
    note = "One process under `python -X importtime`, which itself makes imports slower; self time, by package."
    return Table("imports", ("Imported", "modules", "ms"), rows, note)


IMPORTS = (
    "import subprocess, sys; sys.stdout.write(subprocess.run([sys.executable, '-X', 'importtime', '-m', "
    "'densenet_cli', *sys.argv[1:]], capture_output=True, text=True, check=True).stderr)"
)
"""Runs the command and prints what importtime put on standard error."""

if __name__ == "__main__":
    alone(measure)
