"""The log of a run: a CSV file with a row an epoch, replaced as a whole so that it never holds half a row."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from densenet_cli.output.atomic import write_file

FILE = "log.csv"
COLUMNS = ("epoch", "size", "learning_rate", "loss", "accuracy", "val_loss", "val_accuracy", "val_top5", "seconds")
"""``epoch`` counts from 1; ``seconds`` are those trained since the run's start, over all sittings."""


def write(folder: Path, history: list[dict[str, float]]) -> None:
    """Put ``history``, whose rows have ``COLUMNS``, into the log in ``folder``. Raises ``OutputError``."""
    text = io.StringIO()
    rows = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    rows.writeheader()
    rows.writerows({name: _short(row[name]) for name in COLUMNS} for row in history)
    write_file(folder / FILE, text.getvalue().encode())


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"
