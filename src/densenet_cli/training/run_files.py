"""A run's state in one file, replaced as a whole: a run killed at any moment finds the last one entire."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from densenet_cli.errors import UsageError
from densenet_cli.output.atomic import write_file

if TYPE_CHECKING:
    StateArrays = dict[str, np.ndarray[Any, np.dtype[Any]]]

FILE = "state.npz"
HEAD = "head"


@dataclass
class State:
    """Where a run stands, between two steps.

    Attributes:
        settings: of the run, ``Settings.to_dict()``.
        classes: names of the class folders.
        data: fingerprint of the images.
        epoch, batch: the next batch to train on, both counted from 0.
        loss, correct, seen: sums over the images of the epoch so far.
        seconds: trained so far, over all sittings.
        best, best_epoch: highest validation accuracy so far, and the epoch, counted from 1, that it came from.
        stopped: training ended early, for want of progress.
        updates: of the averaged weights.
        history: a row of the log for each finished epoch.
        arrays: name -> array: weights, optimizer, averaged weights.
    """

    settings: dict[str, Any]
    classes: list[str]
    data: str
    epoch: int = 0
    batch: int = 0
    loss: float = 0.0
    correct: float = 0.0
    seen: int = 0
    seconds: float = 0.0
    best: float = -1.0
    best_epoch: int = 0
    stopped: bool = False
    updates: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    arrays: StateArrays = field(default_factory=dict)


def save(folder: Path, state: State) -> None:
    """Put ``state`` in the place of the one in ``folder``, in one go. Raises ``OutputError``."""
    head = json.dumps(asdict(replace(state, arrays={}))).encode()
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **state.arrays, **{HEAD: np.frombuffer(head, np.uint8)})
    write_file(folder / FILE, buffer.getvalue())


def load(folder: Path) -> State:
    """The state in ``folder``. Raises ``UsageError`` where there is none, or another version's."""
    path = folder / FILE
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        state = State(**json.loads(arrays.pop(HEAD).tobytes()))
    except FileNotFoundError:
        raise UsageError(f"There is no run to resume in {folder}.") from None
    except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is not the state of a run ({error}).") from None
    state.arrays = arrays
    return state
