"""What a network's outputs mean: one label a position of its head."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from densenet_cli.errors import UsageError

IMAGENET_FILE = Path(__file__).parent / "data" / "imagenet.tsv"


@dataclass(frozen=True, slots=True)
class ClassLabel:
    """One class.

    Attributes:
        index: its number in the table that it comes from (ImageNet's 0 to 999), else its position in the head.
        id: its WordNet id such as ``n02124075``, None where there is none.
        name: the readable name.
    """

    index: int
    id: str | None
    name: str


Labels = tuple[ClassLabel, ...]
"""Position in the head -> label."""


@cache
def imagenet() -> Labels:
    """ImageNet's 1,000 classes in the order of the published heads (``data/README.md`` tells the source)."""
    return _parse(IMAGENET_FILE.read_text(encoding="utf-8").splitlines())


def plain(classes: int) -> Labels:
    """Stand-ins for a head without labels: ``class 0``, ``class 1``, ..."""
    return tuple(ClassLabel(index, None, f"class {index}") for index in range(classes))


def read_file(path: str | Path, classes: int) -> Labels:
    """The labels in a UTF-8 text file, one a line, blank lines at its end aside.

    A line is a name, or a WordNet id, a tab and a name. Raises ``UsageError`` for a file that can't be read,
    a name that is empty or holds control characters, and another number of lines than ``classes``.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"The labels in {path} can't be read: {reason}.") from error
    # Not str.splitlines, which also splits at characters that may stand in a name.
    lines = [line.removesuffix("\r").strip(" ") for line in text.rstrip("\r\n ").split("\n")] if text.strip() else []
    if len(lines) != classes:
        raise UsageError(f"The network has {classes} classes, but {path} names {len(lines)}: give one name a line.")
    labels = _parse(lines)
    for number, label in enumerate(labels, start=1):
        if not is_clean(label.name) or not is_clean(label.id or "-"):
            raise UsageError(f"Line {number} of {path} is no name: it is empty or holds control characters.")
    return labels


def is_clean(text: str) -> bool:
    """Whether ``text`` says something and can be shown on a terminal: no control characters."""
    return bool(text) and not any(char < " " or "\x7f" <= char <= "\x9f" for char in text)


def _parse(lines: Iterable[str]) -> Labels:
    return tuple(
        ClassLabel(index, wordnet_id or None, name)
        for index, (wordnet_id, _, name) in enumerate(
            line.partition("\t") if "\t" in line else ("", "", line) for line in lines
        )
    )
