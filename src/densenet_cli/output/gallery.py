"""A folder of drawings that mirrors where the images came from."""

from __future__ import annotations

import io
import os
import re
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from densenet_cli.errors import OutputError, UsageError
from densenet_cli.output.atomic import output_errors, write_file
from densenet_cli.results import unicode

if TYPE_CHECKING:
    from densenet_cli.explain.cam import Explanation

LONGEST = 200
"""Bytes of a file's or folder's name; file systems take 255, and ``.png.part`` comes behind it."""
RUN_LENGTHS = 3
"""zlib's strategy of that number."""
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')
"""What no name has on some system or other."""


class Gallery:
    """PNG files in a folder, one an image: ``photos/1.jpg`` becomes ``photos/1.jpg.png`` in it.

    Args:
        folder: made if need be.
        overwrite: whether existing files are replaced.
    """

    def __init__(self, folder: Path, overwrite: bool = False) -> None:
        self._folder = folder
        self._overwrite = overwrite
        self._taken: set[str] = set()

    def check(self) -> None:
        """Raise ``OutputError`` where the folder can't be made or written, as far as that can be known before."""
        folder = self._folder
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        name = unicode(str(self._folder))
        if not folder.is_dir():
            raise OutputError(f"The folder {name} can't be made: {unicode(str(folder))} is a file.")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"Nothing can be written to {name}: the folder {unicode(str(folder))} is read-only.")

    def check_free(self, name: str) -> None:
        """Raise ``UsageError`` if the file for the source of this name exists already."""
        self._check_free(self._folder / f"{'/'.join(_parts(name))}.png")

    def _check_free(self, path: Path) -> None:
        if not self._overwrite and os.path.lexists(path):
            raise UsageError(f"{unicode(str(path))} exists; replace it by --overwrite, or name another folder.")

    def fill(self, explanations: Iterable[Explanation], threads: int) -> Generator[Explanation]:
        """Draw and write explanations in threads.

        Yields them in order, each with its ``drawing`` once that is written. Raises ``UsageError`` at one whose file
        exists already, and ``OutputError``.
        """
        waiting: deque[Explanation | Future[Explanation]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            for explanation in explanations:
                path = self._place(explanation.source)
                self._check_free(path)
                waiting.append(explanation if explanation.error else pool.submit(_write, explanation, path))
                while len(waiting) > 2 * threads or (waiting and _is_done(waiting[0])):
                    yield _result(waiting.popleft())
            while waiting:
                yield _result(waiting.popleft())

    def _place(self, name: str) -> Path:
        """A file of its own inside the folder, whatever the image is called."""
        parts = _parts(name)
        relative = "/".join(parts)
        number = 1
        # Some file systems take Cat and cat for one.
        while (key := relative.casefold()) in self._taken:
            number += 1
            relative = "/".join([*parts[:-1], f"{parts[-1]}-{number}"])
        self._taken.add(key)
        return self._folder / f"{relative}.png"


def _is_done(drawn: Explanation | Future[Explanation]) -> bool:
    return not isinstance(drawn, Future) or drawn.done()


def _result(drawn: Explanation | Future[Explanation]) -> Explanation:
    return drawn.result() if isinstance(drawn, Future) else drawn


def _parts(name: str) -> list[str]:
    """The folders and the file's name, safe on any system: of a path, a URL, or another name."""
    if name == "-":
        return ["stdin"]
    scheme, separator, rest = name.partition("://")
    parts = (rest if separator and scheme.isalpha() else name).replace(os.sep, "/").split("/")
    safe = [_safe(part) for part in parts if part not in ("", ".")]
    return safe or ["image"]


def _safe(part: str) -> str:
    part = _UNSAFE.sub("_", unicode(part)).rstrip(". ") or "_" * len(part)
    encoded = part.encode()
    if len(encoded) <= LONGEST:
        return part
    import hashlib

    return encoded[: LONGEST - 9].decode(errors="ignore") + "-" + hashlib.sha256(encoded).hexdigest()[:8]


def _write(explanation: Explanation, path: Path) -> Explanation:
    file = io.BytesIO()
    # Looking for repeated bytes only takes a fifth of the usual time, and a photograph has no others.
    explanation.draw().save(file, "PNG", compress_level=1, compress_type=RUN_LENGTHS)
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, file.getvalue())
    return replace(explanation, drawing=path)
