"""The log of a run: a CSV file with a row an epoch, written whole so that it never holds half a row."""

from __future__ import annotations

import csv
import io
from pathlib import Path

COLUMNS = (
    "epoch", "size", "learning_rate", "loss", "accuracy", "val_loss", "val_accuracy", "val_top5", "seconds"
)  # fmt: skip


def write(path: Path, history: list[dict[str, float]]) -> None:
    """Put ``history`` in ``path``, in place of what was there."""
    text = io.StringIO()
    rows = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    rows.writeheader()
    rows.writerows({name: _short(row[name]) for name in COLUMNS} for row in history)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text.getvalue(), "utf-8")
    temporary.replace(path)


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"
