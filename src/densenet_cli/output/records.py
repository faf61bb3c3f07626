"""Results as records: to a stream, or to a file that an interrupted run can resume.

A writer is a context manager around everything that can fail::

    predictor = classifier.predictor()
    with open_records("labels.csv", "csv", settings) as records:
        for result in classifier.stream(records.pending(sources)):
            records.write(predictor(result))

Each record is written at once and completely. However a run ends, its finished records are there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, Self

from densenet_cli.errors import OutputError, UsageError
from densenet_cli.output.checks import check_output_file, format_from_suffix
from densenet_cli.output.record_formats import RECORD_FORMATS, N, Record

if TYPE_CHECKING:
    from densenet_cli._types import PathLike


_STANDARD_OUTPUT = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


class RecordWriter(Protocol):
    """A writer of records, to be used as a context manager.

    Attributes:
        recorded: Number of records that were there before this run and whose sources are not ``pending``.
    """

    recorded: int

    @property
    def recorded_errors(self) -> int:
        """Number of error records that were there before this run and stay. Known when ``pending`` has ended."""

    def pending(self, sources: Iterable[N]) -> Iterator[N]:
        """Yield the sources that have no record yet, in the order in which their records must be written."""

    def write(self, record: Record) -> None:
        """Write a record. Raises OutputError, or BrokenPipeError if the reader has closed the stream."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class StreamWriter:
    """Writes records to an open binary stream, and flushes it after each.

    A JSON array is closed however the run ends. If it ends with an error before the first record, nothing is written.
    """

    recorded = 0
    recorded_errors = 0

    def __init__(self, stream: BinaryIO, format_name: str) -> None:
        self._format = RECORD_FORMATS[format_name]
        self._stream = stream
        self._started = False
        self._broken = False

    def pending(self, sources: Iterable[N]) -> Iterator[N]:
        """Yield all sources."""
        yield from sources

    def write(self, record: Record) -> None:
        """Write a record and flush the stream. See ``RecordWriter``."""
        self._write((self._format.separator if self._started else self._format.head) + self._format.encode(record))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._broken or (kind is not None and not self._started):
            return
        try:
            self._write(("" if self._started else self._format.head) + self._format.foot)
        except (OSError, OutputError):
            if kind is None:
                raise

    def _write(self, text: str) -> None:
        self._started = True
        try:
            self._stream.write(text.encode())
            self._stream.flush()
        except OSError as error:
            self._broken = True
            if isinstance(error, BrokenPipeError):
                raise
            raise OutputError(f"Cannot write to standard output: {error.strerror or error}.") from error


def resolve_record_format(output: PathLike, given: str | None = None) -> str:
    """Return the format name of an output file: that of its suffix, or ``given`` for another suffix.

    Raises:
        UsageError: The format is unknown or contradicts the suffix, or ``output`` is not the name of a file.
    """
    if not os.fspath(output):
        raise UsageError("`output` is empty. Use a file name, or - for standard output.")
    if os.fspath(output) in _STANDARD_OUTPUT:
        raise UsageError(f"{output} is standard output. Set `output` to - instead.")
    return format_from_suffix(output, {name: f".{name}" for name in RECORD_FORMATS}, given, can_be_given=True)


def check_records(
    output: PathLike | None,
    format_name: str,
    *,
    resume: bool = False,
    overwrite: bool = False,
    retry_errors: bool = False,
) -> None:
    """Check the arguments of ``open_records``, before any expensive work.

    Raises:
        UsageError: The arguments contradict each other, or the file exists.
        OutputError: The file cannot be written.
    """
    check_resume_options(resume, overwrite, retry_errors)
    if output is None:
        if resume or overwrite:
            raise UsageError(f"`{'resume' if resume else 'overwrite'}` needs a file. Set `output`.")
        return
    can_resume = RECORD_FORMATS[format_name].read is not None
    if resume and not can_resume:
        resumable = " or ".join(f".{name}" for name, format_ in RECORD_FORMATS.items() if format_.read)
        raise UsageError(f"`resume` needs a {resumable} file, not .{format_name}.")
    check_output_file(output, resume or overwrite, can_resume=can_resume, in_place=True)


def check_resume_options(resume: bool, overwrite: bool, retry_errors: bool) -> None:
    """Check that options of output files do not contradict each other. Raises UsageError."""
    if resume and overwrite:
        raise UsageError("`resume` continues the output file and `overwrite` replaces it. Use only one of them.")
    if retry_errors and not resume:
        raise UsageError("`retry_errors` needs `resume`.")


def open_records(
    output: PathLike | None,
    format_name: str,
    settings: Mapping[str, Any],
    *,
    stream: BinaryIO | None = None,
    resume: bool = False,
    overwrite: bool = False,
    retry_errors: bool = False,
) -> RecordWriter:
    """Return a writer to a file or a stream.

    Args:
        output: The file, None for ``stream``. It is opened when the writer is entered.
        format_name: A key of ``RECORD_FORMATS``.
        settings: What the results depend on, of JSON types. They are kept beside the file and compared by ``resume``.
        stream: A binary stream, None for standard output.
        resume: Continue ``output`` if it contains records.
        overwrite: Replace ``output`` if it exists, when the first record is written.
        retry_errors: With ``resume``, process the sources of error records again, last, and remove these records.

    Raises:
        UsageError, OutputError: See ``check_records``. Entering the writer raises them too, see ``FileWriter``.
    """
    check_records(output, format_name, resume=resume, overwrite=overwrite, retry_errors=retry_errors)
    if output is None:
        return StreamWriter(stream or sys.stdout.buffer, format_name)
    from densenet_cli.output.record_file import FileWriter

    return FileWriter(
        Path(output), format_name, settings, resume=resume, overwrite=overwrite, retry_errors=retry_errors
    )
