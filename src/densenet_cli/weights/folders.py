"""Which files of a folder, or of a repository on the Hugging Face Hub, make up a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from densenet_cli.errors import CheckpointError
from densenet_cli.text import join_names
from densenet_cli.weights.contents import CONFIG_FILE

FIXED_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.weights.h5",
)
"""The names that Hugging Face's libraries and Keras give to the checkpoint in a folder, in order of preference."""

SUFFIXES = (
    (".safetensors.index.json",),
    (".safetensors",),
    (".keras",),
    (".h5", ".hdf5"),
    (".pth", ".pt", ".bin", ".ckpt", ".pth.tar"),
)
"""Extensions of checkpoints with other names, in order of preference."""

OTHER_NAMES = {"optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state.pth", "training_args.bin"}
"""Files with such extensions that training scripts write beside a checkpoint."""


def find_in_folder(folder: Path) -> Path:
    """Return the path of the checkpoint in a folder.

    Raises:
        CheckpointError: There is no checkpoint, there are several of the same kind, or the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if _is_file(entry)]
    except OSError as error:
        raise CheckpointError(f"Cannot read {folder}: {error.strerror or error}.") from error
    return folder / choose_checkpoint(names, f"The folder {folder}")


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a loop of links
        return False


def choose_checkpoint(names: Iterable[str], location: str) -> str:
    """Return the name of the checkpoint among the files of a folder.

    Args:
        names: The names of the files.
        location: The beginning of a sentence about the folder, such as "The folder runs/1".

    Raises:
        CheckpointError: There is no checkpoint, or there are several of the same kind.
    """
    files = {name for name in names if not name.startswith(".") and name not in OTHER_NAMES}
    for name in FIXED_NAMES:
        if name in files:
            return name
    for suffixes in SUFFIXES:
        candidates = sorted(name for name in files if name.endswith(suffixes))
        if len(candidates) > 1:
            raise CheckpointError(
                f"{location} contains several checkpoints: {join_names(candidates)}. Specify one of these files."
            )
        if candidates:
            return candidates[0]
    raise CheckpointError(
        f"{location} contains no checkpoint, such as model.safetensors, pytorch_model.bin, or a .keras, .h5, or .pth"
        " file."
    )


def companions(file: str) -> list[str]:
    """Return the files with metadata that belong to a checkpoint. They need not exist."""
    folder, slash, name = file.rpartition("/")
    names = [CONFIG_FILE, "metadata.json"] if name == "model.weights.h5" else [CONFIG_FILE]
    return [f"{folder}{slash}{companion}" for companion in names]


def list_shards(index: Path, file: str) -> list[str]:
    """Return the files that an index of shards names, [] for other files.

    Args:
        index: A downloaded file.
        file: Its path in the repository.

    Raises:
        CheckpointError: The index is invalid.
    """
    from densenet_cli.weights import shards

    if not index.name.endswith(shards.INDEX_SUFFIX):
        return []
    try:
        names = sorted(set(shards.read_index(index).values()))
    except (CheckpointError, OSError) as error:
        raise CheckpointError(f"{index} is not an index of shards. {error}") from error
    folder, slash, _ = file.rpartition("/")
    return [f"{folder}{slash}{name}" for name in names]
