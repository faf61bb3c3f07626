"""A run's curves as a PNG."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

FILE = "curves.png"


def draw(folder: Path, history: list[dict[str, float]]) -> None:
    """Draw loss and accuracy over the epochs of ``history`` into ``folder``. Raises ``OSError``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, title, curves in (
        (left, "Loss", {"training": "loss", "validation": "val_loss"}),
        (right, "Accuracy", {"training": "accuracy", "validation": "val_accuracy", "validation, top 5": "val_top5"}),
    ):
        for label, column in curves.items():
            axes.plot(epochs, [row[column] for row in history], marker=".", label=label)
        for before, row in pairwise(history):
            if row["size"] != before["size"]:
                axes.axvline(row["epoch"] - 0.5, color="0.8", zorder=0)
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    right.set_ylim(0, 1)
    FigureCanvasAgg(figure).print_figure(folder / FILE)
