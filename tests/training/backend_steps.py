"""Train a few steps on the backend in ``KERAS_BACKEND`` and print the losses as a line of JSON.

``python -m tests.training.backend_steps FOLDER`` expects ``FOLDER/digits``, the table ``FOLDER/labels.csv`` of these
images, and the initial weights ``FOLDER/start.safetensors`` and ``FOLDER/start-multi-label.safetensors``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from densenet_cli.training import session
from densenet_cli.training.options import RunOptions
from densenet_cli.training.phases import Phase
from densenet_cli.training.run_files import RunPaths
from tests.training.images import SETTINGS

RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "fine-tuning": {
        **{"backbone_rate": 0.1, "freeze": "conv1", "unfreeze_after": 1},
        **{"clip_norm": 0.5, "class_weights": True, "mixup": 0.2},
    },
    "multi-label": {"multi_label": True, "class_weights": True, "label_smoothing": 0.05, "backbone_rate": 0.1},
}
"""Name -> settings that differ from the others."""


def main(folder: Path) -> None:
    import keras

    backend = keras.backend.backend()
    results = {name: train(folder, folder / backend / name, settings) for name, settings in RUNS.items()}
    print(json.dumps({"backend": backend, "runs": results}))


def train(folder: Path, output: Path, values: dict[str, Any]) -> dict[str, list[float]]:
    """Train two epochs, with an interruption between them."""
    settings = replace(
        SETTINGS,
        start=str(folder / ("start-multi-label.safetensors" if values.get("multi_label") else "start.safetensors")),
        sizes=(Phase(12, 1), Phase(16, 1)),
        learning_rate=0.02,
        **values,
    )
    losses: list[float] = []
    paths = RunPaths(folder / "digits", None, output, folder / "cache")
    if settings.multi_label:
        paths = replace(paths, train=None, csv=folder / "labels.csv")
    options = RunOptions(on_step=lambda info: losses.append(info.loss))
    with session.open_run(paths, settings, options) as run:
        run.options = replace(options, on_epoch=lambda row: run.stop())
        run.train()
    with session.open_run(paths, settings, options, resume=True) as run:
        run.train()
    return {"losses": losses, "validation": [row["val_loss"] for row in run.state.history]}


main(Path(sys.argv[1]))
