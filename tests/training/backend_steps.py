"""A program: some steps on the backend that ``KERAS_BACKEND`` names, and what they gave as a line of JSON.

``python -m tests.training.backend_steps FOLDER`` expects ``FOLDER/digits`` and ``FOLDER/start.safetensors``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from densenet_cli.training import session
from densenet_cli.training.settings import Phase
from densenet_cli.training.ways import Ways
from tests.training.digits import SETTINGS


def main(folder: Path) -> None:
    import keras

    backend = keras.backend.backend()
    settings = replace(
        SETTINGS, start=str(folder / "start.safetensors"), sizes=(Phase(12, 1), Phase(16, 1)), learning_rate=0.02
    )
    losses: list[float] = []
    output = folder / backend
    place = session.Place(folder / "digits", None, output, folder / "cache", 100)
    with session.open_run(place, settings, Ways(on_step=lambda step: losses.append(step.loss))) as run:
        object.__setattr__(run._ways, "on_epoch", lambda row: run.stop())
        run.train()
    ways = Ways(on_step=lambda step: losses.append(step.loss))
    with session.open_run(place, settings, ways, resume=True) as run:
        run.train()
    print(
        json.dumps({"backend": backend, "losses": losses, "validation": [row["val_loss"] for row in run.state.history]})
    )


main(Path(sys.argv[1]))
