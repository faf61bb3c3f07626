"""Published weights on this machine: their location, their checksums, and their download.

The weights that Keras publishes are stored where Keras stores them, so each program finds what the other downloaded.
A file is used only if its MD5 is the published one. The MD5 is computed when the file is downloaded or first used, and
cached with the file's identity; no option skips this check. A file of the same name with other contents belongs to the
user: it is neither used nor deleted (``force`` renames it). Weights on the Hugging Face Hub are left to ``hub``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from densenet_cli.errors import UsageError, WeightsUnavailableError
from densenet_cli.output.atomic import locked, sync_path
from densenet_cli.paths import is_hub_url, models_dir
from densenet_cli.variants import Variant, WeightsFile
from densenet_cli.weights import file_identity
from densenet_cli.weights.file_identity import FileIdentity, FileStatus

if TYPE_CHECKING:
    from densenet_cli._types import DownloadProgress
    from densenet_cli.weights.hub.url import HubUrl

BASE_URLS = (
    "https://storage.googleapis.com/tensorflow/keras-applications/densenet/",
    "https://github.com/keras-team/keras-applications/releases/download/densenet/",
)
"""Where the weights are published, in the order of use. ``base_url`` or ``$DENSENET_BASE_URL`` replaces them."""

DATA_DIR = Path(__file__).parents[1] / "data"
"""The folder of the checkpoints in this package."""


def get_file(
    variant: Variant, *, offline: bool = False, base_url: str | None = None, progress: DownloadProgress | None = None
) -> Path:
    """Return the path of a variant's weights, and download them if they are not on this machine.

    Args:
        variant: A variant with published or packaged weights.
        offline: Do not use the network.
        base_url: See ``download``.
        progress: See ``download``.

    Raises:
        WeightsUnavailableError: There are no weights, they cannot be downloaded, or the file has other contents.
    """
    if variant.packaged:
        return DATA_DIR / variant.packaged
    if url := hub_url(variant):
        from densenet_cli.weights.hub import checkpoints as hub

        return hub.get_files(url, offline=offline, progress=progress)
    current = _status(variant, file_identity.file_checksum)
    if current.state == "wrong":
        raise wrong_file_error(current)
    if current.state == "ready":
        return current.path
    if offline:
        raise WeightsUnavailableError(
            f"{missing_file_error(current)}\nDownloads are disabled by `offline`.", variant.name
        )
    return download(variant, base_url=base_url, progress=progress)


def hub_url(published: Variant | HubUrl) -> HubUrl | None:
    """Return where published weights are on the Hugging Face Hub, or None for those of Keras."""
    if not isinstance(published, Variant):
        return published
    if published.repository is None:
        return None
    from densenet_cli.weights.hub.url import HubUrl

    return HubUrl(published.repository)


def download(
    published: Variant | HubUrl,
    *,
    base_url: str | None = None,
    force: bool = False,
    progress: DownloadProgress | None = None,
) -> Path:
    """Download published weights unless they exist, resuming an interrupted download.

    If two processes need the same file, one downloads it. The other waits and reports the same progress.

    Args:
        published: A variant with published weights, or a URL.
        base_url: An http, https, or file URL to use instead of ``BASE_URLS``. The file name is appended to it.
        force: Download even if the file exists. A file of Keras with other contents is renamed to ``NAME.MD5.old``.
        progress: Called after each chunk.

    Returns:
        The path of the file, whose checksum was verified.

    Raises:
        UsageError: If ``base_url`` or ``$DENSENET_BASE_URL`` is not such a URL.
        WeightsUnavailableError: The download fails. The message lists the URLs and the errors.
    """
    if url := hub_url(published):
        from densenet_cli.weights.hub import checkpoints as hub

        return hub.download(url, force=force, progress=progress)
    assert isinstance(published, Variant)
    return _download(published, base_url, force, progress)


def _download(variant: Variant, base_url: str | None, force: bool, progress: DownloadProgress | None) -> Path:
    file = _published_file(variant)
    urls = base_urls(base_url)
    path = models_dir() / file.name

    def report_progress() -> None:
        if progress:
            progress(path.name, _partial_size(path), None)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Checked before locking, because the lock file cannot be created in a read-only folder.
        if not force and _status(variant, file_identity.file_checksum).state == "ready":
            return path
        with locked(path.with_name(f".{path.name}.lock"), on_wait=report_progress):
            current = _status(variant, file_identity.file_checksum)
            if current.state == "ready" and not force:
                return path
            if current.state == "wrong" and not force:
                raise wrong_file_error(current)
            _download_partial(variant, current, urls, progress)
            if current.state == "wrong":
                path.replace(path.with_name(f"{path.name}.{current.checksum}.old"))
            _partial_path(path).replace(path)
            sync_path(path.parent)
            file_identity.cache_checksum(FileIdentity.of(path), file.md5)
            return path
    except OSError as error:
        from densenet_cli.weights.download import storage_error

        full = f"The disk is full. Downloaded {_partial_size(path):,} bytes of {path}."
        raise storage_error(error, path.parent, full, "KERAS_HOME") from error


def status(published: Variant | HubUrl, *, recompute: bool = False) -> FileStatus:
    """Return the state of published weights.

    Args:
        published: A variant with published weights, or a URL.
        recompute: Read the file and compute its checksum. Otherwise only a cached checksum is used.

    Raises:
        WeightsUnavailableError: The file cannot be read, or no weights are published for the variant.
    """
    if url := hub_url(published):
        from densenet_cli.weights.hub import checkpoints as hub

        name = published.name
        return hub.status(url, name, recompute=recompute)
    assert isinstance(published, Variant)
    return _status(published, file_identity.compute_checksum if recompute else file_identity.cached_checksum)


def _status(variant: Variant, get_md5: Callable[[Path], str | None]) -> FileStatus:
    file = _published_file(variant)
    path = models_dir() / file.name
    try:
        md5, size = get_md5(path), path.stat().st_size
    except FileNotFoundError:
        md5 = size = None
    except OSError as error:
        raise WeightsUnavailableError(f"Cannot read {path}: {error.strerror}.") from error
    return FileStatus(variant.name, file.name, path, size, file.md5, md5, _partial_size(path))


def base_urls(base_url: str | None) -> tuple[str, ...]:
    """Return the URLs to try: ``base_url``, else ``$DENSENET_BASE_URL``, else ``BASE_URLS``.

    Raises:
        UsageError: The given one is not an http, https, or file URL.
    """
    given = base_url or os.environ.get("DENSENET_BASE_URL")
    if not given:
        return BASE_URLS
    if not given.lower().startswith(("http://", "https://", "file:///", "file://localhost/")):
        hint = f" For a folder, use {Path(given).absolute().as_uri()}." if "://" not in given else ""
        raise UsageError(f"Invalid base URL {given!r}: it must start with http://, https://, or file:///.{hint}")
    return (given,)


def _published_file(variant: Variant) -> WeightsFile:
    if variant.weights is None:
        raise WeightsUnavailableError(
            f"No weights are published for {variant.model}. Specify a checkpoint file with `weights`."
        )
    return variant.weights


def _download_partial(
    variant: Variant, current: FileStatus, urls: tuple[str, ...], progress: DownloadProgress | None
) -> None:
    """Complete the partial file from the first base URL that provides it."""
    from densenet_cli.transfer_errors import TransferError, redact, shorten
    from densenet_cli.weights.download import ExpectedFile, download_file

    file = _published_file(variant)
    expected = ExpectedFile(file.name, file.md5, "md5")
    errors: dict[str, str] = {}
    for base_url in urls:
        url = f"{base_url.rstrip('/')}/{file.name}"
        try:
            return download_file(url, _partial_path(current.path), expected, progress)
        except TransferError as error:
            errors[shorten(redact(url))] = str(error)
    attempts = "".join(f"\n  {url}\n    {reason}" for url, reason in errors.items())
    raise WeightsUnavailableError(f"{missing_file_error(current)}\nTried:{attempts}", variant.name)


def _partial_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _partial_size(path: Path) -> int:
    try:
        return _partial_path(path).stat().st_size
    except OSError:
        return 0


def missing_file_error(status: FileStatus) -> WeightsUnavailableError:
    """Return the error for weights that are not on this machine."""
    return WeightsUnavailableError(
        f"The weights of {status.name} are not on this machine: {status.path} does not exist."
    )


def wrong_file_error(status: FileStatus) -> WeightsUnavailableError:
    """Return the error for a file that has the name of published weights but other contents."""
    if is_hub_url(status.location):
        from densenet_cli.weights.hub import checkpoints as hub

        return hub.damaged_file_error(status.path, str(status.expected), status.location)
    return WeightsUnavailableError(
        f"{status.path} is not the published file: expected {status.expected}, found {status.checksum}.",
        status.name,
        differs=True,
    )
