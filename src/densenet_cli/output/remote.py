"""Output files in object storage. They are written on this machine first, in a staging folder, and uploaded.

So everything that holds for local files holds here: records are complete after every image, interrupted runs can be
resumed, and a file has one writer. The staging folder is in the cache folder. Finished records are also uploaded now
and then while a run continues, and when it ends, however it ends. The folder is removed when all files are uploaded.

A resumed run continues the staged files, also if those in storage were deleted. If one of those was changed since this
machine uploaded it, for example by a run on another machine, they are downloaded instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from densenet_cli import storage
from densenet_cli.errors import DensenetError, ImageError, OutputError, UsageError
from densenet_cli.output.atomic import locked, output_errors
from densenet_cli.output.checks import file_exists_error
from densenet_cli.output.staging import STATE_FILE, UploadState, identify
from densenet_cli.paths import staging_dir

UPLOAD_INTERVAL = 60.0
"""Seconds between two uploads while a run continues."""

MAX_UPLOAD_SHARE = 0.05
"""Limit of the share of time that is spent on these uploads, whose files grow."""

MAX_NAME_LENGTH = 200
"""Bytes of the name of a file."""

APPENDED_SUFFIXES = (".jsonl", ".csv")
"""Files that are complete after every line, and can be uploaded while they are written."""

SETTINGS_SUFFIX = ".meta.json"

RECORD_FILES = ("", SETTINGS_SUFFIX)
VECTOR_FILES = ("", SETTINGS_SUFFIX, ".sources.jsonl", ".parts.jsonl", f".parts.jsonl{SETTINGS_SUFFIX}")
FILES = {"records": RECORD_FILES, "vectors": VECTOR_FILES, "report": ("",)}
"""What is added to the name of an output file for each file that is written beside it."""


class RemoteOutput:
    """An output file in object storage. The block of the context manager writes ``path`` and the files beside it.

    Args:
        url: The URL of the file.
        files: What is added to the name for each file that is written: ``RECORD_FILES``, for example.
        resume: Whether to continue the file.
        overwrite: Whether to replace the file.
        can_resume: Whether messages suggest ``resume``.
        offline: Whether access to the network is disabled.
        warn: Called with a message if the results of a run that failed cannot be uploaded.

    Attributes:
        url: The URL without credentials.
        path: The file on this machine.

    Raises:
        UsageError: The URL does not name a file, access to the network is disabled, or a package is missing. Entering
            it raises UsageError if the file exists and is neither to be continued nor to be replaced, and OutputError
            if it cannot be written. Leaving it raises OutputError if an upload fails.
    """

    def __init__(
        self,
        url: str,
        files: Sequence[str] = RECORD_FILES,
        *,
        resume: bool = False,
        overwrite: bool = False,
        can_resume: bool = True,
        offline: bool = False,
        warn: Callable[[str], object] = warnings.warn,
    ) -> None:
        self._warn = warn
        self.url = storage.redact(url)
        parent, _, name = url.rpartition("/")
        if (
            not name
            or parent.endswith(":/")
            or name.strip(".") == ""
            or "\0" in name
            or len(name.encode(errors="replace")) > MAX_NAME_LENGTH
        ):
            raise UsageError(f"{self.url} does not name a file. Use a URL such as s3://bucket/FILE.")
        if offline:
            raise UsageError(f"Cannot write {self.url}: network access is disabled (`offline`).")
        self._url = url
        self._files, self._resume, self._overwrite = files, resume, overwrite
        self._can_resume = can_resume
        self._folder = staging_dir() / hashlib.sha256(self.url.encode(errors="surrogateescape")).hexdigest()[:16]
        self.path = self._folder / "files" / name
        self._stack = contextlib.ExitStack()
        self._stopped = threading.Event()
        self._uploading = threading.Lock()
        self._is_replaced = False
        self._downloaded: dict[str, list[int]] = {}
        """Name of a file -> its ``identify`` when it was downloaded."""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            with output_errors(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
            stack.callback(_remove_if_empty, self._folder)
            with output_errors(self.url):
                stack.enter_context(locked(self._folder / "lock"))
            stack.callback(_remove_if_empty, self.path.parent)
            with output_errors(self._folder):
                self.path.parent.mkdir(exist_ok=True)
            self._state = UploadState(self._folder / STATE_FILE, self.url)
            self._prepare()
            self._stack = stack.pop_all()
        self._thread = threading.Thread(target=self._upload_repeatedly, daemon=True)
        self._thread.start()
        return self

    def _prepare(self) -> None:
        """Check whether the file can be written, and let the staging folder contain what is to be continued."""
        storage.check_writable(self._url)
        try:
            statuses = {suffix: storage.status(self._url + suffix) for suffix in {"", *self._state.versions}}
        except ImageError as error:
            raise OutputError(f"Cannot write {self.url}: {_clause(error)}.") from None
        remote = statuses[""]
        if remote and remote.is_folder:
            raise OutputError(f"Cannot write {self.url}: it is a folder.")
        if remote and remote.size and not (self._resume or self._overwrite):
            raise file_exists_error(self.url, self._can_resume)
        is_staged = any(path.stat().st_size for path in self._staged())
        if is_staged and self._can_resume and not (self._resume or self._overwrite):
            raise UsageError(
                f"This machine has results of an unfinished run for {self.url}. Use `resume` to continue it, or "
                "`overwrite` to discard it."
            )
        versions = {suffix: status.version for suffix, status in statuses.items() if status and status.size}
        is_changed = any(version != self._state.versions.get(suffix) for suffix, version in versions.items())
        if self._resume and is_staged and not is_changed:
            for suffix in statuses.keys() - versions.keys():  # missing or empty: uploaded again
                self._forget(suffix)
            with output_errors(self._folder):
                self._state.write()
            return
        with output_errors(self.url):
            shutil.rmtree(self.path.parent)
            self.path.parent.mkdir()
            # If this run is killed before it has uploaded anything, a file that it is to replace is not a change.
            self._state.clear()
            if remote and not self._resume:
                self._state.versions[""] = remote.version
            self._state.write()
        if self._resume:
            try:
                self._download()
            except BaseException:
                self._discard()
                raise

    def _download(self) -> None:
        for suffix in self._files:
            if status := storage.status(self._url + suffix):
                path = self._local(suffix)
                storage.download(self._url + suffix, path)
                self._state.versions[suffix] = status.version
                self._state.uploaded[path.name] = self._downloaded[path.name] = identify(path)
        self._state.write()

    def _local(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    def _staged(self) -> list[Path]:
        return [path for path in map(self._local, self._files) if path.is_file()]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        with self._stack:
            self._stopped.set()
            if isinstance(error, DensenetError):
                error.args = (self.replace_paths(str(error)),)
            try:
                with self._uploading:
                    self._upload_all()
            except DensenetError as failure:
                hint = " Use `resume` to upload them." if self._can_resume else ""
                message = f"{str(failure).rstrip()} The results are kept in {self.path.parent}.{hint}"
                if kind is None:
                    raise OutputError(message) from None
                self._warn(message)
                return
            written = [path for path in self._staged() if identify(path) != self._downloaded.get(path.name)]
            if kind is None or not any(path.stat().st_size for path in written):
                self._discard()

    def _discard(self) -> None:
        """Delete what is staged."""
        shutil.rmtree(self.path.parent, ignore_errors=True)
        self._state.clear()

    def replace_paths(self, message: str) -> str:
        """Return a message that names the URL instead of the file on this machine."""
        return message.replace(str(self.path), self.url)

    def _upload_repeatedly(self) -> None:
        pause = UPLOAD_INTERVAL
        while not self._stopped.wait(pause):
            start = time.monotonic()
            try:
                with self._uploading:
                    if not self._stopped.is_set():
                        self._upload_appended()
            except (DensenetError, OSError) as error:  # tried again later, and reported at the end
                logging.getLogger(__name__).info("%s", error)
            pause = max(UPLOAD_INTERVAL, (time.monotonic() - start) / MAX_UPLOAD_SHARE)

    def _upload_appended(self) -> None:
        """Upload the settings, and the complete lines of the files that grow."""
        for suffix in self._files:
            path = self._local(suffix)
            settings = self._local(suffix + SETTINGS_SUFFIX)
            if path.name.endswith(APPENDED_SUFFIXES) and path.is_file() and settings.is_file():
                size = _complete_size(path)
                if size:
                    self._replace()
                    self._upload(suffix + SETTINGS_SUFFIX)
                    self._upload(suffix, size)
        self._state.write()

    def _upload_all(self) -> None:
        """Upload all files that changed, the output file last, and delete those of an unfinished run."""
        existing = [suffix for suffix in self._files if self._local(suffix).is_file()]
        if not existing:
            return
        if "" in existing and self._local("").stat().st_size:
            self._replace()
        for suffix in sorted(existing, key=lambda suffix: suffix == ""):
            self._upload(suffix)
        for suffix in self._state.versions.keys() - set(existing) - {""}:
            storage.remove(self._url + suffix)
            self._forget(suffix)
        self._state.write()

    def _replace(self) -> None:
        """Delete a file that is overwritten before the settings of the new one are uploaded."""
        if self._overwrite and not self._is_replaced and self._files == RECORD_FILES:
            storage.remove(self._url)
            self._forget("")
            self._state.write()
        self._is_replaced = True

    def _forget(self, suffix: str) -> None:
        """Note that a file is not in storage."""
        self._state.versions.pop(suffix, None)
        self._state.uploaded.pop(self._local(suffix).name, None)

    def _upload(self, suffix: str, size: int | None = None) -> None:
        path = self._local(suffix)
        content = identify(path, size)
        if self._state.uploaded.get(path.name) == content:
            return
        storage.upload(path, self._url + suffix, size)
        status = storage.status(self._url + suffix)
        self._state.versions[suffix] = status.version if status else ""
        self._state.uploaded[path.name] = content


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _complete_size(path: Path) -> int:
    """Return the number of bytes up to the last complete line."""
    with path.open("rb") as file:
        end = file.seek(0, 2)
        while end:
            start = max(0, end - (1 << 16))
            file.seek(start)
            position = file.read(end - start).rfind(b"\n")
            if position >= 0:
                return start + position + 1
            end = start
    return 0


def _clause(error: Exception) -> str:
    message = str(error).rstrip(".")
    return message[:1].lower() + message[1:]
