"""Vector files: vectors are collected in a record file while a run continues, and assembled at its end.

Beside the complete ``FILE`` are ``FILE.sources.jsonl`` (a line per source: the row of its vector, or its error) and
``FILE.meta.json`` (the settings). Until then the vectors are in ``FILE.parts.jsonl``, a record file that is complete
after every image, so interrupted runs, full disks, and concurrent runs are handled like those of ``predict``.
As long as there are parts, the run that wrote them is not finished. ``FILE`` itself is complete or absent.

A line of the parts has ``source`` (and ``source_bytes``) like any record, and either ``vector``, base64 of
little-endian float32, or ``error``. In the list of sources, ``row`` replaces ``vector``.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from densenet_cli.errors import OutputError, UsageError
from densenet_cli.output.atomic import open_locked, output_errors, replace_file
from densenet_cli.output.checks import check_output_file
from densenet_cli.output.record_file import FileWriter
from densenet_cli.output.record_formats import N
from densenet_cli.output.records import check_records, check_resume_options
from densenet_cli.output.resume import check_settings, settings_path, write_settings
from densenet_cli.output.vector_formats import BATCH_ROWS, VectorFormat, VectorTable, describe, resolve_vector_format
from densenet_cli.text import json_line, source_fields, to_unicode

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray, PathLike

_BUFFER_SIZE = 1 << 20


class VectorRecord(Protocol):
    """An ``Embedding``."""

    @property
    def source(self) -> str:
        """The name of the image source."""

    @property
    def vector(self) -> FloatArray | None:
        """The vector, float32 of shape (width,), or None with an error."""

    @property
    def error(self) -> _Error | None:
        """The error, or None."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What there is to say about the image."""


class _Error(Protocol):
    def to_dict(self) -> dict[str, str]:
        """Return the error as JSON types."""


def sources_path(output: PathLike) -> Path:
    """Return the file that lists the sources of a vector file."""
    return Path(f"{os.fspath(output)}.sources.jsonl")


def parts_path(output: PathLike) -> Path:
    """Return the file that contains the vectors until the vector file is complete."""
    return Path(f"{os.fspath(output)}.parts.jsonl")


def check_vectors(
    output: PathLike, *, resume: bool = False, overwrite: bool = False, retry_errors: bool = False
) -> None:
    """Check the arguments of ``open_vectors``, before any expensive work.

    Raises:
        UsageError: The arguments contradict each other, the suffix does not name a format or its package is not
            installed, or there is a complete or unfinished file.
        OutputError: The file cannot be written.
    """
    check_resume_options(resume, overwrite, retry_errors)
    resolve_vector_format(Path(output))
    check_output_file(output, resume or overwrite, can_resume=True)
    check_records(parts_path(output), "jsonl", resume=resume, overwrite=overwrite, retry_errors=retry_errors)


@contextlib.contextmanager
def open_vectors(
    output: PathLike,
    settings: Mapping[str, Any],
    width: int,
    *,
    resume: bool = False,
    overwrite: bool = False,
    retry_errors: bool = False,
) -> Iterator[VectorWriter]:
    """Write vectors, and assemble the file if the block ends without an error.

    Args:
        output: The file. Its suffix is a dot and a key of ``VECTOR_FORMATS``.
        settings: What the vectors depend on, of JSON types.
        width: The length of a vector.
        resume: Continue an interrupted run, or add to a complete file.
        overwrite: Replace ``output`` if it exists, once the new file is complete.
        retry_errors: With ``resume``, process the failed sources again, last.

    Raises:
        UsageError: See ``check_vectors``; or the existing vectors were computed with other settings.
        OutputError: A file cannot be written, was not written by this package, or is being written by another run.
    """
    check_vectors(output, resume=resume, overwrite=overwrite, retry_errors=retry_errors)
    path, parts = Path(output), parts_path(output)
    format_ = resolve_vector_format(path)
    if resume and _has_data(path) and not _has_data(parts):
        _restore_parts(path, format_, settings, width)
    with FileWriter(parts, "jsonl", settings, resume=resume, overwrite=overwrite, retry_errors=retry_errors) as records:
        writer = VectorWriter(records)
        yield writer
        writer.rows = _assemble(path, format_, settings, records.folder, width)
        records.delete()


class VectorWriter:
    """Collects vectors; see ``open_vectors``.

    Attributes:
        recorded: Number of sources that were done before this run.
        rows: Number of vectors in the file. Known once it is assembled.
    """

    def __init__(self, records: FileWriter) -> None:
        self._records = records
        self.recorded = records.recorded
        self._failed = 0
        self.rows = 0

    @property
    def failed(self) -> int:
        """Number of sources with an error instead of a vector, in earlier runs too."""
        return self._failed + self._records.recorded_errors

    def pending(self, sources: Iterable[N]) -> Iterator[N]:
        """Yield the sources that are not done yet, in the order in which they must be written."""
        return self._records.pending(sources)

    def write(self, record: VectorRecord) -> None:
        """Write the vector or the error of a source. Raises OutputError."""
        self._failed += record.error is not None
        self._records.write_encoded(record.source, _encode_part(record))


def _has_data(path: Path) -> bool:
    with output_errors(path):
        return path.is_file() and path.stat().st_size > 0


def _assemble(path: Path, format_: VectorFormat, settings: Mapping[str, Any], folder: str, width: int) -> int:
    """Write the list of sources, the settings, and the vector file, in this order. Return the number of vectors."""
    parts, sources = parts_path(path), sources_path(path)
    listing = _SourceList(parts)
    with output_errors(path, f"All vectors are kept in {_name(parts)}. Use `resume` to assemble them."):
        replace_file(sources, listing.lines()).close()
        write_settings(path, settings, folder)
        table = VectorTable(
            listing.rows,
            width,
            listing.max_name_length,
            _read_vectors(parts, width),
            (record["source"] for record in _read_lines(sources) if "row" in record),
            describe(dict(settings)),
        )
        target = Path(os.path.realpath(path))
        replace_file(target, lambda file: _write_buffered(file, lambda f: format_.write(f, table))).close()
    return listing.rows


def _restore_parts(path: Path, format_: VectorFormat, settings: Mapping[str, Any], width: int) -> None:
    """Write the parts from which a complete file was assembled. Until they are complete, it is not changed."""
    folder = check_settings(path, settings)
    parts, sources = parts_path(path), sources_path(path)
    if not sources.is_file():
        raise UsageError(
            f"{_name(sources)} is missing, so the contents of {_name(path)} are unknown. Use `overwrite` to replace it."
        )
    with output_errors(path):
        lock, created = open_locked(parts)
        with lock, open(path, "rb") as file:
            if lock.seek(0, os.SEEK_END):  # another run has restored them
                return
            try:
                write_settings(parts, settings, folder)
                replace_file(parts, _restored_lines(sources, format_.read(file, width))).close()
            except BaseException as error:
                if created:
                    settings_path(parts).unlink(missing_ok=True)
                    parts.unlink()
                if not isinstance(error, Exception) or getattr(error, "errno", None) is not None:
                    raise
                # numpy, zipfile, and pyarrow have many errors for a file that contains something else.
                raise OutputError(
                    f"{_name(path)} and {_name(sources)} were not written by this program, or are damaged: {error}. "
                    "Use `overwrite` to replace them."
                ) from error


def _encode_part(record: VectorRecord) -> str:
    fields = {**source_fields(record.source), **dict.fromkeys(record.notes, True)}
    if record.error is not None:
        return json_line({**fields, "error": record.error.to_dict()}) + "\n"
    assert record.vector is not None
    return json_line({**fields, "vector": _encode_vector(record.vector)}) + "\n"


def _encode_vector(vector: FloatArray) -> str:
    return base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode()


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read a file of parts or a list of sources. Raises OSError, ValueError."""
    with open(path, "rb") as file:
        for line in file:
            yield json.loads(line)


def _read_vectors(parts: Path, width: int) -> Iterator[FloatArray]:
    """Yield the vectors in batches, float32 (up to ``BATCH_ROWS``, width). Raises OSError, ValueError."""
    import numpy as np

    encoded = (record["vector"] for record in _read_lines(parts) if "vector" in record)
    while batch := list(islice(encoded, BATCH_ROWS)):
        yield np.frombuffer(b"".join(map(base64.b64decode, batch)), "<f4").reshape(len(batch), width)


class _SourceList:
    """The list of sources made from parts.

    Attributes:
        rows: Number of vectors. Counted while ``lines`` is consumed.
        max_name_length: Characters of the longest name with a vector. Also found by ``lines``.
    """

    def __init__(self, parts: Path) -> None:
        self._parts = parts
        self.rows = 0
        self.max_name_length = 0

    def lines(self) -> Iterator[bytes]:
        """Yield a line per source, in order."""
        for record in _read_lines(self._parts):
            if record.pop("vector", None) is not None:
                record["row"] = self.rows
                self.rows += 1
                self.max_name_length = max(self.max_name_length, len(record["source"]))
            yield json_line(record).encode() + b"\n"


def _restored_lines(sources: Path, batches: Iterable[FloatArray]) -> Iterator[bytes]:
    """Yield the lines of the parts from which a list of sources and vectors were made.

    Raises:
        ValueError: They do not belong together.
    """
    vectors = chain.from_iterable(batches)
    row = 0
    for record in _read_lines(sources):
        if "row" in record:
            vector = next(vectors, None)
            if record.pop("row") != row or vector is None:
                raise ValueError(f"vector {row} is missing")
            record["vector"] = _encode_vector(vector)
            row += 1
        yield json_line(record).encode() + b"\n"
    if next(vectors, None) is not None:
        raise ValueError("there are more vectors than sources")


def _write_buffered(file: BinaryIO, write: Callable[[BinaryIO], None]) -> None:
    """Call ``write`` with a buffered file. The writers of some formats expect ``write`` to accept all data."""
    buffered = io.BufferedRandom(file, _BUFFER_SIZE)  # type: ignore[arg-type]
    try:
        write(buffered)
        buffered.flush()
    finally:
        with contextlib.suppress(OSError):  # raised by write or flush already
            buffered.detach()


def _name(path: Path) -> str:
    return to_unicode(str(path))
