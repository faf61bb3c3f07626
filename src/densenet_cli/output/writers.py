"""What every writer of records can do, and the one that writes to a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import BinaryIO, Protocol, Self, TypeVar

from densenet_cli.errors import OutputError
from densenet_cli.results import FORMATS, Prediction


class Named(Protocol):
    """Anything with the name that its record will carry as ``source``."""

    @property
    def name(self) -> str:
        """The source's name."""


N = TypeVar("N", bound=Named)


class Record(Protocol):
    """An image's record in JSON: a ``Prediction``, or another."""

    def to_json(self) -> str:
        """One line."""


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

    def write(self, prediction: Prediction | Record) -> None:
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
