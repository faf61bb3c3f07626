"""The published weights on this machine: where they lie, whether they are right, and how they get there.

They lie where Keras puts them, so either finds what the other fetched. A file counts only when its MD5 is the
published one; that is measured when it arrives or is first met, and remembered with the file's identity. No
option leaves the check out. A file of that name with other contents is somebody's: it is never used and never deleted
(``force`` moves it aside).
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from densenet_cli.errors import UsageError
from densenet_cli.output.atomic import locked, sync_path
from densenet_cli.paths import models_dir
from densenet_cli.variants import Variant, WeightsFile
from densenet_cli.weights import Progress, refusals, verified
from densenet_cli.weights.file_identity import Identity

BASES = (
    "https://storage.googleapis.com/tensorflow/keras-applications/densenet/",
    "https://github.com/keras-team/keras-applications/releases/download/densenet/",
)
"""Where the files are published, tried in this order; ``base_url`` or ``$DENSENET_BASE_URL`` takes their place."""


PACKAGED = Path(__file__).parents[1] / "data"
"""Where the checkpoints lie that ship inside the package."""


@dataclass(frozen=True)
class Status:
    """What there is of a variant's weights.

    Attributes:
        variant: whose.
        path: where the file lies or would lie.
        size: bytes, None where there is no file.
        md5: of its contents, None where it was never measured.
        partial: bytes of an unfinished download.
    """

    variant: Variant
    path: Path
    size: int | None
    md5: str | None
    partial: int

    @property
    def state(self) -> Literal["ready", "unchecked", "wrong", "partial", "absent"]:
        """In one word."""
        if self.size is None:
            return "partial" if self.partial else "absent"
        if self.md5 is None:
            return "unchecked"
        return "ready" if self.md5 == _published(self.variant).md5 else "wrong"


def locate(
    variant: Variant, *, offline: bool = False, base_url: str | None = None, progress: Progress | None = None
) -> Path:
    """A variant's weights as a file: the one in this package, else the published one, fetched where there is none.

    Args:
        variant: one with weights of its own. The MD5 of a published file was checked.
        offline: don't touch the network.
        base_url: as for ``download``.
        progress: as for ``download``.

    Raises:
        WeightsUnavailable: there is no such file, it can't be fetched, or what lies in its place is another.
    """
    if variant.packaged:
        return PACKAGED / variant.packaged
    file = _published(variant)
    path = models_dir() / file.name
    if (found := _md5(path)) is None:
        if offline:
            raise refusals.offline(variant, path)
        return download(variant, base_url=base_url, progress=progress)
    if found != file.md5:
        raise refusals.another(variant, path, found)
    return path


def download(
    variant: Variant, *, base_url: str | None = None, force: bool = False, progress: Progress | None = None
) -> Path:
    """Fetch a variant's published weights, unless they are there; go on where an earlier download stopped.

    Two processes that want the same file fetch it once: the second waits, and ``progress`` shows it the first one's.

    Args:
        variant: one with published weights.
        base_url: http, https or file URL that takes the place of the published ones; the file's name is added to it.
        force: fetch it even if it is there; a file with other contents is kept beside it as ``NAME.MD5.old``.
        progress: told of every piece that arrives.

    Returns:
        Path of the file, its MD5 checked.

    Raises:
        UsageError: ``base_url`` (or ``$DENSENET_BASE_URL``) is no such URL.
        WeightsUnavailable: what was tried, why each failed, and the ways on.
    """
    file = _published(variant)
    tried = bases(base_url)
    path = models_dir() / file.name

    def show_other_download() -> None:
        if progress:
            progress(path.name, _partial(path), None)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Before the lock, which can't be had in a folder that others filled and closed.
        if not force and _md5(path) == file.md5:
            return path
        with locked(path.with_name(f".{path.name}.lock"), show_other_download):
            found = _md5(path)
            if found == file.md5 and not force:
                return path
            if found not in (None, file.md5) and not force:
                raise refusals.another(variant, path, found)
            _bring(variant, tried, path, progress)
            if found not in (None, file.md5):
                path.replace(path.with_name(f"{path.name}.{found}.old"))
            _part(path).replace(path)
            sync_path(path.parent)
            verified.remember(Identity.of(path), file.md5)
            return path
    except OSError as error:
        raise refusals.unwritable(path, _partial(path), error) from error


def status(variant: Variant) -> Status:
    """What there is, as far as it is known without reading the file. Raises ``WeightsUnavailable``."""
    path = models_dir() / _published(variant).name
    try:
        identity = Identity.of(path)
    except FileNotFoundError:
        return Status(variant, path, None, None, _partial(path))
    except OSError as error:
        raise refusals.unreadable(path, error) from error
    return Status(variant, path, identity.size, verified.recall(identity), _partial(path))


def verify(variant: Variant) -> Status:
    """What there is, the file read and hashed now whatever is remembered of it. Raises ``WeightsUnavailable``."""
    path = models_dir() / _published(variant).name
    with suppress(FileNotFoundError):
        try:
            md5 = verified.measure(path)
            return Status(variant, path, path.stat().st_size, md5, _partial(path))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise refusals.unreadable(path, error) from error
    return Status(variant, path, None, None, _partial(path))


def bases(base_url: str | None) -> tuple[str, ...]:
    """The URLs to try, in order: ``base_url``, else ``$DENSENET_BASE_URL``, else those of ``BASES``.

    Raises:
        UsageError: it is no http, https or file URL.
    """
    given = base_url or os.environ.get("DENSENET_BASE_URL")
    if not given:
        return BASES
    if not given.lower().startswith(("http://", "https://", "file:///", "file://localhost/")):
        hint = f"; for a folder write {Path(given).absolute().as_uri()}" if "://" not in given else ""
        raise UsageError(f"A base URL begins with http://, https:// or file:///, and {given!r} doesn't{hint}.")
    return (given,)


def _published(variant: Variant) -> WeightsFile:
    if variant.weights is None:
        raise refusals.unpublished(variant)
    return variant.weights


def _md5(path: Path) -> str | None:
    """Of the file's contents, None where there is no file."""
    try:
        return verified.md5_of(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise refusals.unreadable(path, error) from error


def _bring(variant: Variant, bases: tuple[str, ...], path: Path, progress: Progress | None) -> None:
    from densenet_cli.http import TransferError, redacted, shortened
    from densenet_cli.weights.download import bring

    file = _published(variant)
    failed = {}
    for base in bases:
        url = f"{base.rstrip('/')}/{file.name}"
        try:
            return bring(file.name, url, _part(path), file.md5, progress)
        except TransferError as error:
            failed[shortened(redacted(url))] = error.reason
    raise refusals.not_fetched(variant, path, failed)


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _partial(path: Path) -> int:
    try:
        return _part(path).stat().st_size
    except OSError:
        return 0
