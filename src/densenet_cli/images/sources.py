"""What to classify: each argument turned into sources, lazily and always in the same order.

A source is one image that has a name, or the reason why there is none under that name. Nothing is opened
here but folders: whether a file is an image shows when it is decoded.
"""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal
from weakref import WeakSet

from densenet_cli.errors import ImageError, SourceNotFoundError, SourceUnreadableError, UnreadableImageError, UsageError
from densenet_cli.images.globs import is_pattern, matches
from densenet_cli.images.walking import Found, Skipped, explain, walk

if TYPE_CHECKING:
    from densenet_cli._types import ImageInput

Kind = Literal["path", "url", "stdin", "bytes", "file", "image", "array", "nothing"]

_lists: WeakSet[IO[bytes]] = WeakSet()
"""The streams that ``read_list`` has begun to read: none of them is an image."""


@dataclass(frozen=True, slots=True)
class Source:
    """One image to come.

    Attributes:
        name: what its result is called: the path as given plus the path below it, or the URL. A name that is not
            UTF-8 keeps its bytes as surrogate escapes (``os.fsencode`` gives them back).
        origin: where its bytes or pixels are: a path, a URL, bytes, a binary file object, a ``PIL.Image.Image`` or
            a uint8 array of (height, width, 3).
        kind: which of these ``origin`` is; "nothing" where ``error`` says why there is no image.
        error: set when the name leads to no image.
    """

    name: str
    origin: Any
    kind: Kind
    error: ImageError | None = None


@dataclass(frozen=True, slots=True)
class LabeledSource(Source):
    """An image whose class is known.

    Attributes:
        target: position of its class in the model's output.
    """

    target: int = -1


class StandardInput:
    """The image on standard input: a stream can be read once, so its bytes are kept for a second ``-``."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._data: bytes | None = None

    def read(self, limit: int) -> bytes:
        """Everything on it, but no more than ``limit`` bytes and one."""
        with self._lock:
            if self._data is None:
                self._data = read_bytes(self._stream, limit)
            return self._data


def read_bytes(stream: Any, limit: int) -> bytes:
    """Everything that a file object gives, in however many pieces, but not many more than ``limit`` bytes.

    Raises:
        UnreadableImage: it gives text.
    """
    pieces: list[bytes] = []
    room = limit + 1
    while room > 0:
        piece = stream.read(room)
        if not isinstance(piece, bytes | bytearray | memoryview | None):
            raise UnreadableImageError("A file object that gives text: open it in binary mode.")
        if not piece:
            break
        pieces.append(bytes(piece))
        room -= len(pieces[-1])
    return b"".join(pieces)


def expand(
    arguments: Iterable[str],
    *,
    stdin: IO[bytes] | None = None,
    on_skipped: Callable[[int], None] | None = None,
) -> Iterator[Source]:
    """The sources that ``arguments`` name, in their order.

    Args:
        arguments: files, folders (searched depth first, each folder's names sorted), globs (a path that exists is
            never one), http(s) URLs, or ``-`` for an image on standard input.
        stdin: the binary stream behind ``-``; ``sys.stdin.buffer`` when None.
        on_skipped: called once, at the end, with the number of files that were passed over in folders because
            their suffix is no image's; not called when there were none.
    """
    standard_input: StandardInput | None = None
    skipped = 0
    for argument in arguments:
        if argument == "-":
            stream = stdin or sys.stdin.buffer
            if stream in _lists:
                error = SourceUnreadableError("Standard input is the list of sources, so it can't be an image too.")
                yield Source("-", None, "nothing", error)
            else:
                standard_input = standard_input or StandardInput(stream)
                yield Source("-", standard_input, "stdin")
        elif is_url(argument):
            yield _from_url(argument)
        else:
            for found in _expand_path(argument):
                if isinstance(found, Skipped):
                    skipped += found.files
                else:
                    yield _source(found)
    if skipped and on_skipped:
        on_skipped(skipped)


def read_list(file: IO[bytes], null: bool = False) -> Iterator[str]:
    """The arguments that a binary stream lists, one a line, or one a NUL byte; empty ones are left out.

    Each is there as soon as its end was written, however slowly the others come.
    """
    _lists.add(file)
    read = getattr(file, "read1", file.read)
    separator = b"\0" if null else b"\n"
    rest = b""
    while chunk := read(1 << 16):
        *entries, rest = (rest + chunk).split(separator)
        for entry in entries:
            yield from _argument(entry, null)
    yield from _argument(rest, null)


def _argument(entry: bytes, null: bool) -> Iterator[str]:
    entry = entry if null else entry.removesuffix(b"\r")
    if entry:
        yield os.fsdecode(entry)


def from_object(image: ImageInput | Source) -> Source:
    """The source for what a Python caller holds.

    Args:
        image: a path (str or ``os.PathLike``), an http(s) URL, the bytes of an image's file, a binary file
            object, a ``PIL.Image.Image``, a uint8 array of (height, width, 3), or a ``Source``.

    Raises:
        UsageError: it is none of these.
    """
    if isinstance(image, Source):
        return image
    if isinstance(image, str) and is_url(image):
        return _from_url(image)
    if isinstance(image, str | os.PathLike):
        path = os.fsdecode(image)
        return Source(path, path, "path")
    if isinstance(image, bytes | bytearray | memoryview):
        return Source("<bytes>", bytes(image), "bytes")
    if _is_instance(image, "PIL.Image", "Image"):
        return Source(str(getattr(image, "filename", "") or "<image>"), image, "image")
    if _is_instance(image, "numpy", "ndarray"):
        return _from_array(image)
    if hasattr(image, "read"):
        name = getattr(image, "name", None)
        return Source(name if isinstance(name, str) else "<file>", image, "file")
    raise UsageError(
        "An image is a path, a URL, bytes, a binary file object, a PIL image or a uint8 array of "
        f"(height, width, 3), not {type(image).__name__}."
    )


def _is_instance(thing: object, module: str, name: str) -> bool:
    """Whether it is of a class that nobody has an instance of before its module is imported."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(thing, kind)


def _from_array(array: Any) -> Source:
    if array.dtype.name != "uint8" or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise UsageError(
            f"An array of an image is uint8, of (height, width, 3), not {array.dtype.name} of {tuple(array.shape)}."
        )
    # Whoever reads a film fills one array again and again, and this one is looked at later.
    return Source("<array>", array.copy(), "array")


def expand_objects(images: Iterable[ImageInput | Source]) -> Iterator[Source]:
    """The sources in any number of objects as ``from_object`` takes them; a path may also be a folder or a glob.

    What is no image is a source with an error. Raises ``UsageError`` at once where ``images`` is itself an image.
    """
    if isinstance(images, str | bytes | bytearray | os.PathLike) or hasattr(images, "shape"):
        raise UsageError(f"Several images are given as a list of them, not as one {type(images).__name__}.")
    return (source for image in images for source in _expand_object(image))


def _expand_object(image: ImageInput | Source) -> Iterator[Source]:
    if isinstance(image, str | os.PathLike):
        yield from expand([os.fsdecode(image)])
        return
    try:
        yield from_object(image)
    except UsageError as error:  # one among many is its own error, not the others' end
        yield Source(f"<{type(image).__name__}>", None, "nothing", UnreadableImageError(str(error)))


def is_url(argument: str) -> bool:
    """Whether an argument is an http or https URL."""
    return argument[:8].lower().startswith(("http://", "https://"))


def _from_url(url: str) -> Source:
    from densenet_cli.http import redact

    return Source(redact(url), url, "url")


def _expand_path(argument: str) -> Iterator[Found | Skipped]:
    """The files below a path, the file itself, the matches of a glob, or one error."""
    try:
        mode = os.stat(argument).st_mode
    except (FileNotFoundError, NotADirectoryError):
        if os.path.lexists(argument):
            yield Found(argument, SourceNotFoundError("A symbolic link to nothing."))
        elif is_pattern(argument):
            for match in matches(argument):
                yield from walk(match.path) if match.is_folder else (match,)
        else:
            yield Found(argument, SourceNotFoundError("No such file or folder."))
    except (OSError, ValueError) as error:
        yield Found(argument, SourceUnreadableError(explain(error)))
    else:
        yield from walk(argument) if stat.S_ISDIR(mode) else (Found(argument),)


def _source(found: Found) -> Source:
    return Source(found.path, found.path, "nothing" if found.error else "path", found.error)
