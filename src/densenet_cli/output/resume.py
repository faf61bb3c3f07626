"""Resuming an interrupted file of records: which sources are done, which bytes are kept, and with which settings."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from densenet_cli.errors import OutputError, UsageError
from densenet_cli.output.atomic import replace_file
from densenet_cli.output.record_formats import RECORD_FORMATS, InvalidRecordError, StoredRecord
from densenet_cli.paths import PathNormalizer, is_stdin, working_directory
from densenet_cli.text import to_unicode, unescape_name

MAX_COMPARISON_LENGTH = 200
"""Characters. Values of a setting that are longer are not shown in a message."""

WORKING_DIRECTORY = "working_directory"
"""Key beside the settings of a file: where its relative names start."""


ADDED_SETTINGS = {
    "activation": "softmax",
    "interpolation": "bilinear",
    "crop_ratio": None,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "pooling": "avg",
    "calibrated": False,
    "coverage": None,
    "max_error": None,
    "set_method": None,
    "by_class": False,
}
"""Settings that files of older versions lack, with the values that they had."""


class SourceKeys:
    """Computes the key of a source: the same for all spellings of a path, relative or absolute.

    The first page of a file, ``file.tif[0]``, has the key of the file.

    Args:
        folder: Where relative names start.
    """

    def __init__(self, folder: str) -> None:
        self._normalize = PathNormalizer(folder)

    def __call__(self, escaped: str) -> int:
        """Return the key of a name that ``escape_name`` escaped."""
        name = unescape_name(escaped)
        path = name if is_stdin(name) else self._normalize(name)
        is_first_page = path.endswith("[0]") and not os.path.lexists(path)
        return hash(path.removesuffix("[0]") if is_first_page else path)


@dataclass(slots=True)
class ResumeState:
    """What a file of records contains.

    Attributes:
        size: Number of bytes to keep: those of all records but the ambiguous one.
        done: Key of a source (``SourceKeys``) -> number of its records. A hundred thousand take about 10 MB, and two of
            them share a key with a probability below 10**-9.
        retriable: The error records whose sources are processed again, if they are given: key, start, and stop.
        errors: Number of the other error records.
        ambiguous: The last record, if it may be incomplete. It is not counted in the other attributes.
    """

    size: int = 0
    done: dict[int, int] = field(default_factory=dict)
    retriable: list[tuple[int, int, int]] = field(default_factory=list)
    errors: int = 0
    ambiguous: StoredRecord | None = None


def read_state(
    file: BinaryIO,
    name: str,
    format_name: str,
    key: Callable[[str], int],
    *,
    max_rows: int | None,
    retry_errors: bool,
) -> ResumeState:
    """Read a file of records from its start. An incomplete record at the end is not kept.

    Args:
        file: The file, at its start.
        name: Its name in messages.
        format_name: A key of ``RECORD_FORMATS`` that can be resumed.
        key: Returns the key of an escaped name.
        max_rows: Maximum number of CSV rows per record, None if unknown.
        retry_errors: Whether to process the sources of error records again.

    Raises:
        OutputError: The file is not one of records, or is damaged before its end.
    """
    format_ = RECORD_FORMATS[format_name]
    assert format_.read is not None
    state = ResumeState()
    head = format_.head.encode()
    start = file.read(len(head))
    if start != head:
        if head.startswith(start):
            return state
        raise OutputError(
            f"{name} does not start like a .{format_name} file of this version. Use `overwrite` to replace it."
        )
    state.size = len(head)
    try:
        for record in format_.read(file, len(head), max_rows):
            if record.ambiguous:
                state.ambiguous = record
                break
            state.size = record.stop
            source_key = key(record.source)
            if record.failed and retry_errors:
                state.retriable.append((source_key, record.start, record.stop))
            else:
                state.done[source_key] = state.done.get(source_key, 0) + 1
                state.errors += record.failed
    except InvalidRecordError as error:
        raise OutputError(
            f"{name} is damaged: there is no record at byte {error.offset}. Use `overwrite` to replace it."
        ) from None
    return state


def settings_path(output: Path) -> Path:
    """Return the file with the settings of an output file: ``FILE.meta.json`` beside it."""
    return output.with_name(f"{output.name}.meta.json")


def write_settings(output: Path, settings: Mapping[str, Any], folder: str) -> None:
    """Write the settings (JSON types) of an output file, and where its relative names start. Raises OSError."""
    contents = {**settings, WORKING_DIRECTORY: folder}
    replace_file(settings_path(output), json.dumps(contents, indent=2).encode() + b"\n").close()


def check_settings(output: Path, settings: Mapping[str, Any]) -> str:
    """Check that an output file was written with the same settings.

    Returns:
        The folder where its relative names start: the current one if the original one is unknown or does not exist.

    Raises:
        UsageError: The settings differ, or those of the file are unknown.
    """
    name, file_name = to_unicode(str(output)), to_unicode(str(settings_path(output)))
    try:
        with open(settings_path(output), encoding="utf-8") as file:
            stored = json.load(file)
    except FileNotFoundError:
        raise UsageError(
            f"{file_name} is missing, so the settings of {name} are unknown. Use `overwrite` to replace it."
        ) from None
    except ValueError:
        stored = None
    if not isinstance(stored, dict):
        raise UsageError(f"{file_name} is damaged. Use `overwrite` to replace {name}.")
    folder = stored.pop(WORKING_DIRECTORY, None)
    differences = compare_settings(settings, stored)
    if differences:
        raise UsageError(
            f"{name} was written with other settings: {', '.join(differences)}. "
            "Use the same settings to continue it, or `overwrite` to replace it."
        )
    return folder if isinstance(folder, str) and os.path.isdir(folder) else working_directory()


def compare_settings(settings: Mapping[str, Any], stored: dict[str, Any]) -> list[str]:
    """Return the names of settings that differ from stored ones, with their values if these are short.

    ``stored`` is changed: settings of older versions are completed.
    """
    current = json.loads(json.dumps(dict(settings)))
    for values in (current, stored):
        for key in ("assumptions", "notes"):  # the assumed values are settings
            values.pop(key, None)
    for key in current.keys() & ADDED_SETTINGS.keys():
        default = "nearest" if key == "interpolation" and stored.get("preprocess") == "keras" else ADDED_SETTINGS[key]
        stored.setdefault(key, default)
    if "crop_ratio" in current and stored.get("crop_ratio", "") is None and stored.get("preprocess") == "crop":
        stored["crop_ratio"] = 0.875  # which older versions wrote as null
    if "stem" in current:
        stored.setdefault("stem", current["stem"])  # an older version does not say which one it had
    missing = object()
    return [
        f"`{key}`" + _comparison(current.get(key), stored.get(key))
        for key in current | stored
        if current.get(key, missing) != stored.get(key, missing)
    ]


def _comparison(current: object, stored: object) -> str:
    text = f" (now {json.dumps(current)}, before {json.dumps(stored)})"
    return text if len(text) < MAX_COMPARISON_LENGTH else ""
