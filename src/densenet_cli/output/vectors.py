"""A file of vectors: its parts are written while a run goes on, and put together at the end.

Beside ``FILE`` stand, once it is whole, ``FILE.sources.jsonl`` (a line a source: the row of its vector, or why it has
none) and ``FILE.meta.json`` (the settings); and until then ``FILE.parts.jsonl``. That one is a file of records like
predict's, whole after every image, so interruptions, full disks and a second run end here as they do there. Where
there are parts, the run that made them isn't finished; ``FILE`` itself is whole, or not there.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from densenet_cli.errors import OutputError, UsageError
from densenet_cli.output import vector_parts
from densenet_cli.output.atomic import open_locked, replace_file
from densenet_cli.output.checks import check_output_file
from densenet_cli.output.record_file import FileWriter
from densenet_cli.output.records import open_records
from densenet_cli.output.settings import compare_settings, settings_file, write_settings
from densenet_cli.output.vector_formats import Content, about, format_of
from densenet_cli.output.writers import N
from densenet_cli.results import Embedding
from densenet_cli.text import to_unicode

if TYPE_CHECKING:
    pass

_BUFFER = 1 << 20


class Vectors:
    """What a run has to do, and where it puts what is done.

    Attributes:
        recorded: how many sources were done before this run.
        failed: how many sources have an error instead of a vector, those of earlier runs among them.
        rows: how many have a vector; known once the file is put together.
    """

    def __init__(self, records: FileWriter) -> None:
        self._records = records
        self.recorded = records.recorded
        self.failed = records.recorded_errors
        self.rows = 0

    def pending(self, sources: Iterable[N]) -> Iterator[N]:
        """The sources that aren't done yet, in the order in which they are to be written."""
        return self._records.pending(sources)

    def write(self, embedding: Embedding) -> None:
        """Keep a source's vector, float32 of shape (width,), or its error. Raises OutputError."""
        self.failed += embedding.error is not None
        self._records.put(embedding.source, vector_parts.part_of(embedding))


class EmbeddingFile:
    """Vectors in a file; see ``open``. What can be refused without a model is refused at once.

    Args:
        output: the file; its suffix is a dot and a key of ``formats.FORMATS``.
        resume: go on with what an interrupted run has left, or with a whole file.
        overwrite: replace ``output`` if it exists, once the new one is whole.
        retry_errors: with ``resume``, do the failed sources again, last.

    Raises:
        UsageError: options that contradict each other; no format, or its library is missing; there is something
            already, and neither ``resume`` nor ``overwrite`` was said.
        OutputError: there can't be a file.

    Attributes:
        listing: where the sources are listed.
        parts: where unfinished vectors are kept.
    """

    def __init__(
        self,
        output: str | os.PathLike[str],
        *,
        resume: bool = False,
        overwrite: bool = False,
        retry_errors: bool = False,
    ) -> None:
        self._given = Path(output)
        self._name = to_unicode(str(self._given))
        self._path = Path(os.path.realpath(self._given))
        self._format = format_of(self._given)
        self.listing = self._given.with_name(f"{self._given.name}.sources.jsonl")
        self.parts = self._given.with_name(f"{self._given.name}.parts.jsonl")
        self._resume = resume
        self._open_records = partial(
            open_records, self.parts, "jsonl", resume=resume, overwrite=overwrite, retry_errors=retry_errors
        )
        with self._reporting():
            check_output_file(self._given, overwrite=True)  # that it exists is said below, with --resume as a way on
            self._is_whole = self._given.is_file() and self._given.stat().st_size > 0
            if self._is_whole and not (resume or overwrite):
                raise UsageError(
                    f"{self._name} exists; go on with it by --resume, replace it by --overwrite, or name another file."
                )
            self._records({})

    def _records(self, settings: Mapping[str, Any]) -> FileWriter:
        writer = self._open_records(settings)
        assert isinstance(writer, FileWriter)
        return writer

    @contextlib.contextmanager
    def open(self, settings: Mapping[str, Any], width: int) -> Iterator[Vectors]:
        """Write vectors of ``width`` numbers, and put the file together when the ``with`` ends without an error.

        Args:
            settings: what the vectors depend on, of JSON's types.
            width: their length.

        Raises:
            UsageError: what is there was made with other settings.
            OutputError: the file or its parts can't be written, or aren't ours; another run is writing them.
        """
        if self._resume and self._is_whole and not (self.parts.is_file() and self.parts.stat().st_size):
            self._take_apart(settings, width)
        with self._records(settings) as records:
            vectors = Vectors(records)
            yield vectors
            vectors.rows = self._put_together(settings, width)
            records.remove()

    def _put_together(self, settings: Mapping[str, Any], width: int) -> int:
        listing = vector_parts.Listing(self.parts)
        with self._reporting(
            f"; all vectors are kept in {to_unicode(str(self.parts))}, and --resume puts them together"
        ):
            replace_file(self.listing, listing.lines()).close()
            write_settings(self._given, settings)
            content = Content(
                listing.rows,
                width,
                listing.longest,
                vector_parts.vectors(self.parts, width),
                vector_parts.sources(self.listing),
                about(dict(settings)),
            )
            replace_file(self._path, lambda file: _buffered(file, lambda f: self._format.write(f, content))).close()
        return listing.rows

    def _take_apart(self, settings: Mapping[str, Any], width: int) -> None:
        """Make of a whole file the parts that it was put together from; until they are stored it stays all there is."""
        compare_settings(self._given, settings)
        if not self.listing.is_file():
            raise UsageError(
                f"{to_unicode(str(self.listing))} is missing, so it isn't known what is in {self._name}; "
                "start anew with --overwrite."
            )
        with self._reporting():
            locked, created = open_locked(self.parts)
            with locked, open(self._path, "rb") as file:
                if locked.seek(0, os.SEEK_END):  # another run was quicker
                    return
                try:
                    write_settings(self.parts, settings)
                    lines = vector_parts.taken_apart(self.listing, self._format.read(file, width))
                    replace_file(self.parts, lines).close()
                except BaseException as error:
                    if created:
                        settings_file(self.parts).unlink(missing_ok=True)
                        self.parts.unlink()
                    if not isinstance(error, Exception) or getattr(error, "errno", None) is not None:
                        raise
                    raise OutputError(  # whatever numpy, zipfile and pyarrow say of a file that holds something else
                        f"{self._name} and {to_unicode(str(self.listing))} don't hold what embed writes ({error}); "
                        "start anew with --overwrite."
                    ) from error

    @contextlib.contextmanager
    def _reporting(self, way_on: str = "") -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"{self._name} can't be written ({error.strerror or error}){way_on}.") from error


def _buffered(file: BinaryIO, fill: Callable[[BinaryIO], None]) -> None:
    """``fill`` with a file that takes all it is given at once, however much of it the system takes at a time."""
    buffered = io.BufferedRandom(file, _BUFFER)  # type: ignore[arg-type]
    try:
        fill(buffered)
        buffered.flush()
    finally:
        with contextlib.suppress(OSError):  # raised already
            buffered.detach()
