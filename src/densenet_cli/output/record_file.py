"""Records in a file that is as good as finished after every one of them.

A record is one write at the end of the file; in a JSON array it goes over the closing bracket, with a new bracket
behind it. So an interruption, even SIGKILL, leaves whole records, and a full disk is undone to the last of them.
The disk is waited for at the end only: a power cut can take what the system had not yet stored, and ``--resume``
does that again.

Nothing that was there is touched before the first record: weights that are missing cost no old results.
An empty file counts as none. ``FILE.meta.json`` is written before the first byte of records, so records never lack it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from densenet_cli.errors import OutputError, UsageError
from densenet_cli.output.atomic import open_locked, replace_file, sync, sync_path, write_all
from densenet_cli.output.resume import Survey, survey
from densenet_cli.output.settings import compare_settings, settings_file, write_settings
from densenet_cli.output.writers import N, RecordWriter
from densenet_cli.results import Prediction
from densenet_cli.text import escape_name, to_unicode

_CHUNK = 1 << 20


class FileWriter(RecordWriter):
    """Writes to a file; see ``open_records`` for the arguments.

    A file that would be refused for what it holds, or where it is, is refused at once, so that nobody waits for a model
    to hear it: UsageError, OutputError.
    Entering raises UsageError (the file holds something and neither ``resume`` nor ``overwrite`` was said; it was made
    with other settings) and OutputError (it can't be written; another run is writing it; it is no file of records).
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
        super().__init__(format_name)
        self._name = to_unicode(str(path))
        self._path = Path(os.path.realpath(path))
        self._given = path
        self._format_name = format_name
        self._settings = settings
        self._resume = resume
        self._overwrite = overwrite
        self._retry_errors = retry_errors
        self._found = Survey()
        self._doubtful = b""
        """The last record, where that may be half of one; it is put back unless its source is done again."""
        self._begun = False
        self._removed = False
        self._end = 0
        """Where the next record goes: behind the last whole one."""
        with self._reporting():
            self._check_is_possible(path)

    def _check_is_possible(self, path: Path) -> None:
        # Asked of the path as it was given: what stands behind /dev/fd/63 has no name of its own.
        is_file = path.is_file()
        if not is_file and path.exists():
            raise OutputError(
                f"{self._name} can't be written: it is no regular file; -o - with --format writes to standard output."
            )
        if not self._path.parent.is_dir():
            folder = to_unicode(str(self._path.parent))
            raise OutputError(f"{self._name} can't be written: there is no folder {folder}.")
        self._check_is_free(self._path.stat().st_size if is_file else 0)

    def __enter__(self) -> Self:
        with self._reporting():
            self._file, self._created = open_locked(self._path)
            try:
                self._look()
            except BaseException:
                self._discard()
                raise
        return self

    def _look(self) -> None:
        """See what the file holds, without changing it."""
        size = os.fstat(self._file.fileno()).st_size
        self._check_is_free(size)
        if size == 0 or self._overwrite:
            return
        compare_settings(self._given, self._settings)
        with open(self._file.fileno(), "rb", closefd=False) as file:
            self._found = survey(
                file,
                self._name,
                self._format_name,
                top_k=self._settings.get("top_k"),
                retry_errors=self._retry_errors,
            )
            if doubtful := self._found.doubtful:
                file.seek(doubtful.start)
                self._doubtful = file.read(doubtful.stop - doubtful.start)
        self.recorded = sum(self._found.done.values())
        self.recorded_errors = self._found.errors

    def _check_is_free(self, size: int) -> None:
        if size and not (self._resume or self._overwrite):
            go_on = "go on with it by --resume, " if self.format.resumable else ""
            raise UsageError(f"{self._name} exists; {go_on}replace it by --overwrite, or name another file.")

    def pending(self, sources: Iterable[N]) -> Iterator[N]:
        """The sources without a record, in order, and behind them those whose error records are dropped.

        A name counts as often as it has records, so a source given twice gets two.
        """
        done, retried = self._found.done.copy(), self._found.retried.copy()
        last = []
        for source in sources:
            key = hash(escape_name(source.name))
            if done.get(key):
                done[key] -= 1
            elif retried.get(key):
                retried[key] -= 1
                last.append(source)
            else:
                yield source
        yield from last

    def write(self, prediction: Prediction) -> None:
        """Write one record whole, or leave the file as it was and raise OutputError."""
        self.put(prediction.source, self.format.encode(prediction))

    def put(self, source: str, record: str) -> None:
        """``write`` for a record of any kind, in this format's form, of the source of that name."""
        with self._reporting():
            self._begin()
            self._append(record)
        if (doubtful := self._found.doubtful) and doubtful.key == hash(escape_name(source)):
            self._doubtful = b""

    def remove(self) -> None:
        """Take the file away, still locked: all that it held is kept elsewhere now."""
        with self._reporting():
            self._path.unlink()
            settings_file(self._given).unlink(missing_ok=True)
            self._removed = True

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._end == 0:
            self._discard()
            return
        if self._removed:
            self._file.close()
            return
        with self._reporting() if kind is None else contextlib.suppress(OSError), self._file:
            self._begin()
            if self._doubtful or self._end == 0:
                self._append(self._doubtful.decode())
            sync(self._file)
            sync_path(self._path.parent)

    def _begin(self) -> None:
        """Make the file what the first record of this run goes behind."""
        if self._begun:
            return
        size = self._found.size
        if size and self._found.ranges[-1][1] > size:
            self._compact()
        else:
            self._file.truncate(size)
        if size == 0:
            sync(self._file)
            write_settings(self._given, self._settings)
        self._end = size
        self._begun = True

    def _compact(self) -> None:
        """Leave only the ranges to keep, in a new file that takes the old one's place when it is whole."""

        def chunks() -> Iterator[bytes]:
            for start, stop in self._found.ranges:
                self._file.seek(start)
                while start < stop:
                    chunk = self._file.read(min(_CHUNK, stop - start))
                    if not chunk:
                        raise OSError(errno.EIO, "it was cut meanwhile")
                    start += len(chunk)
                    yield chunk

        mode = stat.S_IMODE(os.fstat(self._file.fileno()).st_mode)
        kept = replace_file(self._path, chunks(), mode)
        self._file.close()
        self._file = kept

    def _append(self, record: str) -> None:
        lead = self.format.between if self._end else self.format.head
        data, foot = (lead + record).encode(), self.format.foot.encode()
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
        """Close, and leave no empty file that was not there before."""
        with contextlib.suppress(OSError):
            if self._created:
                self._path.unlink()
                if self._begun:
                    settings_file(self._given).unlink()
        with contextlib.suppress(OSError):
            self._file.close()

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kept = "; the records before are whole" if self._end else ""
            way_on = ", and --resume goes on behind them" if kept and self.format.resumable else ""
            raise OutputError(f"{self._name} can't be written ({error.strerror or error}){kept}{way_on}.") from error
