"""The output folder of a run: part files, and beside them what is needed to continue it.

| file | contents |
| --- | --- |
| ``part-00000.parquet``, ... | records, complete or absent |
| ``_settings.json`` | what the records depend on, and the sources |
| ``_sources/part-00000.jsonl``, ... | the sources of each part, written before it is processed |
| ``_sources/complete.json`` | how many parts and sources there are, once all are listed |
| ``_done/part-00000.1000-2`` | an empty file: the part has 1,000 records, of which 2 are errors |
| ``_SUCCESS`` | the totals, once all parts are done |

Programs that read folders of part files ignore names with an underscore. The folder is local or in object storage.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from densenet_cli.errors import ImageError, OutputError, SourceNotFoundError, UsageError
from densenet_cli.output.atomic import output_errors, sync, sync_path
from densenet_cli.output.checks import check_output_folder
from densenet_cli.output.resume import compare_settings
from densenet_cli.paths import is_remote
from densenet_cli.ray.records import PART_FORMATS
from densenet_cli.text import join_names, to_unicode

SETTINGS, SUCCESS, COMPLETE = "_settings.json", "_SUCCESS", "_sources/complete.json"

MAX_FILE_SIZE = 1 << 30
"""Bytes of a list of sources or another file that is read back."""

_PART = re.compile(r"part-(\d{5,})(\.[a-z]+)")
_DONE = re.compile(r"part-(\d{5,})\.(\d+)-(\d+)")


class PartCounts(NamedTuple):
    """What a part consists of.

    Attributes:
        records: The number of records.
        failed: The number of error records among them.
    """

    records: int
    failed: int


class PartFolder:
    """Reads and writes the files of an output folder. Names are relative to it.

    Args:
        location: A path or a URL.
        format_name: A key of ``PART_FORMATS``.
    """

    def __init__(self, location: str, format_name: str) -> None:
        self.location = location if is_remote(location) else str(Path(location).absolute())
        self.suffix = PART_FORMATS[format_name].suffix
        self._files: _LocalFiles | _RemoteFiles
        self._files = _RemoteFiles(location) if is_remote(location) else _LocalFiles(Path(self.location))
        self.name = self._files.name

    def part_name(self, part: int) -> str:
        """Return the name of a part file."""
        return f"part-{part:05d}{self.suffix}"

    def check(self) -> None:
        """Check that files can be written, as far as that can be found out. Raises ``OutputError``."""
        self._files.check()

    def has_settings(self) -> bool:
        """Return whether a run has written to this folder. Raises ``OutputError``."""
        return self._read(SETTINGS) is not None

    def check_empty(self) -> None:
        """Raise ``UsageError`` if the folder contains part files of an unknown run."""
        if any(_PART.fullmatch(name) for name in self._files.list("")):
            raise UsageError(
                f"{self.name} contains part files, but no {SETTINGS}, so their settings are unknown. Use `overwrite` "
                "to delete them, or choose another folder."
            )

    def check_settings(self, settings: Mapping[str, Any]) -> str:
        """Check that the run in this folder has the same settings. Return its identifier.

        Raises:
            UsageError: The settings differ, or those of the folder cannot be read.
        """
        try:
            stored = json.loads(self._read(SETTINGS) or b"")
        except ValueError:
            stored = None
        if not isinstance(stored, dict):
            raise UsageError(f"{SETTINGS} in {self.name} is damaged. Use `overwrite` to replace the run.")
        run = str(stored.pop("run", ""))
        if differences := compare_settings(settings, stored):
            raise UsageError(
                f"{self.name} belongs to another run: {join_names(differences)}. Use the same settings and sources to "
                "continue it, `overwrite` to replace it, or another folder."
            )
        return run

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Write the settings. Raises ``OutputError``."""
        self.put(SETTINGS, json.dumps(dict(settings), indent=2).encode() + b"\n")

    def check_run(self, run: str) -> None:
        """Raise ``OutputError`` if another run has replaced the one with this identifier."""
        try:
            stored = json.loads(self._read(SETTINGS) or b"")["run"]
        except (ValueError, TypeError, KeyError):
            stored = None
        if stored != run:
            raise OutputError(f"Another run has replaced this one in {self.name}. Use one folder per run.")

    def clear(self) -> None:
        """Delete all files of a run, the settings last. Raises ``OutputError``."""
        for folder, pattern in (("_done", _DONE), ("", _PART), ("_sources", _PART)):
            for name in self._files.list(folder):
                if pattern.fullmatch(name):
                    self._files.remove(f"{folder}/{name}".lstrip("/"))
        for name in (SUCCESS, COMPLETE, SETTINGS):
            self._files.remove(name)

    def remove_leftovers(self) -> None:
        """Delete unfinished files of processes that were killed."""
        self._files.remove_leftovers()

    def finished(self) -> dict[int, PartCounts]:
        """Return the parts that are done. Raises ``OutputError``."""
        parts = {int(match[1]) for name in self._files.list("") if (match := _PART.fullmatch(name))}
        markers = map(_DONE.fullmatch, self._files.list("_done"))
        return {
            int(match[1]): PartCounts(int(match[2]), int(match[3]))
            for match in markers
            if match and int(match[1]) in parts
        }

    def finish(self, part: int, counts: PartCounts) -> None:
        """Note that a part file is complete. Raises ``OutputError``."""
        self.put(f"_done/part-{part:05d}.{counts.records}-{counts.failed}", b"")

    def count_sources(self) -> int:
        """Return the number of parts whose list of sources is written, up to a gap. Raises ``OutputError``."""
        parts = {int(match[1]) for name in self._files.list("_sources") if (match := _PART.fullmatch(name))}
        return next(part for part in range(len(parts) + 1) if part not in parts)

    def read_sources(self, part: int) -> bytes | None:
        """Return the list of the sources of a part, or None if it is not written yet. Raises ``OutputError``."""
        return self._read(f"_sources/part-{part:05d}.jsonl")

    def write_sources(self, part: int, lines: bytes) -> None:
        """Write the list of the sources of a part. Raises ``OutputError``."""
        self.put(f"_sources/part-{part:05d}.jsonl", lines)

    def read_totals(self) -> tuple[int, int] | None:
        """Return the numbers of parts and sources, or None if not all are listed. Raises ``OutputError``."""
        data = self._read(COMPLETE)
        if data is None:
            return None
        try:
            totals = json.loads(data)
            return int(totals["parts"]), int(totals["sources"])
        except (ValueError, TypeError, KeyError):  # the file is damaged, so the listing is continued
            return None

    def write_totals(self, parts: int, sources: int) -> None:
        """Note that all sources are listed. Raises ``OutputError``."""
        self.put(COMPLETE, json.dumps({"parts": parts, "sources": sources}).encode() + b"\n")

    def write_success(self, parts: int, records: int, failed: int) -> None:
        """Note that all parts are done. Raises ``OutputError``."""
        totals = {"parts": parts, "records": records, "failed": failed}
        self.put(SUCCESS, json.dumps(totals).encode() + b"\n")

    def put(self, name: str, data: bytes) -> None:
        """Create or replace a file, completely or not at all. Raises ``OutputError``."""
        self._files.put(name, data)

    @contextmanager
    def create(self, name: str) -> Iterator[IO[bytes]]:
        """Create or replace a file with what the block writes, if it ends without an error.

        Raises:
            OutputError: The file cannot be written.
        """
        with self._files.create(name) as file:
            yield file

    def _read(self, name: str) -> bytes | None:
        try:
            return self._files.read(name)
        except SourceNotFoundError:
            return None
        except ImageError as error:
            raise OutputError(f"Cannot read {name} in {self.name}: {error}") from None


class _LocalFiles:
    """Files in a folder of this machine, or of a file system that all machines share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.name = to_unicode(str(folder))

    def check(self) -> None:
        if self._folder.exists() and not self._folder.is_dir():
            raise OutputError(f"Cannot write {self.name}: it is not a folder.")
        check_output_folder(self._folder)

    def list(self, folder: str) -> Iterator[str]:
        with output_errors(self._folder), suppress(FileNotFoundError), os.scandir(self._folder / folder) as entries:
            yield from [entry.name for entry in entries]

    def read(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise SourceNotFoundError("No such file or folder.") from None
        except OSError as error:
            raise OutputError(f"Cannot read {self.name}/{name}: {error.strerror or error}.") from error

    def put(self, name: str, data: bytes) -> None:
        with self.create(name) as file:
            file.write(data)

    @contextmanager
    def create(self, name: str) -> Iterator[IO[bytes]]:
        target = self._folder / name
        # The name is unique: a process that was believed dead may still be writing the same part.
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        with output_errors(target):
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(partial, "xb") as file:
                    yield file
                    file.flush()
                    sync(file.fileno())
                partial.replace(target)
                sync_path(target.parent)
            except BaseException:
                with suppress(OSError):
                    partial.unlink()
                raise

    def remove(self, name: str) -> None:
        with output_errors(self._folder):
            (self._folder / name).unlink(missing_ok=True)

    def remove_leftovers(self) -> None:
        for folder in ("", "_sources", "_done"):
            for name in self.list(folder):
                if name.startswith(".") and name.endswith(".tmp"):
                    self.remove(f"{folder}/{name}".lstrip("/"))


class _RemoteFiles:
    """Files in object storage, where a file appears when it is complete."""

    def __init__(self, url: str) -> None:
        from densenet_cli import storage

        self._storage, self._url = storage, url
        self.name = storage.redact(url)

    def _join(self, name: str) -> str:
        return self._storage.join(self._url, *name.split("/"))

    def check(self) -> None:
        self._storage.check_writable(self._join(SETTINGS))

    def list(self, folder: str) -> Iterator[str]:
        url = self._join(folder) if folder else self._url
        try:
            for entry in self._storage.list_folder(url):
                if not entry.is_folder:
                    yield entry.path
        except SourceNotFoundError:
            return
        except ImageError as error:
            raise OutputError(f"Cannot list {self.name}: {error}") from None

    def read(self, name: str) -> bytes:
        return self._storage.read(self._join(name), MAX_FILE_SIZE)

    def put(self, name: str, data: bytes) -> None:
        self._storage.put(self._join(name), data)

    @contextmanager
    def create(self, name: str) -> Iterator[IO[bytes]]:
        with tempfile.NamedTemporaryFile(prefix="densenet-part-") as file, output_errors(file.name):
            yield file
            file.flush()
            self._storage.upload(file.name, self._join(name))

    def remove(self, name: str) -> None:
        self._storage.remove(self._join(name))

    def remove_leftovers(self) -> None:
        """Do nothing: an upload that does not end leaves no file."""
