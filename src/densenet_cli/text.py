r"""Text for output: escaped names, lines of JSON and CSV, and the shortest decimals of float32.

``docs/reference/output.md`` documents the formats. Python holds the bytes of a name that is not UTF-8 as lone
surrogates. Such a name is written with backslash escapes, and its own backslashes are doubled. JSON adds the bytes of
the name. CSV has no field for them, so there backslashes are doubled in every name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MAX_LISTED = 5
"""Names that ``join_names`` lists."""


def to_unicode(text: str) -> str:
    r"""Return ``text`` with undecodable bytes written as ``\xff``."""
    return text if _is_unicode(text) else _to_bytes(text).decode("utf-8", "backslashreplace")


def to_printable(text: str) -> str:
    """Return ``text`` with undecodable bytes, control characters, and everything else that is invisible escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in to_unicode(text))


def quote(name: str) -> str:
    """Return ``to_printable`` of a name in quotation marks, for a message."""
    mark = '"' if "'" in name else "'"
    return f"{mark}{to_printable(name)}{mark}"


def escape_name(name: str) -> str:
    r"""Return a name as Unicode from which it can be restored: ``\`` as ``\\``, an undecodable byte as ``\xff``."""
    return to_unicode(name.replace("\\", "\\\\"))


def unescape_name(name: str) -> str:
    r"""Return the name from which ``escape_name`` made an escaped one."""
    if "\\" not in name:
        return name
    import re

    def restore(escape: re.Match[str]) -> str:
        return "\\" if escape[1] == "\\" else chr(0xDC00 + int(escape[1][1:], 16))

    return re.sub(r"\\(\\|x[89a-f][0-9a-f])", restore, name)


def source_fields(name: str) -> dict[str, Any]:
    """Return the first fields of a record in JSON: ``source``, and ``source_bytes`` if the name is not UTF-8."""
    if _is_unicode(name):
        return {"source": name}
    import base64

    return {"source": escape_name(name), "source_bytes": base64.b64encode(_to_bytes(name)).decode()}


def json_line(record: dict[str, Any]) -> str:
    """Return a record as one line of JSON without a newline. Invisible and control characters are escaped."""
    import json

    line = json.dumps(record, ensure_ascii=False, allow_nan=False)
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def csv_line(fields: tuple[str, ...]) -> str:
    r"""Return a row of CSV that ends with ``\n``."""
    import csv

    line: str = csv.writer(_CSVLine).writerow(fields)
    return line


class _CSVLine:
    r"""A file whose ``write`` returns the line. The csv module quotes a lone ``\r`` only if its rows end with one."""

    @staticmethod
    def write(line: str) -> str:
        return line.removesuffix("\r\n") + "\n"


def shortest_float(value: float) -> float | None:
    """Return the number with the fewest decimals that reads as the same float32. None for NaN and infinity."""
    import numpy as np

    single = np.float32(value)
    return float(str(single)) if np.isfinite(single) else None


def plural(number: int, noun: str, nouns: str = "") -> str:
    """Return a count with its noun: ``1 image``, ``1,234 images``. ``nouns`` is the plural if it is irregular."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def join_names(names: Sequence[str]) -> str:
    """Return names as text for a message: ``a``, ``a and b``, ``a, b, and c``, or five and how many more there are."""
    listed = [to_printable(name) for name in names[:MAX_LISTED]]
    if len(names) > MAX_LISTED:
        listed.append(f"{len(names) - MAX_LISTED:,} more")
    return f"{', '.join(listed[:-1])}{',' * (len(listed) > 2)} and {listed[-1]}" if len(listed) > 1 else "".join(listed)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _to_bytes(name: str) -> bytes:
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        return name.encode("utf-8", "surrogatepass")


def format_duration(seconds: float) -> str:
    """Format a duration: ``3:07:05`` or ``7:05``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
