"""Image sources: files, folders, archives, globs, URLs, object storage, standard input, and Python objects.

A source is a named image, or the reason why there is none. Expanding arguments into sources is lazy and always
happens in the same order. It opens folders and archives but no images: decoding shows whether a file is one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, Literal
from weakref import WeakSet

from densenet_cli.errors import ImageError, SourceNotFoundError, SourceUnreadableError, UnreadableImageError, UsageError
from densenet_cli.images.expansion import expand_path
from densenet_cli.images.files import StandardInput
from densenet_cli.images.walking import Entry, SkippedFiles, has_image_suffix, image_suffixes, is_glob
from densenet_cli.paths import expand_braces, is_remote, is_url, split_archives, split_member, split_page
from densenet_cli.textfiles import check_text, read_lines, read_null_terminated

if TYPE_CHECKING:
    from densenet_cli._types import ImageInput

Kind = Literal["path", "url", "remote", "member", "archive", "stdin", "bytes", "file", "image", "array", "nothing"]

MAX_NAMES = 1_000_000
"""Names that braces can stand for."""

_list_streams: WeakSet[IO[bytes]] = WeakSet()
"""Streams that ``read_list`` reads. They cannot be images as well."""


@dataclass(frozen=True, slots=True)
class Source:
    """One image to process.

    Attributes:
        name: The name in results: the path as given, joined with the path below it, or the URL. A name that is not
            UTF-8 keeps its bytes as surrogate escapes (``os.fsencode`` restores them).
        origin: Where the image comes from: a path, a URL (of object storage for kind "remote"), the contents of a
            member of an archive (``archives.contents.Contents``), bytes, a binary file object, a ``PIL.Image.Image``,
            or a uint8 array of shape (height, width, 3).
        kind: The kind of ``origin``; "nothing" for a source that failed while it was listed.
        error: The error of a source of kind "nothing", or None.
        page: Number of the page to read, from 0; None for the first, with a note if there are more.
        location: Where the page is in the file, if that is known; see ``images.pages``.
    """

    name: str
    origin: Any
    kind: Kind
    error: ImageError | None = None
    page: int | None = None
    location: Any = None


def expand(
    arguments: Iterable[str], *, stdin: IO[bytes] | None = None, suffixes: Collection[str] = (), archives: bool = True
) -> Iterator[Source]:
    """Yield the sources that arguments name, in order.

    Folders are searched depth first, each folder's names sorted, and archives in their own order. Files in them without
    an image extension are skipped; their number is logged at the end.

    Args:
        arguments: Files, folders, archives (``paths.ARCHIVE_SUFFIXES``), globs (unless a path of that name exists), the
            same in object storage (``s3://bucket/photos``), http(s) URLs, or ``-`` for an image on standard input.
            ``file.tif[2]`` is a page of a file if ``file.tif`` exists, and a glob otherwise. ``photos.tar/cats`` is a
            member or a folder in an archive. Braces in other names are expanded: ``{a,b}`` and ``{000..099}``.
        stdin: The binary stream for ``-``; None for ``sys.stdin.buffer``.
        suffixes: File name extensions of images in folders, in addition to the known ones. An empty one means files
            without an extension.
        archives: Whether to open archives. Otherwise, each archive or name of a member is a source of kind "archive".

    Raises:
        UsageError: A suffix is not an extension. Raised immediately.
    """
    return _expand(arguments, stdin, image_suffixes(suffixes), archives)


def _expand(
    arguments: Iterable[str], stdin: IO[bytes] | None, suffixes: frozenset[str], open_archives: bool
) -> Iterator[Source]:
    standard_input: StandardInput | None = None
    skipped = SkippedFiles(0)
    for argument in _expand_braces(arguments):
        if isinstance(argument, Source):
            yield argument
        elif argument == "-":
            stream = stdin or sys.stdin.buffer
            if stream in _list_streams:
                error = SourceUnreadableError("Standard input is already used for the list of sources.")
                yield Source("-", None, "nothing", error)
            else:
                standard_input = standard_input or StandardInput(stream)
                yield Source("-", standard_input, "stdin")
        elif is_url(argument):
            yield _from_url(argument)
        elif source := _from_page_name(argument) or (_from_member_name(argument) if open_archives else None):
            yield source
        else:
            for entry in expand_path(argument, suffixes, open_archives):
                if isinstance(entry, SkippedFiles):
                    skipped = skipped.plus(entry)
                else:
                    yield from_entry(entry)
    if any(skipped):
        import logging

        logging.getLogger(__name__).info("%s", skipped)


def _expand_braces(arguments: Iterable[str]) -> Iterator[str | Source]:
    """Replace names that contain braces by those that they stand for, unless there is a file of that name."""
    for argument in arguments:
        if "{" not in argument or _has_literal_braces(argument):
            yield argument
        elif any(islice(expand_braces(argument), MAX_NAMES, None)):
            error = SourceNotFoundError(f"No such file or folder. The braces stand for more than {MAX_NAMES:,} names.")
            yield argument if is_url(argument) else from_entry(Entry(argument, error))
        else:
            yield from expand_braces(argument)


def _has_literal_braces(argument: str) -> bool:
    """Return whether there is a file of this name, or an archive whose name has no braces before a member's name."""
    if is_url(argument):
        return False
    if is_remote(argument):
        return "{" not in next((archive for archive, _ in split_archives(argument)), "{")
    return os.path.lexists(argument) or split_member(argument) is not None


def read_list(file: IO[bytes], null: bool = False) -> Iterator[str]:
    """Yield the arguments in a binary stream, one per line or NUL-terminated string. Empty ones are ignored.

    Each argument is yielded as soon as it is complete, however slowly the others arrive.

    Args:
        file: the stream. Lines are text as in ``textfiles``; NUL-terminated strings are the bytes of paths.
        null: whether NUL bytes instead of line ends separate the arguments.

    Raises:
        UsageError: The first line contains NUL. Raised when it is read.
    """
    _list_streams.add(file)
    return filter(None, read_null_terminated(file) if null else check_text(read_lines(file)))


def from_object(image: ImageInput | Source, *, offline: bool = False) -> Source:
    """Return the source for a Python object.

    Args:
        image: A path (str or ``os.PathLike``), http(s) URL, or URL of object storage, also of a page such as
            ``file.tif[2]`` or a member of an archive such as ``photos.tar/cats/1.jpg``; the bytes of an image file, a
            binary file object, a ``PIL.Image.Image``, a uint8 array of shape (height, width, 3), or a ``Source``.
        offline: Whether object storage must not be accessed, to find a member of an archive there.

    Raises:
        UsageError: It is none of these.
    """
    if isinstance(image, Source):
        return image
    if isinstance(image, str) and is_url(image):
        return _from_url(image)
    if isinstance(image, str) and is_remote(image):
        member = None if offline else _from_member_name(image, is_image=True)
        return member or _from_page_name(image) or from_entry(Entry(image))
    if isinstance(image, str | os.PathLike):
        path = os.fsdecode(image)
        return _from_page_name(path) or _from_member_name(path, is_image=True) or Source(path, path, "path")
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
        "An image must be a path, a URL, bytes, a binary file object, a PIL image, or a uint8 array of shape (height, "
        f"width, 3), not {type(image).__name__}."
    )


def _is_instance(value: object, module: str, name: str) -> bool:
    """Like ``isinstance``, without importing the class: before its module is imported, there are no instances."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(value, kind)


def _from_array(array: Any) -> Source:
    if array.dtype.name != "uint8" or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise UsageError(
            "An image array must be uint8 of shape (height, width, 3) and not empty, "
            f"not {array.dtype.name} of shape {tuple(array.shape)}."
        )
    # The array is read later, and callers that read videos reuse one array for all frames.
    return Source("<array>", array.copy(), "array")


def expand_objects(images: Iterable[ImageInput | Source]) -> Iterator[Source]:
    """Yield the sources for Python objects. Each is what ``from_object`` accepts, or the path of a folder or a glob.

    An object that is not an image yields a source with an error.

    Raises:
        UsageError: ``images`` is itself an image. Raised immediately.
    """
    if isinstance(images, str | bytes | bytearray | os.PathLike) or hasattr(images, "shape"):
        raise UsageError(f"`images` must be an iterable of images, not a single {type(images).__name__}.")
    return (source for image in images for source in _expand_object(image))


def _expand_object(image: ImageInput | Source) -> Iterator[Source]:
    if isinstance(image, str | os.PathLike):
        yield from expand([os.fsdecode(image)])
        return
    try:
        yield from_object(image)
    except UsageError as error:  # must not end the other images
        yield Source(f"<{type(image).__name__}>", None, "nothing", UnreadableImageError(str(error)))


def _from_page_name(name: str) -> Source | None:
    """Return the source for a name such as ``file.tif[2]``, or None if it is a file or ``file.tif`` is not one."""
    parts = split_page(name)
    if parts and is_remote(name):
        return None if split_member(name) else _from_remote_page(*parts)
    if not parts or os.path.lexists(name) or not os.path.lexists(parts[0]) or os.path.isdir(parts[0]):
        return None
    return Source(f"{parts[0]}[{parts[1]}]", parts[0], "path", page=parts[1])


def _from_member_name(name: str, is_image: bool = False) -> Source | None:
    """Return the source for a name such as ``photos.tar/1.jpg`` or ``photos.tar/1.tif[2]``, or None.

    It is None if the name is not in an archive, or unless ``is_image``, if it may be a folder there.
    """
    if in_storage := is_remote(name):
        from densenet_cli.images.remote import is_file
    for archive, member in split_archives(name):
        if not in_storage and not os.path.isfile(archive):
            continue
        try:
            return _find_member(name, archive, member, is_image)
        except ImageError as error:
            # A folder in storage can be named like an archive. Other errors are found again by expand_path.
            if not in_storage or (is_image and is_file(archive)):
                return from_entry(Entry(name, error.with_traceback(None)))
    return None


def _find_member(name: str, archive: str, member: str, is_image: bool) -> Source | None:
    """Return the same for a member of an archive. Raises ``ImageError`` if that cannot be read."""
    from densenet_cli.images.archives.index import find_member

    if entry := find_member(archive, member):
        return from_entry(entry._replace(path=name))
    if (page := split_page(member)) and (entry := find_member(archive, page[0])):
        return replace(from_entry(entry._replace(path=f"{archive}/{page[0]}[{page[1]}]")), page=page[1])
    missing = SourceNotFoundError("The archive contains no such file.")
    return from_entry(Entry(name, missing)) if is_image else None


def _from_url(url: str) -> Source:
    from densenet_cli.transfer_errors import redact

    if "?" not in url and (parts := split_page(url)):
        return Source(f"{redact(parts[0])}[{parts[1]}]", parts[0], "url", page=parts[1])
    return Source(redact(url), url, "url")


def _from_remote_page(file: str, page: int) -> Source | None:
    """Return a page of a file, without a request: brackets after the extension of an image are not a pattern."""
    if not has_image_suffix(file) or is_glob(file):
        return None
    source = from_entry(Entry(file))
    return replace(source, name=f"{source.name}[{page}]", page=page)


def from_entry(entry: Entry) -> Source:
    """Return the source for an entry of a folder or an archive."""
    name = entry.path
    if is_remote(entry.path):
        from densenet_cli.storage import redact

        name = redact(entry.path)
    if entry.contents is not None:
        return Source(name, entry.contents, "member")
    kind: Kind = "archive" if entry.is_archive else "remote" if is_remote(entry.path) else "path"
    return Source(name, entry.path, "nothing" if entry.error else kind, entry.error)
