"""Where results go as records: a stream here, a file in ``record_file``, which can also go on with an interrupted one.

A writer is used as a context manager, around everything that can fail::

    with open_records("labels.csv", "csv", settings) as records:
        for prediction in classifier.predict_many(records.pending(sources)):
            records.write(prediction)

Each record goes out whole and at once, so whatever ends the run, what was finished is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self, TypeVar

from densenet_cli.errors import OutputError, UsageError
from densenet_cli.results import FORMATS, Prediction, unicode


class Named(Protocol):
    """Anything with the name that its record will carry as ``source``."""

    @property
    def name(self) -> str:
        """The source's name."""


N = TypeVar("N", bound=Named)


class RecordWriter:
    """Base of the writers.

    Attributes:
        recorded: how many sources had a record before this run; those are left out of ``pending``.
        recorded_errors: how many of those records are errors.
    """

    recorded = 0
    recorded_errors = 0

    def __init__(self, format_name: str) -> None:
        self.format = FORMATS[format_name]

    def pending(self, sources: Iterable[N]) -> Iterator[N]:
        """The sources that have no record yet, lazily and in the order in which their records are to be written."""
        yield from sources

    def write(self, prediction: Prediction) -> None:
        """Write one record and hand it to the system. Raises OutputError; BrokenPipeError where a reader has gone."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        raise NotImplementedError


class StreamWriter(RecordWriter):
    """Writes to an open binary stream, which it leaves open.

    A JSON array is closed however the run ends. If it ends in an error before the first record, nothing is written.
    """

    def __init__(self, stream: BinaryIO, format_name: str) -> None:
        super().__init__(format_name)
        self._stream = stream
        self._begun = False
        self._broken = False

    def write(self, prediction: Prediction) -> None:
        """Write one record and flush it."""
        self._put(self._lead() + self.format.encode(prediction))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._broken or (kind is not None and not self._begun):
            return
        try:
            self._put(("" if self._begun else self.format.head) + self.format.foot)
        except (OSError, OutputError):
            if kind is None:
                raise

    def _lead(self) -> str:
        return self.format.between if self._begun else self.format.head

    def _put(self, text: str) -> None:
        self._begun = True
        try:
            self._stream.write(text.encode())
            self._stream.flush()
        except BrokenPipeError:
            self._broken = True
            raise
        except OSError as error:
            self._broken = True
            raise OutputError(f"Standard output can't be written: {error.strerror or error}.") from error


def format_of(output: str | Path, given: str | None = None) -> str:
    """The format of an output file: its suffix's, in whatever case; ``given`` (``--format``) for another suffix.

    Raises UsageError: neither says a format, or they say two.
    """
    suffix = Path(output).suffix.lower().removeprefix(".")
    if given is not None and given not in FORMATS:
        raise UsageError(f"--format {given} is for the screen; a file takes {_allowed('')}.")
    if suffix not in FORMATS:
        if given is None:
            raise UsageError(
                f"The suffix of {unicode(str(output))} names no format; end it in {_allowed('.')}, or add --format."
            )
        return given
    if given not in (None, suffix):
        raise UsageError(f"--format {given} contradicts the suffix of {unicode(str(output))}; leave one of them out.")
    return suffix


def _allowed(prefix: str) -> str:
    *names, last = (prefix + name for name in FORMATS)
    return f"{', '.join(names)} or {last}"


def open_records(
    output: str | Path | None,
    format_name: str,
    settings: Mapping[str, Any],
    *,
    stream: BinaryIO | None = None,
    resume: bool = False,
    overwrite: bool = False,
    retry_errors: bool = False,
) -> RecordWriter:
    """A writer to the file ``output``, or where that is None to ``stream`` (standard output, if that is None too).

    Args:
        output: the file; nothing is opened before the writer's ``with``.
        format_name: a key of ``FORMATS``.
        settings: what the results depend on, of JSON's types; kept beside the file and compared by ``resume``.
        stream: a binary stream.
        resume: go on with ``output`` if it holds records.
        overwrite: replace ``output`` if it exists, once the first record is there.
        retry_errors: with ``resume``, drop the error records and do their sources last.

    Raises UsageError for options that contradict each other.
    """
    if resume and overwrite:
        raise UsageError("--resume keeps the output file and --overwrite replaces it; choose one.")
    if retry_errors and not resume:
        raise UsageError("--retry-errors goes with --resume.")
    if output is None:
        if resume or overwrite:
            raise UsageError(f"{'--resume' if resume else '--overwrite'} needs a file, named by --output.")
        if stream is None:
            import sys

            stream = sys.stdout.buffer
        return StreamWriter(stream, format_name)
    if resume and not FORMATS[format_name].resumable:
        resumable = " or ".join(f".{name}" for name, format_ in FORMATS.items() if format_.resumable)
        raise UsageError(f"--resume needs an output file that is appended to: {resumable}, not .{format_name}.")
    from densenet_cli.record_file import FileWriter

    return FileWriter(
        Path(output), format_name, settings, resume=resume, overwrite=overwrite, retry_errors=retry_errors
    )
