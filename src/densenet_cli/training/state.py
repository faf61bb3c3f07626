"""A run's state in one file, replaced as a whole: a run killed at any moment finds the last one entire."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class State:
    """Where a run stands.

    Attributes:
        epoch, batch: the next batch to train on, both counted from 0.
        seconds: trained so far, over all sittings.
        best: highest validation accuracy so far, and ``best_epoch`` the epoch it came from.
        history: the finished epochs' rows.
        settings: of the run, ``Settings.to_dict()``.
        arrays: name -> array: weights, optimizer, running metrics, averages.
    """

    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    best: float = -1.0
    best_epoch: int = -1
    history: list[dict[str, float]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def save(path: Path, state: State) -> None:
    """Write ``state`` beside ``path``, flush it to the disk, then take ``path``'s place."""
    arrays = state.arrays
    head = asdict(State(**{**vars(state), "arrays": {}}))
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        np.savez(file, **arrays, **{"#": np.frombuffer(json.dumps(head).encode(), np.uint8)})
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load(path: Path) -> State:
    """The state that ``save`` wrote."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    state = State(**json.loads(arrays.pop("#").tobytes()))
    state.arrays = arrays
    return state
