"""Label files: the names of classes in text, JSON, YAML, and CSV files.

The format is detected from the contents. A file that can be read in two ways with different results is rejected.
``docs/reference/label-files.md`` lists the formats.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from densenet_cli import labels
from densenet_cli._types import PathLike
from densenet_cli.errors import UsageError
from densenet_cli.labels import ClassLabel, Labels
from densenet_cli.text import plural, quote, to_unicode
from densenet_cli.textfiles import Table, read_text

Entry: TypeAlias = tuple[str | None, str]
"""The WordNet ID of a class, or None, and its name."""

Value: TypeAlias = Any
"""A value in JSON or YAML: text, a list of values, or a mapping as a tuple of (key, value).

Numbers and YAML's other scalars are text, as they are written, because ``no`` and ``007`` can be names. JSON's true,
false, and null stay as they are.
"""

MAX_YAML_LENGTH = 1 << 20  # parsing takes seconds and hundreds of megabytes for each MiB
MAX_QUOTED = 40  # characters of a text that a message quotes

NUMBER = re.compile(r"\d{1,9}", re.ASCII)
WORDNET_ID = re.compile(r"n\d{8}", re.ASCII)
SEPARATOR = r"(?:\s*[:,;](?!\d)\s*|\s+)"  # not the decimal comma in "0,5 mm" or the colon in "10:30"
NUMBERED_LINE = re.compile(rf"(?P<quote>\"?)(?P<number>\d{{1,9}})(?P=quote)(?:{SEPARATOR}(?P<name>.*))?", re.ASCII)
LINE_WITH_ID = re.compile(rf"(?P<id>n\d{{8}}){SEPARATOR}(?P<name>\S.*)", re.ASCII)
LAST_NUMBER = re.compile(r"[:,;\t] *(\d{1,9})\Z", re.ASCII)
QUOTED = re.compile(r'"((?:[^"]|"")*)"')

YAML_START = re.compile(r"\A(?:---|%YAML|- .*(?:\n(?:- .*)?)*\Z)|^(?:names|id2label|label2id)[ \t]*:", re.MULTILINE)

LIST_KEYS = ("names", "id2label", "labels", "classes", "class_names", "label_names")
"""Keys in JSON and YAML whose value is a list of names or a mapping of index to name."""

INDEX_COLUMNS = ("", "index", "idx", "id", "number", "class_id", "class_idx", "class_index", "label_id", "label_index")
ID_COLUMNS = ("wnid", "wordnet_id", "synset", "synset_id")
NAME_COLUMNS = ("name", "label", "class", "class_name", "label_name", "category", "display_name")
"""Recognized column names. The values decide whether a column contains numbers, WordNet IDs, or names."""


class _FormatError(Exception):
    """A file is rejected. The message gives the reason in sentences."""


class _Numbered(list[Entry]):
    """Labels that were sorted by their numbers."""


def read(path: PathLike, classes: int, replaced: Labels | None = None) -> Labels:
    """Read class labels from a file.

    Args:
        path: A text, JSON, YAML, or CSV file.
        classes: The number of labels that it must contain.
        replaced: The labels of the model, if it has any.

    Raises:
        UsageError: The file cannot be read, is ambiguous, has another number of labels, or contains an invalid name.
    """
    file = to_unicode(str(path))
    text = read_text(path)
    try:
        format, entries = _parse(text, Path(path).suffix.lower(), file)
        _check_unique((id_ for id_, _ in entries if id_), "The WordNet ID")
        if len(entries) != classes:
            required, count = plural(classes, "class", "classes"), plural(len(entries), "label")
            raise UsageError(f"The model has {required}, but {file} contains {count} ({format}).")
        _check_labels(entries, replaced)
    except _FormatError as error:
        raise UsageError(f"Cannot use the labels in {file}. {error}") from None
    if any(id_ for id_, _ in entries):
        return tuple(ClassLabel(position, id_, name) for position, (id_, name) in enumerate(entries))
    return labels.from_class_names(name for _, name in entries)


def _parse(text: str, suffix: str, file: str) -> tuple[str, list[Entry]]:
    """Return the format of a text, for messages, and its labels in order."""
    text = text.rstrip("\n\t ")
    if suffix == ".json" or text.lstrip().startswith(("{", "[")):
        return "JSON", _parse_document(_load_json(text))
    if suffix in (".yaml", ".yml") or YAML_START.search(text):
        return "YAML", _parse_document(_load_yaml(text))
    lines = text.split("\n") if text else []  # Not str.splitlines, which also splits at characters in names.
    if (table := _find_table(lines, file)) is not None:
        return "CSV", _parse_table(table)
    return _parse_lines([line.strip(" \t") for line in lines])


def _parse_lines(lines: list[str]) -> tuple[str, list[Entry]]:
    """Return the format and the labels of a text file with one label per line."""
    if "" in lines:
        raise _FormatError(f"Line {lines.index('') + 1:,} is empty.")
    numbered = [NUMBERED_LINE.fullmatch(line) for line in lines]
    matches = [match for match in numbered if match]
    if any(match["name"] for match in matches):
        if len(matches) == len(lines):
            return "text, numbered lines", _parse_numbered(matches)
        offsets = {int(match["number"]) - position for position, match in enumerate(numbered) if match}
        if len(matches) > 1 and offsets in ({0}, {1}):
            raise _FormatError(f"Some lines are numbered, but line {numbered.index(None) + 1:,} is not.")
    last = sorted(int(match[1]) for line in lines if (match := LAST_NUMBER.search(line[-20:])))
    if last and last[0] < 2 and last == list(range(last[0], last[0] + len(lines))):
        raise _FormatError("Every line ends with a class number. Write the number first, or add a header.")
    entries = [_split_id(line) for line in lines]
    if entries and all(id_ and NUMBERED_LINE.fullmatch(name) for id_, name in entries):
        raise _FormatError("Every line contains a WordNet ID and a number. Write the number first, or remove it.")
    for number, (_, name) in enumerate(entries, start=1):
        if "\t" in name:
            raise _FormatError(f"Line {number:,} contains a tab that follows neither a number nor a WordNet ID.")
    return "text, one label per line", entries


def _parse_numbered(lines: list[re.Match[str]]) -> list[Entry]:
    """Return the labels in matches of ``NUMBERED_LINE``, which are all lines of a file."""
    found = "Every line begins with a number"
    hint = "Number the lines from 0, or write names that begin with numbers as a JSON list."
    try:
        entries = _order([(int(line["number"]), _split_id(_unquote(line["name"] or ""))) for line in lines])
    except _FormatError as error:
        raise _FormatError(f"{found}. {error} {hint}") from None
    if len(set(entries)) * 2 <= len(entries):
        raise _FormatError(f"{found}, but the text after it is mostly the same, so it may be part of the name. {hint}")
    return entries


def _unquote(name: str) -> str:
    match = QUOTED.fullmatch(name)
    return match[1].replace('""', '"') if match else name


def _split_id(text: str) -> Entry:
    """Return the WordNet ID and the name in a text such as ``n02124075 Egyptian cat``."""
    match = LINE_WITH_ID.fullmatch(text)
    return (match["id"], _unquote(match["name"])) if match else (None, text)


def _load_json(text: str) -> Value:
    import json

    try:
        return json.loads(text, object_pairs_hook=tuple, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError) as error:
        try:
            return _load_yaml(text, strict_quotes=True)  # A list or dict as Python prints it is YAML.
        except _FormatError:
            raise _FormatError(f"It looks like JSON, but it is not valid: {error}.") from None


def _load_yaml(text: str, strict_quotes: bool = False) -> Value:
    """Return a YAML document. Nothing in it is executed or converted, and aliases are not expanded.

    Args:
        text: The document.
        strict_quotes: Reject quotes inside unquoted text.
    """
    import yaml

    if len(text) > MAX_YAML_LENGTH:
        raise _FormatError("A YAML file must not be larger than 1 MiB. Write one name per line instead.")

    @cache
    def convert(node: Any) -> Value:
        if isinstance(node, yaml.SequenceNode):
            return [convert(item) for item in node.value]
        if isinstance(node, yaml.MappingNode):
            if not all(isinstance(key, yaml.ScalarNode) for key, _ in node.value):
                raise _FormatError("It contains a key that is not text.")
            return tuple((key.value, convert(value)) for key, value in node.value)
        if strict_quotes and not node.style and re.search("['\"]", node.value):
            raise _FormatError("It contains text with unbalanced quotes.")
        return node.value

    try:
        root = yaml.compose(text, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))
        return root and convert(root)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f"line {mark.line + 1:,}: " if mark else ""
        raise _FormatError(f"It is not valid YAML: {line}{problem or 'characters that YAML does not allow'}.") from None
    except RecursionError:
        raise _FormatError("It is nested too deeply.") from None


def _parse_document(value: Value) -> list[Entry]:
    """Return the labels in a JSON or YAML document."""
    if not isinstance(value, tuple):
        return _parse_names(value)
    _check_unique((key for key, _ in value), "The key")
    found = {key: inner for key, inner in value if isinstance(inner, list | tuple)}
    keys = [key for key in LIST_KEYS if key in found]
    inverse = found.get("label2id")
    if isinstance(inverse, list):
        raise _FormatError("Its 'label2id' is not a mapping.")
    if not keys:
        return _parse_mapping(value) if inverse is None else _parse_inverse(inverse)
    entries = _parse_names(found[keys[0]])
    for key in keys[1:]:
        if _parse_names(found[key]) != entries:
            raise _FormatError(f"Its {keys[0]!r} and its {key!r} contain different labels.")
    for name, index in inverse or ():  # It contains only one of two classes with the same name.
        if [_parse_name(name)] != entries[_parse_number(index) :][:1]:
            raise _FormatError(f"Its {keys[0]!r} and its 'label2id' contradict each other about {_quote(name)}.")
    return entries


def _parse_names(value: Value) -> list[Entry]:
    """Return the labels in a list of names or a mapping of index to name."""
    if isinstance(value, list):
        return [_parse_name(name) for name in value]
    if not isinstance(value, tuple):
        raise _FormatError("It contains neither a list nor a mapping.")
    return _order([(_parse_number(index), _parse_name(name)) for index, name in value])


def _parse_inverse(value: Value) -> list[Entry]:
    """Return the labels in a mapping of name to index."""
    _check_unique((name for name, _ in value), "The name")
    return _order([(_parse_number(index), _parse_name(name)) for name, index in value])


def _parse_mapping(value: Value) -> list[Entry]:
    """Return the labels in a mapping of index to name or of name to index, whichever it is."""
    readings: list[list[Entry]] = []
    errors: list[_FormatError] = []
    for parse in (_parse_names, _parse_inverse):
        try:
            readings.append(parse(value))
        except _FormatError as error:
            errors.append(error)
    if not readings:
        for reason, numbers in zip(errors, zip(*value, strict=True), strict=True):
            if all(isinstance(number, str) and NUMBER.fullmatch(number) for number in numbers):
                raise reason
        raise _FormatError("It has no 'names' and no 'id2label', and neither its keys nor its values are numbers.")
    if readings[0] != readings[-1]:
        raise _FormatError("Both its keys and its values are numbers. Write a list of names.")
    return readings[0]


def _parse_number(value: Value) -> int:
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return int(value)
    raise _FormatError(f"{_quote(value)} is not the number of a class.")


def _parse_name(value: Value) -> Entry:
    if isinstance(value, str):
        return _split_id(value.strip(" "))
    is_pair = isinstance(value, list) and len(value) == 2 and all(isinstance(text, str) for text in value)
    if is_pair and WORDNET_ID.fullmatch(value[0]):
        return value[0], value[1].strip(" ")
    raise _FormatError(f"{_quote(value)} is neither a name nor a list of a WordNet ID and a name.")


def _find_table(lines: list[str], file: str) -> Table | None:
    """Return the table in a text if its first line is a header."""
    try:
        table = Table(lines, file)
    except UsageError:
        return None
    return table if {*map(_normalize, table.columns)} & {*NAME_COLUMNS, *ID_COLUMNS} else None


def _parse_table(table: Table) -> list[Entry]:
    """Return the labels in a table: a column of names, and one of numbers or WordNet IDs or both."""
    rows = [row for _, row in table.rows()]
    numbers, ids, names = [], [], []
    for header, values in zip(table.columns, zip(*rows, strict=True), strict=bool(rows)):
        column = _normalize(header)
        if column not in (*INDEX_COLUMNS, *ID_COLUMNS, *NAME_COLUMNS):
            continue
        if all(map(WORDNET_ID.fullmatch, values)):
            ids.append(values)
        elif column in INDEX_COLUMNS and all(map(NUMBER.fullmatch, values)):
            numbers.append(values)
        elif column in NAME_COLUMNS:
            names.append(values)
        elif column:
            raise _FormatError(f"Its column {_quote(header)} contains neither class numbers nor WordNet IDs.")
    if len(names) > 1:  # For example "class" with numbers and "label" with names.
        numbers += [values for values in names if all(map(NUMBER.fullmatch, values))]
        names = [values for values in names if values not in numbers]
    if not rows:
        return []
    if len(names or ids) != 1 or len(ids) > 1 or any(values != numbers[0] for values in numbers):
        listed = ", ".join(map(_quote, table.columns[:MAX_QUOTED]))
        raise _FormatError(f"It must have one column of names and one of numbers, but its columns are {listed}.")
    if len(table.columns) > 1 and not numbers and not ids:
        raise _FormatError("Its columns contain no class numbers and no WordNet IDs. Add a column 'index'.")
    known_ids = ids[0] if ids and names else [None] * len(rows)
    entries = list(zip(known_ids, (names or ids)[0], strict=True))
    return _order([(int(n), entry) for n, entry in zip(numbers[0], entries, strict=True)]) if numbers else entries


def _normalize(header: str) -> str:
    return re.sub("[ -]", "_", header.lower())


def _order(numbered: list[tuple[int, Entry]]) -> _Numbered:
    """Return labels in the order of their numbers, which are 0 to n - 1, or, already in order, 1 to n."""
    numbers = [number for number, _ in numbered]
    _check_unique(numbers, "The number")
    if numbers == list(range(1, len(numbers) + 1)):
        return _Numbered(entry for _, entry in numbered)
    missing = sorted({*range(len(numbers))}.difference(numbers))
    if missing == [0] and max(numbers) == len(numbers):
        raise _FormatError(f"The numbers are 1 to {max(numbers):,}, but not in order, so the first class is unclear.")
    if missing:
        last = len(numbers) - 1
        raise _FormatError(f"The number {missing[0]:,} is missing. The first class is 0, and the last is {last:,}.")
    return _Numbered(entry for _, entry in sorted(numbered, key=lambda pair: pair[0]))


def _check_unique(values: Iterable[object], kind: str) -> None:
    for value, count in Counter(values).items():
        if count > 1:
            raise _FormatError(f"{kind} {_quote(str(value))} occurs more than once.")


def _check_labels(entries: list[Entry], replaced: Labels | None) -> None:
    for position, (_, name) in enumerate(entries):
        if not labels.is_valid(name):
            raise _FormatError(f"The label of class {position} is empty or contains control characters.")
    numbers = [int(label.name) for label in replaced or () if NUMBER.fullmatch(label.name)]
    if isinstance(entries, _Numbered) and len(numbers) == len(entries) and numbers != sorted(numbers):
        raise _FormatError(
            "Its numbers are ambiguous, because the names of the model's classes are numbers in another order: "
            f"{', '.join(map(str, numbers[:3]))}, ... Write a list of names in that order."
        )


def _quote(value: Value) -> str:
    """Return the beginning of a text in quotes, or the type of another value, for messages."""
    if isinstance(value, str):
        return quote(value[:MAX_QUOTED]) + "..." * (len(value) > MAX_QUOTED)
    return {list: "A list", tuple: "A mapping", type(None): "null"}.get(type(value), "A Boolean value")
