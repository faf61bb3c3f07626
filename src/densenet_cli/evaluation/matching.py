"""Which class of the model a folder or a row of a table means, told from its name."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from densenet_cli.errors import UsageError
from densenet_cli.labels import ClassLabel, Labels
from densenet_cli.results import unicode

SHOWN = 5

TWINS = {"crane": ("n02012849", "n03126707"), "maillot": ("n03710637", "n03710721")}
"""Names that the tables of Keras and timm give to two ImageNet classes. Ours tells them apart, but a folder's maker may
have followed the others: bird and machine must not be mixed up silently."""


class Matcher:
    """Finds positions in a head by WordNet id, readable name or index, in this order.

    Case doesn't matter in a name unless two classes differ in it alone, and underscores stand for spaces.
    """

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._ids = {label.id.casefold(): position for position, label in enumerate(labels) if label.id}
        self._indices = {str(label.index): position for position, label in enumerate(labels)}
        self._names: dict[str, list[int]] = {}
        self._folded: dict[str, list[int]] = {}
        for position, label in enumerate(labels):
            self._names.setdefault(label.name, []).append(position)
            self._folded.setdefault(_fold(label.name), []).append(position)
        for name, ids in TWINS.items():
            twins = [self._ids[id_] for id_ in ids if id_ in self._ids]
            if len(twins) > 1:
                self._names[name] = self._folded[name] = twins

    def find(self, name: str) -> list[int]:
        """The positions that ``name`` may mean: none, one, or several where it is ambiguous."""
        if (by_id := self._ids.get(name.casefold())) is not None:
            return [by_id]
        if found := self._names.get(name) or self._folded.get(_fold(name)):
            return found
        by_index = self._indices.get(name.lstrip("0") or name[:1])
        return [] if by_index is None else [by_index]

    def position(self, name: str) -> int:
        """The one position that ``name`` means. Raises UsageError, with the nearest labels, for none or several."""
        found = self.find(name)
        if len(found) == 1:
            return found[0]
        shown = repr(unicode(name))
        if found:
            choices = " or ".join(_describe(self._labels[position]) for position in found)
            raise UsageError(f"{shown} is more than one class of the model, {choices}: name it by its id or index.")
        if near := self.nearest(name):
            known = f"is {near[0]!r}" if len(near) == 1 else f"are {', '.join(map(repr, near))}"
            raise UsageError(f"The model has no class {shown}; the nearest {known}.")
        own = _some([label.name for label in self._labels])
        raise UsageError(f"The model has no class {shown}. Name one by label, WordNet id or index: it knows {own}.")

    def nearest(self, name: str) -> list[str]:
        """Up to ``SHOWN`` labels that look like ``name``, or have it as a part; else ids that do; perhaps none."""
        import difflib

        folded = _fold(name)
        alike = difflib.get_close_matches(folded, list(self._folded), SHOWN)
        parts = [known for known in self._folded if folded and folded in known]
        found = list(dict.fromkeys([*alike, *parts]))[:SHOWN]
        if not found:
            return difflib.get_close_matches(folded, list(self._ids), SHOWN, cutoff=0.8)
        return [self._labels[self._folded[known][0]].name for known in found]

    def match(self, names: Iterable[str], what: str) -> dict[str, int]:
        """Each name's position. ``what`` says what the names are: "class folders of val".

        Raises UsageError: a name that means no class of the model, or more than one.
        """
        names = list(names)
        found = {name: self.find(name) for name in names}
        if unknown := [name for name, positions in found.items() if not positions]:
            raise UsageError(self._explain_unknown(unknown, names, what))
        for name, positions in found.items():
            if len(positions) > 1:
                choices = " or ".join(_describe(self._labels[position]) for position in positions)
                raise UsageError(
                    f"{unicode(name)!r} among the {what} names more than one class of the model, {choices}: "
                    "name it by its id or index."
                )
        return {name: positions[0] for name, positions in found.items()}

    def _explain_unknown(self, unknown: list[str], names: list[str], what: str) -> str:
        own = _some([label.name for label in self._labels])
        few = (
            f", and {len(names):,} are more than it has classes ({len(self._labels):,})"
            if len(names) > len(self._labels)
            else ""
        )
        return (
            f"{len(unknown):,} of the {len(names):,} {what} are none of the model's classes{few}: {_some(unknown)}. "
            f"They are matched by WordNet id, readable name or index; the model knows {own}."
        )


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).replace("_", " ").casefold().strip()


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(unicode(name)) for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN:,} more"


def _describe(label: ClassLabel) -> str:
    return f"{label.name!r} ({f'{label.id}, ' if label.id else ''}index {label.index})"
