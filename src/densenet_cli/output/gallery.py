"""A folder of PNG files that mirrors image sources: ``photos/1.jpg`` becomes ``photos/1.jpg.png``."""

from __future__ import annotations

import io
import os
import re
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from densenet_cli import storage
from densenet_cli.errors import ImageError, OutputError
from densenet_cli.output.atomic import output_errors, write_file
from densenet_cli.output.checks import check_output_folder, file_exists_error
from densenet_cli.paths import normalize_path, working_directory
from densenet_cli.text import to_unicode

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_NAME_LENGTH = 200
"""Bytes of a file or folder name. File systems allow 255, and suffixes such as ``.png.part`` are added."""
_ZLIB_RLE = 3
"""zlib's strategy that looks only for runs of equal bytes: a fifth of the time, and no larger for photographs."""
_RESERVED = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')
"""Characters that some operating system does not allow in file names."""


class Drawable(Protocol):
    """A result that can be drawn, such as an ``Explanation``. Read-only."""

    @property
    def source(self) -> str:
        """The name of the source."""

    @property
    def error(self) -> object | None:
        """Why there is nothing to draw, or None."""

    def draw(self) -> Image:
        """Return the drawing."""


D = TypeVar("D", bound=Drawable)


def check_gallery(folder: Path | str, first_source: str | None, overwrite: bool) -> None:
    """Check that a gallery can be written, before its drawings are made.

    Args:
        folder: The folder, which is created if it is missing: a path, or a URL of object storage as a str.
        first_source: The name of the first source, None if there is none. Later ones are checked when they are saved.
        overwrite: Whether existing files may be replaced.

    Raises:
        UsageError: The file for the first source exists.
        OutputError: The folder cannot be created or is read-only.
    """
    if isinstance(folder, str):
        storage.check_writable(storage.join(folder, "image.png"))
    else:
        check_output_folder(folder)
    if first_source is not None:
        gallery = Gallery(folder, overwrite)
        gallery.check(gallery.reserve(first_source))


class Gallery:
    """Writes PNG files to a folder.

    Args:
        folder: The folder, which is created if it is missing: a path, or a URL of object storage as a str.
        overwrite: Whether existing files are replaced.
    """

    def __init__(self, folder: Path | str, overwrite: bool = False) -> None:
        self._folder = folder
        self._overwrite = overwrite
        self._reserved: set[str] = set()

    def save(self, drawables: Iterable[D], threads: int) -> Generator[tuple[D, Path | str | None]]:
        """Draw and write files in threads.

        Args:
            drawables: What to draw, in the order of the sources. Each is numbered if its name is taken already.
            threads: Number of drawings to make at the same time.

        Yields:
            Each of ``drawables``, in order, once its file is written, and the file, None if it has an error.

        Raises:
            UsageError: A file exists and must not be replaced.
            OutputError: A file cannot be written.
        """
        pending: deque[tuple[D, Future[Path | str] | None]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            for drawable in drawables:
                path = self.reserve(drawable.source)
                if isinstance(path, Path):
                    self.check(path)
                pending.append((drawable, None if drawable.error else pool.submit(self._save, drawable, path)))
                while pending and (len(pending) > 2 * threads or _is_done(pending[0][1])):
                    yield _result(*pending.popleft())
            while pending:
                yield _result(*pending.popleft())

    def reserve(self, source: str) -> Path | str:
        """Return the file for the next source. No two sources get the same one."""
        *folders, name = _path_parts(source)
        relative = "/".join([*folders, name])
        number = 1
        # Some file systems ignore case.
        while (key := relative.casefold()) in self._reserved:
            number += 1
            relative = "/".join([*folders, f"{name}-{number}"])
        self._reserved.add(key)
        if isinstance(self._folder, str):
            return storage.join(self._folder, f"{relative}.png")
        return self._folder / f"{relative}.png"

    def check(self, path: Path | str) -> None:
        """Raise UsageError if a file exists and must not be replaced, or OutputError if that cannot be found out."""
        if self._overwrite:
            return
        if isinstance(path, Path):
            exists = os.path.lexists(path)
        else:
            try:
                exists = storage.exists(path)
            except ImageError as error:
                raise OutputError(f"Cannot write {storage.redact(path)}. {error}") from None
        if exists:
            raise file_exists_error(storage.redact(path) if isinstance(path, str) else path)

    def _save(self, drawable: Drawable, path: Path | str) -> Path | str:
        data = io.BytesIO()
        drawable.draw().save(data, "PNG", compress_level=1, compress_type=_ZLIB_RLE)
        if isinstance(path, str):
            self.check(path)  # here, because it takes a request
            storage.put(path, data.getvalue())
            return storage.redact(path)
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, data.getvalue())
        return path


def _is_done(future: Future[Path | str] | None) -> bool:
    return future is None or future.done()


def _result(drawable: D, future: Future[Path | str] | None) -> tuple[D, Path | str | None]:
    return drawable, future.result() if future else None


def _path_parts(source: str) -> list[str]:
    """Return folder names and a file name for a path, a URL, or another name. They are safe on any system.

    They are the same for all spellings of a path below the working directory.
    """
    if source == "-":
        return ["stdin"]
    scheme, separator, rest = source.partition("://")
    if separator and re.fullmatch("[A-Za-z][A-Za-z0-9+.-]*", scheme):
        source = rest
    else:
        folder = working_directory().rstrip(os.sep) + os.sep
        path = normalize_path(source, folder)
        source = path.removeprefix(folder) if path.startswith(folder) else source
    parts = source.replace(os.sep, "/").split("/")
    return [_safe_name(part) for part in parts if part not in ("", ".")] or ["image"]


def _safe_name(part: str) -> str:
    part = _RESERVED.sub("_", to_unicode(part)).rstrip(". ") or "_" * len(part)
    encoded = part.encode()
    if len(encoded) <= MAX_NAME_LENGTH:
        return part
    import hashlib

    return encoded[: MAX_NAME_LENGTH - 9].decode(errors="ignore") + "-" + hashlib.sha256(encoded).hexdigest()[:8]
