"""Checkpoints on the Hugging Face Hub: ``hf://timm/densenet121.ra_in1k``.

``huggingface_hub`` is not used. It and its dependencies take 31 MB, its downloader takes longer to import than a whole
prediction, and its plain downloads verify only the size. The protocol is small: a HEAD request returns the commit and
the checksum of a file, a GET request returns the file. So the transfer of ``weights.download`` applies, which is
verified, resumable, and locked. The cache is the one of ``huggingface_hub`` (see ``hub.cache``).

If a commit of the revision is in the cache with all files, the network is not used. ``download-weights`` looks for a
newer commit.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from densenet_cli.errors import CheckpointError, WeightsUnavailableError
from densenet_cli.text import join_names
from densenet_cli.weights.file_identity import FileStatus, cached_checksum, compute_checksum
from densenet_cli.weights.folders import FIXED_NAMES, choose_checkpoint, companions, list_shards
from densenet_cli.weights.hub import cache as hub_cache
from densenet_cli.weights.hub.cache import RepositoryCache
from densenet_cli.weights.hub.url import HubUrl, parse_url

if TYPE_CHECKING:
    from densenet_cli._types import DownloadProgress


def offline_variable() -> str | None:
    """Return the environment variable that disables network access, or None."""
    variable = "HF_HUB_OFFLINE" if os.environ.get("HF_HUB_OFFLINE") else "TRANSFORMERS_OFFLINE"
    return variable if hub_cache.is_true(variable) else None


def get_files(url: str | HubUrl, *, offline: bool = False, progress: DownloadProgress | None = None) -> Path:
    """Return the path of a checkpoint in the cache of the Hub, and download it if it is not there.

    The files that belong to it are beside it: its ``config.json``, if there is one, ``metadata.json`` for
    ``model.weights.h5``, and the shards of an index.

    Args:
        url: A URL. See ``parse_url`` for a string.
        offline: Do not use the network. ``$HF_HUB_OFFLINE`` and ``$TRANSFORMERS_OFFLINE`` have the same effect.
        progress: Called while the checkpoint is downloaded.

    Raises:
        CheckpointError: The repository contains no checkpoint, or several.
        UsageError: The URL is invalid.
        WeightsUnavailableError: The files cannot be downloaded, or a cached file is damaged.
    """
    target = parse_url(url) if isinstance(url, str) else url
    paths = find_cached(target)
    if not paths:
        reason = "`offline`" if offline else offline_variable()
        if not reason:
            return download(target, progress=progress)
        paths = _find_offline(target, reason)
    check_intact(target, paths)
    return paths[0]


def find_cached(target: HubUrl) -> list[Path]:
    """Return the paths of a checkpoint and of the files that belong to it if all of them are cached, else []."""
    cache = RepositoryCache(target.repository)
    commit = cache.commit(target.revision)
    if commit is None:
        return []
    file = target.file or _choose_cached(cache, commit)
    if not file or not cache.path(commit, file).is_file():
        return []
    paths = _required_paths(cache, commit, file)
    return paths if all(path.is_file() for path in paths) else []


def _choose_cached(cache: RepositoryCache, commit: str) -> str | None:
    """Return the name of the checkpoint of a commit, or None if only the Hub knows it."""
    for name in FIXED_NAMES:
        if cache.path(commit, name).is_file():
            return name
        if not cache.is_known_to_be_absent(commit, name):
            return None
    # A download has stored that all of these names are absent, after it stored the file that it chose among all files.
    try:
        return choose_checkpoint(cache.files(commit), f"The folder {cache.folder}")
    except CheckpointError:
        return None


def _required_paths(cache: RepositoryCache, commit: str, file: str) -> list[Path]:
    """Return the paths of a cached checkpoint and of the files that belong to it, which may not exist."""
    metadata = [name for name in companions(file) if not cache.is_known_to_be_absent(commit, name)]
    return [cache.path(commit, name) for name in (file, *list_shards(cache.path(commit, file), file), *metadata)]


def _find_offline(target: HubUrl, reason: str) -> list[Path]:
    """Return the paths of the only cached checkpoint, even if the Hub might have one that is preferred.

    Without ``config.json``, which other programs may not have downloaded, it would be used in another way.

    Raises:
        CheckpointError: There are several.
        WeightsUnavailableError: There is none, or files that belong to it are missing.
    """
    cache = RepositoryCache(target.repository)
    commit = cache.commit(target.revision)
    missing = "the checkpoint"
    if commit and (files := [target.file] if target.file else cache.files(commit)):
        file = choose_checkpoint(files, f"The cached part of {target}")
        if cache.path(commit, file).is_file():
            paths = _required_paths(cache, commit, file)
            missing = join_names([path.name for path in paths if not path.is_file()])
            if not missing:
                return paths
    raise WeightsUnavailableError(
        f"{target} is not on this machine: {missing} is missing in {cache.folder}. Downloads are disabled by {reason}.",
        str(target),
    )


def check_intact(target: HubUrl, paths: list[Path], *, recompute: bool = False) -> None:
    """Check that cached files have the contents that their links name.

    Args:
        target: What the files belong to.
        paths: The files, in the snapshot of a commit.
        recompute: Read them even if their checksums are cached.

    Raises:
        WeightsUnavailableError: A file is damaged or cannot be read.
    """
    for path in paths:
        checksum = hub_cache.linked_checksum(path)
        try:
            intact = hub_cache.is_intact(path, checksum, recompute=recompute)
        except OSError as error:
            raise WeightsUnavailableError(f"Cannot read {path}: {error.strerror or error}.") from error
        if not intact:
            raise damaged_file_error(path, str(checksum), str(target))


def damaged_file_error(path: Path, checksum: str, url: str) -> WeightsUnavailableError:
    """Return the error for a cached file whose checksum is another one."""
    return WeightsUnavailableError(
        f"{path} is damaged: its checksum is not {checksum}. Delete it to download it again.", url, differs=True
    )


def status(target: HubUrl, name: str, *, recompute: bool = False) -> FileStatus:
    """Return the state of a checkpoint in the cache, without network access.

    Args:
        target: The checkpoint.
        name: The name to return in the result.
        recompute: Read all files and compute their checksums. Otherwise only cached checksums are used.

    Raises:
        WeightsUnavailableError: A file cannot be read.
    """
    cache = RepositoryCache(target.repository)
    paths = find_cached(target)
    if not paths:
        return FileStatus(name, str(target), cache.folder, None, None, None, cache.partial_size())
    statuses = []
    for path in paths:
        expected = hub_cache.linked_checksum(path)
        algorithm = expected and hub_cache.algorithm(expected)
        try:
            size = path.stat().st_size
            checksum = (compute_checksum if recompute else cached_checksum)(path, algorithm) if algorithm else None
        except OSError as error:
            raise WeightsUnavailableError(f"Cannot read {path}: {error.strerror or error}.") from error
        statuses.append(FileStatus(name, str(target), path, size, expected, checksum, 0))
    total = sum(file.size or 0 for file in statuses)
    worst = min(statuses, key=lambda file: ("wrong", "unchecked", "ready").index(file.state))
    return worst._replace(size=total)


def download(target: HubUrl, *, force: bool = False, progress: DownloadProgress | None = None) -> Path:
    """Download the current commit of a revision, except for files that are cached. Interrupted downloads are resumed.

    Args:
        target: The checkpoint.
        force: Download files even if they are cached, and replace them.
        progress: Called while the checkpoint is downloaded.

    Returns:
        The path of the checkpoint in the cache.

    Raises:
        CheckpointError: The repository contains no checkpoint, or several.
        UsageError: ``$HF_ENDPOINT`` or the token is invalid.
        WeightsUnavailableError: The download fails.
    """
    if variable := offline_variable():
        raise WeightsUnavailableError(f"{target} was not downloaded: {variable} disables downloads.")
    from densenet_cli.weights.hub.client import HubClient

    return HubClient(target, force, progress).download()
