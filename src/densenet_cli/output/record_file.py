"""A file of records that is complete after every record.

A record is written at once at the end of the file. In a JSON array it replaces the closing bracket and adds a new one.
So an interruption, even SIGKILL, leaves complete records, and a write that fails on a full disk is undone.
The file is flushed to disk only at the end. If a power failure takes records that the system had not stored yet,
``resume`` writes them again.

Existing contents are not changed before the first record: an error before it costs no old results.
An empty file counts as missing. ``FILE.meta.json`` is written before the first byte of records.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from densenet_cli.output.atomic import open_locked, output_errors, replace_file, sync, sync_path, write_all
from densenet_cli.output.checks import file_exists_error
from densenet_cli.output.record_formats import RECORD_FORMATS, N, Record
from densenet_cli.output.resume import (
    ResumeState,
    SourceKeys,
    check_settings,
    read_state,
    settings_path,
    write_settings,
)
from densenet_cli.paths import PathNormalizer, is_stdin, working_directory
from densenet_cli.text import escape_name, to_unicode, unescape_name

_CHUNK_SIZE = 1 << 20


class FileWriter:
    """Writes records to a file; see ``open_records`` for the arguments and ``RecordWriter`` for the interface.

    Entering it raises UsageError if the file exists and is to be neither resumed nor overwritten, or was written with
    other settings; and OutputError if it cannot be written, another run is writing it, or it contains no records.

    Attributes:
        folder: Where the relative names in the file start: the working directory of the run that created it.
    """

    def __init__(
        self,
        path: Path,
        format_name: str,
        settings: Mapping[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
        retry_errors: bool = False,
    ) -> None:
        self.recorded = 0
        self.folder = self._working_directory = working_directory()
        self._key = SourceKeys(self.folder)
        self._normalize = PathNormalizer(self._working_directory)
        self._path = path
        self._target = Path(os.path.realpath(path))
        self._format_name = format_name
        self._format = RECORD_FORMATS[format_name]
        self._settings = settings
        self._resume = resume
        self._overwrite = overwrite
        self._retry_errors = retry_errors
        self._state = ResumeState()
        self._retried: Counter[int] = Counter()
        """Key of a source -> number of its error records to remove. Known when ``pending`` has seen all sources."""
        self._ambiguous_data = b""
        """The bytes of the ambiguous record. They are written again unless its source gets a new record."""
        self._started = False
        self._deleted = False
        self._end = 0
        """Where the next record goes: after the last complete one."""

    def __enter__(self) -> Self:
        with self._output_errors():
            self._file, self._created = open_locked(self._target)
            try:
                self._read_state()
            except BaseException:
                self._discard()
                raise
        return self

    def _read_state(self) -> None:
        """Find out what the file contains, without changing it."""
        size = os.fstat(self._file.fileno()).st_size
        if size and not (self._resume or self._overwrite):
            raise file_exists_error(self._path, can_resume=self._format.read is not None)
        if size == 0 or self._overwrite:
            return
        self.folder = check_settings(self._path, self._settings)
        self._key = SourceKeys(self.folder)
        with open(self._file.fileno(), "rb", closefd=False) as file:
            self._state = read_state(
                file,
                to_unicode(str(self._path)),
                self._format_name,
                self._key,
                max_rows=self._settings.get("top_k"),
                retry_errors=self._retry_errors,
            )
            if ambiguous := self._state.ambiguous:
                file.seek(ambiguous.start)
                self._ambiguous_data = file.read(ambiguous.stop - ambiguous.start)
        self.recorded = sum(self._state.done.values())

    @property
    def recorded_errors(self) -> int:
        """Number of error records of earlier runs that stay. See ``RecordWriter``."""
        return self._state.errors + len(self._state.retriable) - self._retried.total()

    def pending(self, sources: Iterable[N]) -> Iterator[N]:
        """Yield the sources without a record, in order, and then those to retry, whose error records are removed.

        A source that is given twice gets two records. All spellings of a path are the same source. If relative names
        in the file do not start at the working directory, relative names of new sources are made absolute.
        """
        done, retried = self._state.done.copy(), Counter[int]()
        retriable = Counter(key for key, _, _ in self._state.retriable)
        ambiguous = self._state.ambiguous
        last = []
        for source in sources:
            name = self._recorded_name(source.name)
            key = self._key(escape_name(name))
            if done.get(key):
                done[key] -= 1
            elif retried[key] < retriable[key]:
                retried[key] += 1
                last.append(_rename(source, name))
            else:
                if ambiguous and self._key(ambiguous.source) == key:
                    name = unescape_name(ambiguous.source)
                yield _rename(source, name)
        self._retried = retried
        yield from last

    def _recorded_name(self, name: str) -> str:
        """Return the name for the record of a source: absolute if relative names mean something else in the file.

        An absolute name has no ``..``, except after a symbolic link or the name of an archive.
        """
        if self.folder == self._working_directory or is_stdin(name) or os.path.isabs(name):
            return name
        return self._normalize(name)

    def write(self, record: Record) -> None:
        """Write a record completely, or leave the file as it was and raise OutputError."""
        self.write_encoded(record.source, self._format.encode(record))

    def write_encoded(self, source: str, record: str) -> None:
        """Write a record that is encoded already. Raises OutputError."""
        with self._output_errors():
            self._start()
            if self._retried and self._key(escape_name(source)) in self._retried:
                self._remove_retried()
            self._append(record)
        if (ambiguous := self._state.ambiguous) and self._key(ambiguous.source) == self._key(escape_name(source)):
            self._ambiguous_data = b""

    def delete(self) -> None:
        """Delete the file while it is still locked."""
        with self._output_errors():
            self._target.unlink()
            settings_path(self._path).unlink(missing_ok=True)
            self._deleted = True

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._end == 0:
            self._discard()
            return
        if self._deleted:
            self._file.close()
            return
        with self._output_errors() if kind is None else contextlib.suppress(OSError), self._file:
            self._start()
            if self._ambiguous_data or self._end == 0:
                self._append(self._ambiguous_data.decode())
            sync(self._file)
            sync_path(self._target.parent)

    def _start(self) -> None:
        """Reduce the file to its complete records, before the first record of this run."""
        if self._started:
            return
        size = self._state.size
        if os.fstat(self._file.fileno()).st_size > size:  # a file that stays as it is keeps its time
            self._file.truncate(size)
        if size == 0:
            sync(self._file)
            write_settings(self._path, self._settings, self.folder)
        self._end = size
        self._started = True

    def _remove_retried(self) -> None:
        """Replace the file by a new one without the error records of the sources that are processed again."""
        ranges, start = [], 0
        retried = self._retried.copy()
        for key, error_start, error_stop in self._state.retriable:
            if retried[key]:
                retried[key] -= 1
                ranges.append((start, error_start))
                start = error_stop
        ranges.append((start, self._end))

        def chunks() -> Iterator[bytes]:
            for start, stop in ranges:
                self._file.seek(start)
                while start < stop:
                    chunk = self._file.read(min(_CHUNK_SIZE, stop - start))
                    if not chunk:
                        raise OSError(errno.EIO, "the file was truncated")
                    start += len(chunk)
                    yield chunk

        mode = stat.S_IMODE(os.fstat(self._file.fileno()).st_mode)
        compacted = replace_file(self._target, chunks(), mode)
        self._file.close()
        self._file = compacted
        self._end = sum(stop - start for start, stop in ranges)
        self._state.errors = self.recorded_errors
        self._state.retriable.clear()
        self._retried.clear()

    def _append(self, record: str) -> None:
        prefix = self._format.separator if self._end else self._format.head
        data, foot = (prefix + record).encode(), self._format.foot.encode()
        try:
            self._file.seek(self._end)
            write_all(self._file, data + foot)
        except BaseException:
            with contextlib.suppress(OSError):
                self._file.truncate(self._end)
                if self._end:
                    self._file.seek(self._end)
                    write_all(self._file, foot)
            raise
        self._end += len(data)

    def _discard(self) -> None:
        """Close the file. Delete it if this run created it, since it is empty."""
        with contextlib.suppress(OSError):
            if self._created:
                self._target.unlink()
                if self._started:
                    settings_path(self._path).unlink()
        with contextlib.suppress(OSError):
            self._file.close()

    def _output_errors(self) -> contextlib.AbstractContextManager[None]:
        hint = ""
        if self._end or self._state.size:
            hint = "All records written so far are complete."
            if self._format.read:
                hint += " Use `resume` to continue."
        return output_errors(self._path, hint)


def _rename(source: N, name: str) -> N:
    return source if name == source.name else replace(source, name=name)  # type: ignore[type-var]
