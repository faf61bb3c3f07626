"""Downloads from the Hugging Face Hub to its cache.

The token of the user is sent to the host of the Hub only, not to the one that it redirects to for large files.
"""

from __future__ import annotations

import os
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from densenet_cli.errors import UsageError, WeightsUnavailableError
from densenet_cli.http import Timeouts, read_body, read_headers
from densenet_cli.output.atomic import locked, sync_path
from densenet_cli.transfer_errors import TransferError, redact
from densenet_cli.weights.download import ExpectedFile, download_file, retry, storage_error
from densenet_cli.weights.file_identity import FileIdentity, cache_checksum
from densenet_cli.weights.folders import FIXED_NAMES, choose_checkpoint, companions, list_shards
from densenet_cli.weights.hub import cache as hub_cache
from densenet_cli.weights.hub.cache import COMMIT, RepositoryCache
from densenet_cli.weights.hub.url import HubUrl

if TYPE_CHECKING:
    from densenet_cli._types import DownloadProgress

DEFAULT_ENDPOINT = "https://huggingface.co"
MAX_LISTING_SIZE = 16 << 20
TIMEOUTS = Timeouts(connect=10, read=20, total=60)


class RemoteFile(NamedTuple):
    """What the Hub states about a file.

    Attributes:
        commit: The commit that contains this version.
        checksum: Its SHA-256 or Git blob ID.
        size: Its size in bytes, or None.
    """

    commit: str
    checksum: str
    size: int | None


def endpoint() -> str:
    """Return the URL of the Hub: ``$HF_ENDPOINT``, default ``https://huggingface.co``. Raises ``UsageError``."""
    url = (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
    if not url.lower().startswith(("http://", "https://")):
        raise UsageError(f"Invalid HF_ENDPOINT {url!r}: it must start with http:// or https://.")
    return url


def read_token() -> str | None:
    """Return the user's token: ``$HF_TOKEN``, else that of ``hf auth login``, else None.

    Raises:
        UsageError: The token contains characters that are not allowed. The message does not contain it.
    """
    token = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    if not token and not hub_cache.is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN"):
        try:
            token = hub_cache.token_path().read_text("utf-8", "replace")
        except OSError:
            return None
    token = (token or "").strip()
    if not all("!" <= character <= "~" for character in token):
        raise UsageError("The Hugging Face token (HF_TOKEN, or its file) contains characters that are not allowed.")
    return token or None


class HubClient:
    """Downloads a checkpoint and the files that belong to it.

    Args:
        target: The checkpoint.
        force: Download files even if they are cached.
        progress: Called while the checkpoint is downloaded.

    Raises:
        UsageError: ``$HF_ENDPOINT`` or the token is invalid.
    """

    def __init__(self, target: HubUrl, force: bool, progress: DownloadProgress | None) -> None:
        self._target = target
        self._force = force
        self._progress = progress
        self._endpoint = endpoint()
        self._token = read_token()
        self._cache = RepositoryCache(target.repository)
        self._file = target.file  # the one that an error is about

    def download(self) -> Path:
        """Download what is not cached and return the path of the checkpoint. See ``hub.download``."""
        try:
            file, remote = self._choose_file()
            path = self._fetch(file, remote, self._progress)
            for companion in companions(file):
                self._fetch_if_present(companion, remote.commit)
            for shard in list_shards(path, file):
                self._fetch(shard, self._request(shard, remote.commit), self._progress)
            if not self._target.file:
                for name in takewhile(lambda name: name != file, FIXED_NAMES):
                    self._cache.mark_absent(remote.commit, name)
            self._cache.set_commit(self._target.revision, remote.commit)
            return path
        except TransferError as error:
            raise WeightsUnavailableError(self._describe(error)) from error
        except OSError as error:
            full = f"The disk is full while {self._target} is downloaded to {self._cache.folder}."
            raise storage_error(error, self._cache.folder, full, hub_cache.cache_variable()) from error

    def _choose_file(self) -> tuple[str, RemoteFile]:
        """Return the path of the checkpoint in the repository, and what the Hub states about it."""
        if self._target.file:
            return self._target.file, self._request(self._target.file, self._target.revision)
        try:
            return FIXED_NAMES[0], self._request(FIXED_NAMES[0], self._target.revision)
        except TransferError as error:
            if not _is_missing_file(error):
                raise
        self._file = None
        names, commit = self._list_files()
        file = choose_checkpoint(names, f"The repository {self._target}")
        return file, self._request(file, commit)

    def _list_files(self) -> tuple[list[str], str]:
        """Return the names of the files that are not in subfolders, and the commit."""
        import json

        url = f"{self._endpoint}/api/models/{self._target.repository}/revision/{quote(self._target.revision, safe='')}"
        body = retry(lambda: read_body(url, max_bytes=MAX_LISTING_SIZE, timeouts=TIMEOUTS, token=self._token))
        try:
            listing = json.loads(body)
            names, commit = [str(sibling["rfilename"]) for sibling in listing["siblings"]], str(listing["sha"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise TransferError("the server sent an invalid list of files") from error
        if not COMMIT.fullmatch(commit):
            raise TransferError("the server sent an invalid list of files")
        return [name for name in names if "/" not in name and "\\" not in name], commit

    def _request(self, file: str, revision: str) -> RemoteFile:
        """Request what the Hub states about a file. Raises ``TransferError``."""
        self._file = file
        url = self._url(file, revision)
        headers = retry(lambda: read_headers(url, stop_at="X-Linked-Etag", timeouts=TIMEOUTS, token=self._token))
        commit = headers.get("X-Repo-Commit", "")
        checksum = (headers.get("X-Linked-Etag") or headers.get("ETag", "")).removeprefix("W/").strip('"')
        if not COMMIT.fullmatch(commit) or not hub_cache.algorithm(checksum):
            raise TransferError(
                "the server does not state the commit and the checksum, so it is not a Hugging Face Hub"
            )
        size = headers.get("X-Linked-Size") or headers.get("Content-Length", "")
        is_size = size.isascii() and size.isdecimal() and len(size) < 16 and "Content-Encoding" not in headers
        return RemoteFile(commit, checksum, int(size) if is_size else None)

    def _url(self, file: str, revision: str) -> str:
        return f"{self._endpoint}/{self._target.repository}/resolve/{quote(revision, safe='')}/{quote(file)}"

    def _fetch_if_present(self, file: str, commit: str) -> None:
        """Download a file, or remember that it does not exist."""
        try:
            remote = self._request(file, commit)
        except TransferError as error:
            if not _is_missing_file(error):
                raise
            self._cache.mark_absent(commit, file)
        else:
            self._fetch(file, remote, None)

    def _fetch(self, file: str, remote: RemoteFile, progress: DownloadProgress | None) -> Path:
        """Return the path of a file in the cache, and download it if it is not there."""
        cache, checksum = self._cache, remote.checksum
        path, blob, partial = cache.path(remote.commit, file), cache.blob(checksum), cache.partial(checksum)
        algorithm = str(hub_cache.algorithm(checksum))
        expected = ExpectedFile(f"{self._target.name}/{file}", checksum, algorithm, remote.size)

        def report_progress() -> None:
            if progress:
                progress(expected.name, partial.stat().st_size if partial.exists() else 0, remote.size)

        # Checked before locking, because the lock file cannot be created in a read-only folder.
        if not self._force and _is_intact(path, checksum):
            return path
        lock = cache.lock(checksum)
        for folder in (lock.parent, blob.parent, path.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with locked(lock, on_wait=report_progress):
            if self._force or not _is_intact(blob, checksum):
                try:
                    download_file(self._url(file, remote.commit), partial, expected, progress, self._token)
                except TransferError as error:
                    # Without the status: the Hub has described the file, so the repository exists.
                    raise TransferError(f"{expected.name}: {error}") from error
                partial.replace(blob)
                sync_path(blob.parent)
                cache_checksum(FileIdentity.of(blob), checksum, algorithm)
            return cache.add(remote.commit, file, checksum)

    def _describe(self, error: TransferError) -> str:
        """Return the message for a failed request."""
        target, url = self._target, redact(self._endpoint)
        repository = f"The repository {target.repository}"
        if error.code == "RevisionNotFound":
            return f"{repository} has no revision {target.revision!r}. Specify a branch, a tag, or a commit."
        if error.code == "EntryNotFound" and self._file:
            return (
                f"{repository} has no file {self._file} in revision {target.revision!r}. See {url}/{target.repository}."
            )
        if error.code == "GatedRepo" or error.status == 403:
            account = "the account of your token" if self._token else "your account, and set HF_TOKEN to a token of it"
            return (
                f"Access to {target.repository} is restricted. Request it at {url}/{target.repository} with {account}."
            )
        if error.status in (401, 404):
            access = (
                "your token is not valid for it"
                if self._token
                else "it is private. For a private one, set HF_TOKEN to a token with access to it"
            )
            return f"{repository} does not exist on {url}, or {access}."
        return f"Cannot download {target} from {url}: {error}. For a mirror of the Hub, set HF_ENDPOINT."


def _is_missing_file(error: TransferError) -> bool:
    return error.status == 404 and error.code in ("EntryNotFound", "")


def _is_intact(path: Path, checksum: str) -> bool:
    try:
        return hub_cache.is_intact(path, checksum)
    except OSError:
        return False
