"""Put what was measured into the model card: ``python scripts/tiny_card.py MEASURED LOG.csv...``.

The folder ``MEASURED`` holds what ``densenet evaluate tiny-imagenet/test --variant tiny -o MEASURED/report.json --plots
MEASURED`` wrote; the logs are those of the training runs, in their order. Written are the part of
``docs/models/tiny.md`` between two marks, the table of all classes, and two images.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from densenet_cli.training import curves

MODELS = Path(__file__).parents[1] / "docs/models"
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
NAMED = 10
"""Classes and pairs that the card itself names."""


def main(measured: Path, logs: list[Path]) -> None:
    """Write all of it."""
    report = json.loads((measured / "report.json").read_text())
    rows = [row for log in logs for row in csv.DictReader(log.open())]
    history = [{key: float(value) for key, value in row.items()} | {"epoch": n} for n, row in enumerate(rows, start=1)]
    card = MODELS / "tiny.md"
    before, rest = card.read_text().split(BEGIN)
    parts = [BEGIN, _accuracy(report), _classes(report), _epochs(history), END + rest.split(END)[1]]
    card.write_text(before + "\n\n".join(parts))
    (MODELS / "tiny-classes.md").write_text(_all_classes(report))
    curves.draw(MODELS, history)
    (MODELS / curves.FILE).replace(MODELS / "tiny-curves.png")
    shutil.copyfile(measured / "reliability_diagram.png", MODELS / "tiny-reliability.png")


def _table(titles: str, rows: list[tuple[Any, ...]]) -> str:
    columns = titles.split(", ")
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _accuracy(report: dict[str, Any]) -> str:
    top1, top5 = (
        f"**{share['value']:.1%}** ({share['low']:.1%} to {share['high']:.1%})"
        for share in (report["top1"], report["top5"])
    )
    rows = [
        ("top-1", top1),
        ("top-5", top5),
        ("negative log-likelihood", f"{report['negative_log_likelihood']:.3f} nats"),
        ("expected calibration error, 15 bins", f"{report['calibration_error']:.3f}"),
        ("precision, recall, F1 (mean of the classes)", ", ".join(f"{v:.1%}" for v in report["macro"].values())),
    ]
    return (
        f"## Accuracy\n\nOn the {report['images']:,} test images, measured once, with `densenet evaluate`; in "
        f"brackets the intervals of 95 % confidence.\n\n{_table('measure, value', rows)}\n\n"
        "![How often it is right against how sure it is](tiny-reliability.png)"
    )


def _classes(report: dict[str, Any]) -> str:
    ranked = sorted(report["per_class"], key=lambda row: -row["f1"])
    best, worst = (
        ", ".join(f"{row['label']} ({row['f1']:.0%})" for row in rows)
        for rows in (ranked[:NAMED], ranked[: -NAMED - 1 : -1])
    )
    pairs = [
        (pair["true"]["label"], pair["predicted"]["label"], f"{pair['count']} ({pair['share']:.0%})")
        for pair in report["most_confused"][:NAMED]
    ]
    return (
        f"### Classes\n\nBest by F1: {best}.\n\nWorst: {worst}.\n\n[All of them](tiny-classes.md). Most often "
        f"taken for another:\n\n{_table('what it is, taken for, images', pairs)}"
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
    titles = "epoch, size, training loss, accuracy on augmented images, validation top-1, top-5"
    return f"## Curves\n\n![Loss and accuracy over the epochs](tiny-curves.png)\n\n{_table(titles, rows)}"


def _all_classes(report: dict[str, Any]) -> str:
    rows = [
        (
            *(row[name] for name in ("index", "id", "label", "images")),
            *(f"{row[name] or 0:.0%}" for name in ("precision", "recall", "f1")),
        )
        for row in sorted(report["per_class"], key=lambda row: -row["f1"])
    ]
    return (
        f"# The classes of tiny\n\nOn the {report['images']:,} test images, the best by F1 first. "
        "`scripts/tiny_card.py` writes this page; the model is described [here](tiny.md).\n\n"
        f"{_table('index, WordNet id, label, images, precision, recall, F1', rows)}\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(log) for log in sys.argv[2:]])
