"""Update the model card of tiny: ``python scripts/tiny_card.py RESULTS TEST LOG.csv...``.

RESULTS is a folder that ``densenet evaluate TEST --variant tiny -o RESULTS/report.json --plots RESULTS`` wrote, where
TEST is the folder with the test images. The script also measures the guarantees of the calibrated model on them. The
logs are those of the training runs, in order; without them, the curves stay as they are. The script updates the part of
``docs/concepts/models/tiny.md`` between two marks, the table of all classes, and two plots.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from densenet_cli import Classifier
from densenet_cli.calibration.decisions import ErrorLimit, LabelSets
from densenet_cli.datasets import DatasetOptions, open_dataset
from densenet_cli.evaluation.report import Proportion
from densenet_cli.labels import ClassResolver
from densenet_cli.training import run_files

MODELS = Path(__file__).parents[1] / "docs/concepts/models"
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
MAX_LISTED = 10
"""Classes and pairs that the card lists."""
COVERAGES, MAX_ERRORS = (0.8, 0.9, 0.95), (0.05, 0.1, 0.2)


def main(results: Path, test: Path, logs: list[Path]) -> None:
    """Update the pages and plots."""
    report = json.loads((results / "report.json").read_text())
    card = MODELS / "tiny.md"
    before, rest = card.read_text().split(BEGIN)
    measured, after = rest.split(END)
    curves = measured[measured.index("## Curves") :].strip()
    if logs:
        rows = [row for log in logs for row in csv.DictReader(log.open())]
        history = [
            {key: float(value or "nan") for key, value in row.items()} | {"epoch": number}
            for number, row in enumerate(rows, start=1)
        ]
        curves = _epochs(history)
        run_files.draw_curves(MODELS / "tiny-curves.png", history)
    parts = [BEGIN, _accuracy(report), _guarantees(test), _classes(report), curves, END + after]
    card.write_text(before + "\n\n".join(parts))
    (MODELS / "tiny-classes.md").write_text(_all_classes(report))
    shutil.copyfile(results / "reliability_diagram.png", MODELS / "tiny-reliability.png")


def _table(header: str, rows: list[tuple[Any, ...]]) -> str:
    columns = header.split(", ")
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _accuracy(report: dict[str, Any]) -> str:
    top1, top5 = (
        f"**{share['value']:.1%}** ({share['low']:.1%} to {share['high']:.1%})"
        for share in (report["top1"], report["top5"])
    )
    raw = report["uncalibrated"]
    rows = [
        ("top-1", top1),
        ("top-5", top5),
        (
            "negative log-likelihood",
            f"{report['negative_log_likelihood']:.3f} nats (uncalibrated: {raw['negative_log_likelihood']:.3f})",
        ),
        (
            "expected calibration error, 15 bins",
            f"{report['calibration_error']:.3f} (uncalibrated: {raw['calibration_error']:.3f})",
        ),
        ("macro precision, recall, F1", ", ".join(f"{v:.1%}" for v in report["macro"].values())),
    ]
    return (
        f"## Accuracy\n\nOn the {report['images']:,} test images, measured with `densenet evaluate`. Brackets "
        f"contain 95% confidence intervals.\n\n{_table('metric, value', rows)}\n\n"
        "![Accuracy by confidence](tiny-reliability.png)"
    )


def _guarantees(test: Path) -> str:
    classifier = Classifier("tiny")
    calibration, names = classifier.calibration, [label.name for label in classifier.labels]
    assert calibration is not None
    dataset = open_dataset(str(test), None, DatasetOptions())
    positions = ClassResolver(classifier.labels).resolve_all(dataset.classes, dataset.description)
    results = list(classifier.stream(dataset.sources(positions)))
    targets = [result.source.target for result in results]
    probabilities = np.stack([result.outputs["probabilities"] for result in results])
    images = len(results)
    set_rows: list[tuple[Any, ...]] = []
    for coverage in COVERAGES:
        row = [f"{coverage:.0%}"]
        for method in ("lac", "raps"):
            sets = np.stack(list(map(LabelSets(calibration, names, coverage, method), probabilities)))
            row += [_share(int(sets[np.arange(images), targets].sum()), images), f"{sets.sum(axis=1).mean():.1f}"]
        set_rows.append(tuple(row))
    error_rows = []
    for max_error in MAX_ERRORS:
        limit = ErrorLimit(calibration, max_error)
        is_assigned = np.stack(list(map(limit, probabilities)))
        labeled = int(is_assigned.any(axis=1).sum())
        wrong = labeled - int(is_assigned[np.arange(images), targets].sum())
        error = _share(wrong, labeled) if labeled else "none labeled"
        error_rows.append((f"{max_error:.0%}", f"{labeled / images:.1%}", error, f"{limit.thresholds[0]:.3f}"))
    return (
        "### Guarantees\n\n"
        f"The model is calibrated on its {calibration.images:,} validation images, with a temperature of "
        f"{calibration.temperature:.4f} (see [Calibrate a model](../../guides/calibration.md)). On the {images:,} test "
        "images, the sets of `--coverage` contain the true label this often:\n\n"
        + _table("`--coverage`, `lac`, labels per set, `raps`, labels per set", set_rows)
        + "\n\nOf the labels that `--max-error` allows, this share is wrong:\n\n"
        + _table("`--max-error`, labeled images, wrong labels, lowest probability", error_rows)
    )


def _share(count: int, total: int) -> str:
    low, high = Proportion(count, total).interval
    return f"{count / total:.1%} ({low:.1%} to {high:.1%})"


def _classes(report: dict[str, Any]) -> str:
    ranked = sorted(report["per_class"], key=lambda row: -row["f1"])
    best, worst = (
        ", ".join(f"{row['label']} ({row['f1']:.0%})" for row in rows)
        for rows in (ranked[:MAX_LISTED], ranked[: -MAX_LISTED - 1 : -1])
    )
    pairs = [
        (pair["true"]["label"], pair["predicted"]["label"], f"{pair['count']} ({pair['share']:.0%})")
        for pair in report["most_confused"][:MAX_LISTED]
    ]
    return (
        f"### Classes\n\nBest by F1: {best}.\n\nWorst: {worst}.\n\n[All classes](tiny-classes.md). Most frequent "
        f"confusions:\n\n{_table('true class, predicted as, images', pairs)}"
    )


def _epochs(history: list[dict[str, float]]) -> str:
    rows = [
        (
            int(row["epoch"]),
            int(row["size"]),
            f"{row['loss']:.2f}",
            *(f"{row[name]:.1%}" for name in ("accuracy", "val_accuracy", "val_top5")),
        )
        for row in history
    ]
    header = "epoch, size, training loss, training accuracy, validation top-1, validation top-5"
    return f"## Curves\n\n![Loss and accuracy over the epochs](tiny-curves.png)\n\n{_table(header, rows)}"


def _all_classes(report: dict[str, Any]) -> str:
    rows = [
        (
            *(row[name] for name in ("index", "id", "label", "images")),
            *(f"{row[name] or 0:.0%}" for name in ("precision", "recall", "f1")),
        )
        for row in sorted(report["per_class"], key=lambda row: -row["f1"])
    ]
    return (
        f"# Classes of tiny\n\nMetrics on the {report['images']:,} test images, sorted by F1. `scripts/tiny_card.py` "
        "generates this page. See also the [model card](tiny.md).\n\n"
        f"{_table('index, WordNet ID, label, images, precision, recall, F1', rows)}\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(log) for log in sys.argv[3:]])
