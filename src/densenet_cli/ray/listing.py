"""The sources of a run, listed in order and cut into parts. The list of a part is stored before it is processed.

A stored list is never changed, so a part always means the same sources. A run that continues a listing walks the
sources again and goes on behind the last one that is stored. Files that were added before that place are not part of
the run, as if they had been added after it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densenet_cli import errors
from densenet_cli.errors import ImageError, UnreadableImageError, UsageError
from densenet_cli.images.sources import Source, expand, read_list
from densenet_cli.images.walking import has_image_suffix
from densenet_cli.paths import is_remote, is_url, local_path
from densenet_cli.text import to_printable, to_unicode

if TYPE_CHECKING:
    from densenet_cli.ray.folder import PartFolder


@dataclass(frozen=True)
class SourceArguments:
    """What the sources of a run are listed from.

    Attributes:
        arguments: Files, folders, globs, and URLs.
        list_file: The path of a file with more of them, or None.
        null: Whether they are separated by NUL bytes there.
        suffixes: See ``sources.expand``.
        folder: Where relative paths start.
        offline: Whether object storage must not be accessed.
    """

    arguments: tuple[str, ...]
    list_file: str | None
    null: bool
    suffixes: tuple[str, ...]
    folder: str
    offline: bool = False

    def expand(self) -> Iterator[Source]:
        """Yield the sources. Call it in the folder where relative paths start. Archives are not opened."""
        if not self.offline:
            return expand(self._names(), suffixes=self.suffixes, archives=False)
        from densenet_cli.images.offline import without_access

        return chain.from_iterable(map(self._expand_offline, without_access(self._names())))

    def _expand_offline(self, argument: Any) -> Iterable[Source]:
        if isinstance(argument, Source):
            return [argument]
        return expand([argument], suffixes=self.suffixes, archives=False)

    def _names(self) -> Iterator[str]:
        yield from self.arguments
        if self.list_file is not None:
            with Path(self.list_file).open("rb") as file:
                yield from map(local_path, read_list(file, self.null))


def encode_source(source: Source) -> str:
    """Return a source as one line of JSON: its name, if that says everything, or an object.

    Raises:
        UsageError: It is an image on standard input, or its URL contains credentials, which must not be stored.
    """
    if source.kind == "stdin":
        raise UsageError("Standard input cannot be an image with `ray`. Save it to a file.")
    if source.kind == "nothing":
        error = source.error or UnreadableImageError("The source contains no image.")
        return json.dumps({"name": source.name, "error": type(error).__name__, "message": str(error)})
    if source.kind == "archive":
        check_no_credentials(source.name)
        return json.dumps({"name": source.name, "kind": "archive"})
    if source.page is None and source.origin == source.name:
        return json.dumps(source.name if source.kind == "path" else {"name": source.name, "kind": source.kind})
    check_no_credentials(source.origin)
    return json.dumps({"name": source.name, "kind": source.kind, "origin": source.origin, "page": source.page})


def check_no_credentials(name: str) -> None:
    """Raise ``UsageError`` if a name is a URL with credentials, which would have to be stored in the output folder."""
    if is_remote(name):
        from densenet_cli.storage import redact
    elif is_url(name):
        from densenet_cli.transfer_errors import redact
    else:
        return
    if redact(name) not in (name, to_printable(name)):
        raise UsageError(
            f"{redact(name)} was given with a user name or password, which `ray` would have to store with the list of "
            "sources. Put them where the library looks for them, such as ~/.netrc."
        )


def decode_source(line: str, arguments: SourceArguments) -> Iterator[Source]:
    """Yield the source that ``encode_source`` encoded, or the images in an archive."""
    value = json.loads(line)
    if isinstance(value, str):
        yield Source(value, _join(arguments.folder, value), "path")
    elif "error" in value:
        kind = getattr(errors, value["error"], ImageError)
        yield Source(value["name"], None, "nothing", kind(value["message"]))
    elif value["kind"] == "archive":
        path = _join(arguments.folder, value["name"])
        for source in expand([path], suffixes=arguments.suffixes):
            yield replace(source, name=value["name"] + source.name[len(path) :])
    else:
        origin: str = value.get("origin", value["name"])
        if value["kind"] == "path":
            origin = _join(arguments.folder, origin)
        yield Source(value["name"], origin, value["kind"], page=value.get("page"))


def _join(folder: str, path: str) -> str:
    return path if path.startswith("/") or is_remote(path) else f"{folder}/{path}"  # pathlib would change the name


def _cut(sources: Iterable[Source], part_size: int) -> Iterator[list[str]]:
    """Yield the encoded sources of each part.

    An archive, or a folder in one, is a part of its own, whatever the number of its images.
    """
    lines: list[str] = []
    for source in sources:
        is_part = source.kind == "archive" and not has_image_suffix(source.name)
        if lines and (is_part or len(lines) == part_size):
            yield lines
            lines = []
        lines.append(encode_source(source))
        if is_part:
            yield lines
            lines = []
    if lines:
        yield lines


def list_parts(sources: Iterable[Source], folder: PartFolder, part_size: int) -> Iterator[int]:
    """Store the lists of all parts, and yield the number of each part once its list is stored.

    Args:
        sources: All sources of the run, in order.
        folder: The output folder.
        part_size: The number of sources in a part.

    Raises:
        UsageError: A source cannot be stored, or the last source of a stored list is not among the sources any more.
        OutputError: A list cannot be written or read.
    """
    if totals := folder.read_totals():
        yield from range(totals[0])
        return
    stored_parts = folder.count_sources()
    last_line = _read_lines(folder, stored_parts - 1)[-1] if stored_parts else ""
    count = occurrences = 0  # a source can be given several times
    for part in range(stored_parts):
        yield part
        stored_lines = _read_lines(folder, part)
        count += len(stored_lines)
        occurrences += stored_lines.count(last_line)
    if stored_parts:
        sources = _skip(iter(sources), last_line, occurrences)
    part = stored_parts
    for lines in _cut(sources, part_size):
        folder.write_sources(part, "".join(f"{line}\n" for line in lines).encode())
        count += len(lines)
        yield part
        part += 1
    folder.write_totals(part, count)


def _read_lines(folder: PartFolder, part: int) -> list[str]:
    return (folder.read_sources(part) or b"").decode().splitlines()


def _skip(sources: Iterator[Source], last: str, occurrences: int) -> Iterator[Source]:
    """Return the sources that follow the one that is encoded as ``last`` and occurs for the given time."""
    for source in sources:
        if encode_source(source) == last:
            occurrences -= 1
            if not occurrences:
                return sources
    value: Any = json.loads(last)
    name = to_unicode(value if isinstance(value, str) else value["name"])
    raise UsageError(
        f"The sources have changed since the run was started: {name} is missing. Use `overwrite` to start again."
    )
