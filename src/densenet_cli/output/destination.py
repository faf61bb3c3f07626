"""The place of an exported file or folder: checked before any work, and whole or not there after it."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from densenet_cli.errors import UsageError
from densenet_cli.output.atomic import replace_path
from densenet_cli.output.checks import check_folder
from densenet_cli.results import unicode

SAVED_MODEL = {"saved_model.pb", "variables", "assets", "assets.extra", "fingerprint.pb", "keras_metadata.pb"}
"""What a SavedModel's folder may hold: a folder with anything else in it is never taken away."""


@dataclass(frozen=True)
class Destination:
    """Where the result goes.

    Attributes:
        path: its name.
        is_folder: whether it is a folder.
        overwrite: whether what is there is replaced.
    """

    path: Path
    is_folder: bool
    overwrite: bool

    def check(self) -> None:
        """Raise what writing would raise, as far as that can be known before.

        Raises:
            UsageError: something is there that is not to be replaced, or the name is not UTF-8.
            OutputError: the folder for it is missing or can't be written.
        """
        name, folder = unicode(str(self.path)), self._real.parent
        if unicode(str(self._real)) != str(self._real):
            raise UsageError(f"{name} is not UTF-8, which the tools that open it can't do without: name another.")
        if self._real.exists() or self._real.is_symlink():
            if not self.overwrite:
                raise UsageError(f"{name} exists; replace it by --overwrite, or name another.")
            if self._real.is_dir() != self.is_folder:
                there, wanted = ("a file", "a folder") if self.is_folder else ("a folder", "a file")
                raise UsageError(f"{name} is {there} and can't be replaced by {wanted}: name another.")
            if self.is_folder and not self._is_saved_model():
                raise UsageError(f"{name} holds more than a SavedModel and is not replaced: name another.")
        check_folder(name, folder, folder)

    def writing(self) -> AbstractContextManager[Path]:
        """See ``atomic.replace_path``."""
        return replace_path(self.path, self.check)

    @property
    def _real(self) -> Path:
        """Behind a link, what it leads to."""
        return Path(os.path.realpath(self.path))

    def _is_saved_model(self) -> bool:
        held = {path.name for path in self._real.iterdir()}
        return not held or ("saved_model.pb" in held and held <= SAVED_MODEL)
