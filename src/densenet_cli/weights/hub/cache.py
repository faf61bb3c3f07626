"""The cache of the Hugging Face Hub, in the layout of ``huggingface_hub``, so each program finds the other's files.

The folder of a repository is ``models--ORGANIZATION--NAME``. It contains the following entries:

    refs/REVISION            the commit that a branch or tag had when it was last downloaded
    blobs/CHECKSUM           the contents of a file, named after its SHA-256 (large files) or Git blob ID (small ones)
    snapshots/COMMIT/FILE    a relative link to the blob, or a copy where links are impossible
    .no_exist/COMMIT/FILE    an empty file: the commit has no such file

The lock of a blob is ``.locks/models--ORGANIZATION--NAME/CHECKSUM.lock``, and an unfinished download is
``blobs/CHECKSUM.incomplete``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from densenet_cli.errors import UsageError
from densenet_cli.weights.file_identity import compute_checksum, file_checksum, list_checked_files

COMMIT = re.compile(r"[0-9a-f]{40}")

ALGORITHMS = {64: "sha256", 40: "git-sha1"}
"""Number of hexadecimal digits of a blob's name -> algorithm of the checksum."""


CACHE_VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")


def is_true(variable: str) -> bool:
    """Return whether an environment variable is true, as ``huggingface_hub`` defines it."""
    return os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE")


def home_dir() -> Path:
    """Return the folder of Hugging Face: ``$HF_HOME``, default ``~/.cache/huggingface``.

    Raises:
        UsageError: There is no home folder.
    """
    return (
        _environment_path("HF_HOME")
        or (_environment_path("XDG_CACHE_HOME") or _expand("~/.cache", "HF_HOME")) / "huggingface"
    )


def cache_dir() -> Path:
    """Return the folder of the cache: ``$HF_HUB_CACHE``, default ``$HF_HOME/hub``. It may not exist."""
    return next(filter(None, map(_environment_path, CACHE_VARIABLES)), None) or home_dir() / "hub"


def cache_variable() -> str:
    """Return the environment variable that sets the folder of the cache."""
    return next(filter(os.environ.get, CACHE_VARIABLES), "HF_HOME")


def token_path() -> Path:
    """Return the file that contains the user's token: ``$HF_TOKEN_PATH``, default ``$HF_HOME/token``."""
    return _environment_path("HF_TOKEN_PATH") or home_dir() / "token"


def _environment_path(name: str) -> Path | None:
    value = os.environ.get(name)
    return _expand(value, name) if value else None


def _expand(path: str, variable: str) -> Path:
    try:
        return Path(os.path.expandvars(path)).expanduser()
    except RuntimeError:
        raise UsageError(f"There is no home folder. Set {variable} to an absolute path.") from None


def algorithm(checksum: str) -> str | None:
    """Return the algorithm of a checksum that names a blob, or None if it is another name."""
    return ALGORITHMS.get(len(checksum)) if re.fullmatch("[0-9a-f]+", checksum) else None


class RepositoryCache:
    """The cached files of one repository.

    Args:
        repository: The name, such as ``timm/densenet121.ra_in1k``.

    Attributes:
        folder: The folder of the repository. It may not exist.
    """

    def __init__(self, repository: str) -> None:
        self.repository = repository
        self._folder_name = f"models--{repository.replace('/', '--')}"
        self.folder = cache_dir() / self._folder_name

    def commit(self, revision: str) -> str | None:
        """Return the commit of a branch or tag when it was last downloaded, or None. A commit is returned as it is."""
        if COMMIT.fullmatch(revision):
            return revision
        try:
            commit = (self.folder / "refs" / revision).read_bytes().decode("ascii").strip()
        except (OSError, ValueError):
            return None
        return commit if COMMIT.fullmatch(commit) else None

    def set_commit(self, revision: str, commit: str) -> None:
        """Store the commit of a branch or tag. Raises ``OSError``."""
        if revision in (commit, "") or self.commit(revision) == commit:
            return
        path = self.folder / "refs" / revision
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        temporary.write_bytes(commit.encode())
        temporary.replace(path)

    def path(self, commit: str, file: str) -> Path:
        """Return the path of a file in the snapshot of a commit. It may not exist."""
        return self.folder / "snapshots" / commit / file

    def files(self, commit: str) -> list[str]:
        """Return the names of the cached files of a commit that are not in subfolders."""
        try:
            with os.scandir(self.folder / "snapshots" / commit) as entries:
                return [entry.name for entry in entries if entry.is_file()]
        except OSError:
            return []

    def is_known_to_be_absent(self, commit: str, file: str) -> bool:
        """Return whether the Hub has said that a commit has no such file."""
        return (self.folder / ".no_exist" / commit / file).is_file()

    def mark_absent(self, commit: str, file: str) -> None:
        """Remember that a commit has no such file. Raises ``OSError``."""
        path = self.folder / ".no_exist" / commit / file
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def blob(self, checksum: str) -> Path:
        """Return the path of the file with this checksum. It may not exist."""
        return self.folder / "blobs" / checksum

    def partial(self, checksum: str) -> Path:
        """Return the path of the unfinished download of a blob. It may not exist."""
        return self.blob(f"{checksum}.incomplete")

    def partial_size(self) -> int:
        """Return the size of all unfinished downloads in bytes."""
        return sum(path.stat().st_size for path in (self.folder / "blobs").glob("*.incomplete"))

    def lock(self, checksum: str) -> Path:
        """Return the path of the lock file of a blob, which ``huggingface_hub`` locks, too."""
        return self.folder.parent / ".locks" / self._folder_name / f"{checksum}.lock"

    def add(self, commit: str, file: str, checksum: str) -> Path:
        """Add a blob to the snapshot of a commit and return its path there. Raises ``OSError``."""
        path, blob = self.path(commit, file), self.blob(checksum)
        target = os.path.relpath(blob, path.parent)
        with suppress(OSError):
            if str(path.readlink()) == target:
                return path
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        temporary.unlink(missing_ok=True)
        try:
            temporary.symlink_to(target)
        except (OSError, NotImplementedError):
            import shutil

            shutil.copyfile(blob, temporary)
        temporary.replace(path)
        return path


def linked_checksum(path: Path) -> str | None:
    """Return the checksum that the file of a snapshot must have, or None if it is a copy, which has none."""
    try:
        checksum = path.readlink().name
    except OSError:
        return None
    return checksum if algorithm(checksum) else None


def is_intact(path: Path, checksum: str | None, *, recompute: bool = False) -> bool:
    """Return whether a file has a checksum (any, if None). Its own is cached. Raises ``OSError``.

    Args:
        path: The file, or a link to it.
        checksum: The name of the blob.
        recompute: Read the file even if its checksum is cached.
    """
    name = checksum and algorithm(checksum)
    if not name:
        return path.is_file()
    return (compute_checksum if recompute else file_checksum)(path, name) == checksum


class CachedRepository(NamedTuple):
    """A repository in the cache.

    Attributes:
        repository: The name, such as ``timm/densenet121.ra_in1k``.
        folder: The folder of the repository.
        size: The size of its files in bytes, including unfinished downloads.
    """

    repository: str
    folder: Path
    size: int


def list_densenets() -> Iterator[CachedRepository]:
    """Yield the repositories in the cache that contain DenseNets: by their name, or because they were used before."""
    try:
        folders = sorted(path for path in cache_dir().iterdir() if path.name.startswith("models--") and path.is_dir())
    except OSError:
        return
    used = {part for path in list_checked_files() for part in Path(path).parts if part.startswith("models--")}
    for folder in folders:
        organization, separator, name = folder.name.removeprefix("models--").partition("--")
        if separator and ("densenet" in name.lower() or folder.name in used):
            yield CachedRepository(f"{organization}/{name}", folder, _size(folder))


def _size(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # deleted in the meantime
            if path.is_file() and (not path.is_symlink() or path.parent.name == "blobs"):
                size += path.stat().st_size
    return size


def find_damaged(folder: Path) -> list[Path]:
    """Read all blobs of a repository and return those whose contents do not have the checksum of their name."""
    damaged = []
    for blob in sorted((folder / "blobs").glob("*")):
        if name := algorithm(blob.name):
            try:
                intact = compute_checksum(blob, name) == blob.name
            except OSError:
                intact = False
            if not intact:
                damaged.append(blob)
    return damaged


def remove(repository: str) -> int:
    """Delete a repository from the cache, for all programs, and return its size in bytes.

    Raises:
        FileNotFoundError: It is not in the cache.
        OSError: It cannot be deleted.
    """
    import shutil

    cache = RepositoryCache(repository)
    size = _size(cache.folder)
    shutil.rmtree(cache.folder)
    shutil.rmtree(cache.lock("").parent, ignore_errors=True)
    return size


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")
