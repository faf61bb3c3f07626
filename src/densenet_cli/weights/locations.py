"""What the parameter ``weights`` can name: a file, a folder, or a repository on the Hugging Face Hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from densenet_cli.errors import UsageError
from densenet_cli.paths import is_hub_url, is_remote, is_url, normalize_path, working_directory

if TYPE_CHECKING:
    from densenet_cli._types import DownloadProgress, PathLike


def find_checkpoint(weights: PathLike, *, offline: bool = False, progress: DownloadProgress | None = None) -> Path:
    """Return the path of the checkpoint that ``weights`` names. It need not exist.

    Args:
        weights: A file, a folder that contains a checkpoint, or a URL ``hf://ORGANIZATION/NAME`` (see ``hub``), whose
            files are downloaded if they are not in the cache of the Hub.
        offline: Do not use the network.
        progress: Called while files are downloaded.

    Raises:
        CheckpointError: The folder contains no checkpoint, or several.
        UsageError: The URL is invalid or of another kind.
        WeightsUnavailableError: The files cannot be downloaded.
    """
    text = os.fspath(weights)
    if is_hub_url(text):
        from densenet_cli.weights.hub import checkpoints as hub

        return hub.get_files(text, offline=offline, progress=progress)
    if is_url(text):
        raise UsageError(
            "`weights` cannot be a web address. Use a file, a folder, or for"
            " https://huggingface.co/ORGANIZATION/NAME the URL hf://ORGANIZATION/NAME."
        )
    if is_remote(text):
        raise UsageError("`weights` cannot be in object storage. Download the checkpoint and use its path.")
    path = Path(text)
    if text.lower().startswith("hf:") and not path.exists():
        raise UsageError(f"Invalid URL {text!r}. Use hf://{text[3:].lstrip('/') or 'ORGANIZATION/NAME'}.")
    if path.is_dir():
        from densenet_cli.weights import folders

        return folders.find_in_folder(path)
    return path


def model_name(weights: PathLike) -> str:
    """Return the name of a model in results: that of its repository or folder, or of its file without the suffix."""
    text = os.fspath(weights)
    if is_hub_url(text):
        from densenet_cli.weights.hub import url as hub_url

        return hub_url.parse_url(text).name
    path = Path(text)
    if path.is_dir():
        path = Path(normalize_path(text, working_directory()))
        # In the cache of the Hub, models--ORGANIZATION--NAME/snapshots/COMMIT, the folder is named after the commit.
        if path.parent.name == "snapshots" and path.parents[1].name.startswith("models--"):
            return path.parents[1].name.rpartition("--")[2]
        return path.name
    name = path.name.removesuffix(".index.json")
    for suffix in (path.suffix, ".weights", ".pth", ".safetensors", ".bin"):
        name = name.removesuffix(suffix)
    return name
