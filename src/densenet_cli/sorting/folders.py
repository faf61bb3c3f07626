"""Names of the folders that images are sorted into."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from densenet_cli.errors import UsageError
from densenet_cli.text import quote, to_unicode

if TYPE_CHECKING:
    from densenet_cli.labels import ClassLabel, Labels
    from densenet_cli.results import Prediction

UNSURE, FAILED, OTHER = "unsure", "failed", "other"
"""Folders of images without a label, of images that cannot be read, and of labels that are in no group."""

MAX_NAME_BYTES = 150
"""Length of a folder's name."""
_RESERVED = re.compile(r'[\x00-\x1f\x7f<>:"/|?*\\]')
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


def class_folders(labels: Labels, by: str, groups: Mapping[str, str] | None = None) -> dict[int, str]:
    """Return the folder of each class, by the index of its label. No two classes share one, except by group.

    Args:
        labels: The labels of the model.
        by: ``label``, ``id``, or ``group``.
        groups: Label -> folder, for ``group``. Other labels go to ``OTHER``.

    Raises:
        UsageError: A class has no id, or a group names a label that the model does not have.
    """
    if by == "group":
        groups = groups or {}
        if unknown := groups.keys() - {label.name for label in labels}:
            raise UsageError(f"{quote(min(unknown))} is not a label of the model.")
        return {label.index: _safe_path(groups.get(label.name, OTHER)) for label in labels}
    if by == "id" and any(label.id is None for label in labels):
        raise UsageError("The labels of the model have no ids. Use `by` label.")
    names = {label.index: safe_name(_name(label, by)) for label in labels}
    taken = Counter(name.casefold() for name in (*names.values(), UNSURE, FAILED))
    return {index: f"{name} ({index})" if taken[name.casefold()] > 1 else name for index, name in names.items()}


def _name(label: ClassLabel, by: str) -> str:
    return label.id or "" if by == "id" else label.name


def safe_name(name: str) -> str:
    """Return a folder name for a label that every operating system accepts."""
    name = _RESERVED.sub("_", to_unicode(name)).strip().rstrip(".")
    while len(name.encode()) > MAX_NAME_BYTES:
        name = name[:-1]
    return f"{name}_" if not name or name.startswith(".") or _DEVICES.fullmatch(name) else name


def _safe_path(path: str) -> str:
    return "/".join(safe_name(part) for part in re.split(r"[/\\]", path) if part not in ("", ".", "..")) or OTHER


def choose_folder(prediction: Prediction, folders: Mapping[int, str]) -> str:
    """Return the folder of an image: that of its label, or ``UNSURE`` or ``FAILED``.

    The label is the most probable one, if it reaches the minimum probability and the error limit. If there is a set, it
    must contain only this label.
    """
    if prediction.error:
        return FAILED
    if prediction.unsure or not prediction.scores:
        return UNSURE
    best = prediction.scores[0].index
    if prediction.set is not None and [score.index for score in prediction.set] != [best]:
        return UNSURE
    return folders[best]
