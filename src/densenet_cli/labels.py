"""Class labels: the meaning of each output of a network, and finding a class by its name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from densenet_cli.errors import UsageError
from densenet_cli.text import quote, to_unicode

IMAGENET_FILE = Path(__file__).parent / "data" / "imagenet.tsv"

MAX_LISTED = 5
"""Names that one message lists."""

MAX_DIGITS = 9
"""Digits of an index. Leading zeros count."""

AMBIGUOUS_NAMES = {"crane": ("n02012849", "n03126707"), "maillot": ("n03710637", "n03710721")}
"""Names that the label tables of Keras and timm give to two ImageNet classes.

Our table distinguishes them, but a dataset may be named after one of the others.
"""


@dataclass(frozen=True, slots=True)
class ClassLabel:
    """The label of one class.

    Attributes:
        index: Its number in the label table that it comes from (0 to 999 for ImageNet), else its position in the head.
        id: Its WordNet ID, such as ``n02124075``, or None.
        name: Its readable name.
    """

    index: int
    id: str | None
    name: str


Labels = tuple[ClassLabel, ...]
"""One label for each position of the head."""


@cache
def imagenet() -> Labels:
    """Return the labels of ImageNet's 1,000 classes, in the order of the published heads (see ``data/README.md``)."""
    rows = (line.split("\t") for line in IMAGENET_FILE.read_text(encoding="utf-8").splitlines())
    return tuple(ClassLabel(index, wordnet_id, name) for index, (wordnet_id, name) in enumerate(rows))


def placeholders(classes: int) -> Labels:
    """Return labels for a head that has none: ``class 0``, ``class 1``, ..."""
    return tuple(ClassLabel(index, None, f"class {index}") for index in range(classes))


def from_class_names(names: Iterable[str]) -> Labels:
    """Return ImageNet's labels if all names are WordNet IDs of ImageNet classes, else the names as labels."""
    names = tuple(names)
    by_id = {label.id: label for label in imagenet()}
    if all(name in by_id for name in names):
        return tuple(by_id[name] for name in names)
    return tuple(ClassLabel(index, None, name) for index, name in enumerate(names))


def is_valid(name: object) -> bool:
    """Return whether a name is Unicode text that is not empty and contains no control characters."""
    if not isinstance(name, str) or not name or to_unicode(name) != name:
        return False
    return not any(char < " " or "\x7f" <= char <= "\x9f" for char in name)


def normalize(name: str) -> str:
    """Return a name for comparison: without differences in case, underscores, spaces around it, or Unicode form."""
    import unicodedata

    folded = unicodedata.normalize("NFC", name).replace("_", " ").casefold().strip()
    return unicodedata.normalize("NFC", folded)


class ClassResolver:
    """Resolve class names to positions in the head.

    A name is a WordNet ID, a readable name, or an index, tried in this order. Underscores in a readable name stand
    for spaces, and case and the Unicode normalization form are ignored unless two classes differ only in them.

    Indices are accepted if the model has no names, or ImageNet's labels, whose numbers are published. They are not
    accepted otherwise, because the position of a name in a list is not part of the name: of the classes "1" and "2",
    a folder "0" means neither.

    Args:
        labels: One label for each position of the head.
        owner: What has these classes, for messages.
    """

    def __init__(self, labels: Labels, owner: str = "the model") -> None:
        self._labels = labels
        self._owner = owner
        self._ids = {label.id.casefold(): position for position, label in enumerate(labels) if label.id}
        self._indices = {label.index: position for position, label in enumerate(labels)}
        self._are_placeholders = labels == placeholders(len(labels))
        self._has_indices = self._are_placeholders or _are_imagenet(labels)
        self._names: dict[str, list[int]] = {}
        self._normalized: dict[str, list[int]] = {}
        for position, label in enumerate(labels):
            self._names.setdefault(label.name, []).append(position)
            self._normalized.setdefault(normalize(label.name), []).append(position)
        for name, ids in AMBIGUOUS_NAMES.items():
            positions = [self._ids[id_] for id_ in ids if id_ in self._ids]
            if len(positions) > 1:
                self._names[name] = self._normalized[name] = positions

    def candidates(self, name: str) -> list[int]:
        """Return the positions that ``name`` matches: none, one, or several if it is ambiguous."""
        return self._match(name)[0]

    def _match(self, name: str) -> tuple[list[int], str]:
        """Return the positions that ``name`` matches, and by what."""
        if (position := self._ids.get(name.casefold())) is not None:
            return [position], "WordNet ID"
        if positions := self._names.get(name) or self._normalized.get(normalize(name)):
            return positions, "name"
        if self._has_indices and name.isascii() and name.isdecimal() and len(name) <= MAX_DIGITS:
            position = self._indices.get(int(name))
            return [] if position is None else [position], "index" if str(int(name)) == name else "zero-padded index"
        return [], ""

    def resolve(self, name: str | int) -> int:
        """Return the position of the class ``name``. An integer is an index, whatever the names are.

        Raises:
            UsageError: No class or more than one class matches.
        """
        if isinstance(name, int):
            if name not in self._indices:
                raise UsageError(f"The model has no class with the index {name}.")
            return self._indices[name]
        positions = self.candidates(name)
        if not positions:
            if similar := self._similar(name):
                hint = f"Did you mean {' or '.join(map(quote, similar))}?"
            else:
                hint = f"{self._describe_names(name)} The classes are {self._list_classes()}."
            raise UsageError(f"The model has no class {quote(name)}. {hint}")
        self._check_unambiguous(name, positions)
        return positions[0]

    def resolve_all(self, names: Iterable[str], description: str) -> dict[str, int]:
        """Return the position of each name.

        Args:
            names: The class names.
            description: What the names are, for messages, such as "class folders in val".

        Raises:
            UsageError: A name matches no class or more than one class, or two names match one class by different
                rules, such as its name and its index.
        """
        matches = {name: self._match(name) for name in names}
        if unknown := [name for name, (positions, _) in matches.items() if not positions]:
            size = f", which has only {len(self._labels):,}," if len(matches) > len(self._labels) else ""
            raise UsageError(
                f"No class of {self._owner}{size} matches {len(unknown):,} of {len(matches):,} {description}: "
                f"{self._list_unknown(unknown)}. {self._describe_names(*unknown)} "
                f"The classes are {self._list_classes()}."
            )
        names_by_position: dict[int, tuple[str, str]] = {}
        for name, (positions, rule) in matches.items():
            self._check_unambiguous(name, positions)
            other, other_rule = names_by_position.setdefault(positions[0], (name, rule))
            if rule != other_rule:
                label = _describe(self._labels[positions[0]])
                raise UsageError(
                    f"Two of the {description} match {label}: {quote(other)} by its {other_rule} and {quote(name)} by "
                    f"its {rule}. Rename or merge them."
                )
        return {name: positions[0] for name, (positions, _) in matches.items()}

    def _check_unambiguous(self, name: str, positions: list[int]) -> None:
        if len(positions) > 1:
            choices = " and ".join(_describe(self._labels[position]) for position in positions)
            hint = f" {self._describe_names()}" if self._ids or self._has_indices else ""
            raise UsageError(f"{quote(name)} matches {choices}.{hint}")

    def _describe_names(self, *names: str) -> str:
        """Return how to name a class. ``names`` are those that match no class."""
        if not self._has_indices:
            ids = "WordNet IDs or " if self._ids else ""
            is_number = any(map(str.isdecimal, names))
            return f"Use {ids}labels." + " Positions are used only for models without labels." * is_number
        if self._are_placeholders:
            return "Use indices, or set `labels` to name the classes."
        return f"Use {'WordNet IDs, labels,' if self._ids else 'labels'} or indices."

    def _list_unknown(self, names: list[str]) -> str:
        """Return the names, each with the label that resembles it most."""
        listed = []
        for name in names[:MAX_LISTED]:
            similar = self._similar(name)[:1]
            listed.append(f"{quote(name)} (did you mean {quote(similar[0])}?)" if similar else quote(name))
        more = f", and {len(names) - MAX_LISTED:,} more" if len(names) > MAX_LISTED else ""
        return ", ".join(listed) + more

    def _similar(self, name: str) -> list[str]:
        """Return up to ``MAX_LISTED`` labels that resemble or contain ``name``, else WordNet IDs that resemble it."""
        import difflib

        normalized = normalize(name)
        close = difflib.get_close_matches(normalized, list(self._normalized), MAX_LISTED)
        containing = [label for label in self._normalized if normalized and normalized in label]
        similar = list(dict.fromkeys([*close, *containing]))[:MAX_LISTED]
        if not similar:
            return difflib.get_close_matches(normalized, list(self._ids), MAX_LISTED, cutoff=0.8)
        return [self._labels[self._normalized[label][0]].name for label in similar]

    def _list_classes(self) -> str:
        return _join([label.name for label in self._labels])


def _are_imagenet(labels: Labels) -> bool:
    """Return whether each label has the index and the ID of an ImageNet class."""
    table = imagenet()
    return all(0 <= label.index < len(table) and table[label.index].id == label.id for label in labels)


def _join(names: list[str]) -> str:
    listed = ", ".join(map(quote, names[:MAX_LISTED]))
    return listed if len(names) <= MAX_LISTED else f"{listed}, and {len(names) - MAX_LISTED:,} more"


def _describe(label: ClassLabel) -> str:
    return f"{quote(label.name)} ({f'{label.id}, ' if label.id else ''}index {label.index})"
