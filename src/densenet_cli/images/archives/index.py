"""Single members of archives, found by their names.

A list of such names, for example the sources of earlier records, usually has the order of the archive. So an archive is
walked until the member is found, and further when another one is needed.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from densenet_cli.errors import ImageError, guard
from densenet_cli.images.archives.archive import OpenArchive
from densenet_cli.images.archives.contents import (
    LocalFile,
    ReadContents,
    RemoteFile,
    open_archive,
)
from densenet_cli.images.archives.members import Member, normalize
from densenet_cli.images.walking import Entry

MAX_ARCHIVES = 32
"""Archives that are kept open."""

MAX_MEMBERS = 200_000
"""Members to remember, of one archive and of all. Each takes about 500 bytes."""

CHECK_INTERVAL = 30.0
"""Seconds after which an archive in object storage is checked for changes again, which takes a request."""

_lock = threading.Lock()
_indexes: OrderedDict[str, _Index] = OrderedDict()
"""By the path of the archive, the one that was used last at the end."""


def find_member(archive: str, name: str) -> Entry | None:
    """Return the member of an archive with a name, the first one if there are several, or None if there is none.

    Thread-safe. The entry of a member that must not, or cannot, be read has an error. That of a compressed tar archive
    may hold the bytes of the member until they are read.

    Raises:
        ImageError: The archive cannot be opened, or is damaged before such a member.
    """
    with _lock:
        index = _indexes.get(archive)
        if index and not index.is_current():
            _indexes.pop(archive).close()
            index = None
        _indexes[archive] = index = index or _Index(archive)
        _indexes.move_to_end(archive)
        try:
            return index.find(normalize(name).lstrip("/"))
        finally:
            while len(_indexes) > 1 and (
                len(_indexes) > MAX_ARCHIVES or sum(index.count for index in _indexes.values()) > MAX_MEMBERS
            ):
                _indexes.popitem(last=False)[1].close()


class _Index:
    """The members of an archive that were walked so far, by their paths."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = open_archive(path).identify()
        self._checked = time.monotonic()
        self._start()

    def is_current(self) -> bool:
        """Return whether the archive has not changed. Raises ``ImageError`` if it is missing."""
        now = time.monotonic()
        if isinstance(self._file, RemoteFile):
            if now < self._checked + CHECK_INTERVAL:
                return True
            self._checked = now
        return open_archive(self._path).identify() == self._file

    def _start(self) -> None:
        self._archive = OpenArchive(self._path, self._file, in_order=isinstance(self._file, RemoteFile))
        self._walk = iter(self._archive)
        self._members: dict[str, Member] = {}
        self._has_all = True
        """Whether ``_members`` contains everything that was walked."""
        self._error: ImageError | None = None

    @property
    def count(self) -> int:
        """Number of members that are remembered."""
        return len(self._members)

    def close(self) -> None:
        """Close the archive."""
        self._archive.__exit__()

    def find(self, path: str) -> Entry | None:
        """See ``find_member``."""
        if member := self._members.get(path):
            is_read_in_order = not isinstance(member.contents.open_stream, LocalFile)
            contents = ReadContents(member.contents) if is_read_in_order else member.contents
            error = member.find_error(member.path)
            return Entry(member.path, error, contents=None if error else contents)
        if member := self._walk_to(path):
            return self._archive.entry(member, member.path)
        if not self._has_all:
            self._start()
            if member := self._walk_to(path):
                return self._archive.entry(member, member.path)
        if self._error:
            raise self._error
        return None

    def _walk_to(self, path: str) -> Member | None:
        """Walk on until the member with a path, or to the end. Return the member if it is found."""
        try:
            while member := guard(lambda: next(self._walk, None)):
                if len(self._members) == MAX_MEMBERS:
                    self._members.clear()
                    self._has_all = False
                key = member.path.lstrip("/")
                self._members.setdefault(key, member)
                if key == path:
                    return member
        except ImageError as error:
            self._error = error
        self.close()
        return None
