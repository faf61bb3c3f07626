"""Where results go as records: to a stream, or to a file that an interrupted run can go on with.

A writer is used as a context manager, around everything that can fail::

    with open_records("labels.csv", "csv", settings) as records:
        for prediction in classifier.predict_many(records.pending(sources)):
            records.write(prediction)

Each record goes out whole and at once, so whatever ends the run, what was finished is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from densenet_cli.errors import UsageError
from densenet_cli.output.writers import RecordWriter, StreamWriter
from densenet_cli.results import FORMATS
from densenet_cli.text import to_unicode

__all__ = ["RecordWriter", "StreamWriter", "format_of", "open_records"]

_STANDARD_OUTPUT = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


def format_of(output: str | Path, given: str | None = None) -> str:
    """The format of an output file: its suffix's, in whatever case; ``given`` (``--format``) for another suffix.

    Raises UsageError: neither says a format, or they say two; or that is no name of a file.
    """
    if not str(output):
        raise UsageError("--output needs the name of a file, or - for standard output.")
    if str(output) in _STANDARD_OUTPUT:
        raise UsageError(f"{output} is standard output: write -o - for that, with --format.")
    suffix = Path(output).suffix.lower().removeprefix(".")
    if given is not None and given not in FORMATS:
        raise UsageError(f"--format {given} is for the screen; a file takes {_allowed('')}.")
    if suffix not in FORMATS:
        if given is None:
            raise UsageError(
                f"The suffix of {to_unicode(str(output))} names no format; end it in {_allowed('.')}, or add --format."
            )
        return given
    if given not in (None, suffix):
        raise UsageError(
            f"--format {given} contradicts the suffix of {to_unicode(str(output))}; leave one of them out."
        )
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

    Raises UsageError for options that contradict each other, and what ``FileWriter`` raises at once.
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
    from densenet_cli.output.record_file import FileWriter

    return FileWriter(
        Path(output), format_name, settings, resume=resume, overwrite=overwrite, retry_errors=retry_errors
    )
