"""Recorded files of Keras (see ``tests/data/make_keras.py``), and changes of their configurations."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py

ARCHIVE = Path(__file__).parents[1] / "data" / "keras2.zip"
"""Files of Keras 2."""

Edit = Callable[[Any], Any]
"""Changes a parsed configuration, or returns another one."""


def extract(name: str, folder: Path) -> Path:
    """Write a recorded file to a folder and return its path."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        return Path(archive.extract(name, folder))


def edit_h5(source: Path, target: Path, edit: Edit, attribute: str = "model_config") -> Path:
    """Copy an ``.h5`` file and change an attribute, which is JSON."""
    target.write_bytes(source.read_bytes())
    with h5py.File(target, "a") as file:
        value = json.loads(file.attrs[attribute])
        file.attrs[attribute] = json.dumps(edit(value) or value)
    return target


def edit_archive(source: Path, target: Path, edit: Edit) -> Path:
    """Copy a ``.keras`` file and change its configuration."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as changed:
        for name in archive.namelist():
            data = archive.read(name)
            if name == "config.json":
                value = json.loads(data)
                data = json.dumps(edit(value) or value).encode()
            changed.writestr(name, data)
    return target
