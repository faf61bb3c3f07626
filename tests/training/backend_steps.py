"""Train a few steps on the backend in ``KERAS_BACKEND`` and print the losses as a line of JSON.

``python -m tests.training.backend_steps FOLDER`` expects ``FOLDER/digits`` and ``FOLDER/start.safetensors``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from densenet_cli.training import session
from densenet_cli.training.options import RunOptions
from densenet_cli.training.phases import Phase
from densenet_cli.training.run_files import RunPaths
from tests.training.images import SETTINGS


def main(folder: Path) -> None:
    import keras

    backend = keras.backend.backend()
    settings = replace(
        SETTINGS, start=str(folder / "start.safetensors"), sizes=(Phase(12, 1), Phase(16, 1)), learning_rate=0.02
    )
    losses: list[float] = []
    paths = RunPaths(folder / "digits", None, folder / backend, folder / "cache")
    options = RunOptions(on_step=lambda info: losses.append(info.loss))
    with session.open_run(paths, settings, options) as run:
        run.options = replace(options, on_epoch=lambda row: run.stop())
        run.train()
    with session.open_run(paths, settings, options, resume=True) as run:
        run.train()
    print(
        json.dumps({"backend": backend, "losses": losses, "validation": [row["val_loss"] for row in run.state.history]})
    )


main(Path(sys.argv[1]))
