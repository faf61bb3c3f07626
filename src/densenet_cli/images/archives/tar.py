"""Tar archives: a walk over the headers that holds one member at a time.

``tarfile`` parses the headers. Its ``TarFile`` is not used: it keeps all members, and reads extended headers of any
length into memory.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from densenet_cli.errors import SourceUnreadableError
from densenet_cli.images.archives.contents import CHUNK_SIZE, ByteStream, StreamOpener, TarContents
from densenet_cli.images.archives.members import Member

BLOCK_SIZE = tarfile.BLOCKSIZE
END_BLOCK = bytes(BLOCK_SIZE)

MAX_HEADER_BYTES = 1 << 20
"""Longest extended header that is read: names of GNU tar, and attributes of pax."""

PAX_RECORD = re.compile(rb"([1-9][0-9]{0,9}) ([^=\n]{1,256})=")

FILE_TYPES = {
    tarfile.LNKTYPE: "a link to another member",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a FIFO",
}
"""Types of members without contents that are not folders."""


@dataclass(slots=True)
class _Overrides:
    """What extended headers say about the next member.

    Attributes:
        name: Its name, or None.
        size: Number of bytes, or None.
        is_sparse: Whether it is stored without its zeros.
        is_too_long: Whether an extended header was too long to be read.
    """

    name: bytes | None = None
    size: int | None = None
    is_sparse: bool = False
    is_too_long: bool = False


def read_members(stream: ByteStream, open_stream: StreamOpener, file_size: int | None) -> Iterator[Member]:
    """Yield the members of a tar archive that are not folders.

    Args:
        stream: The archive, at its start. It is only read forward.
        open_stream: Opens it again.
        file_size: Its size in bytes; None if it is unknown, because the archive is compressed.

    Raises:
        SourceUnreadableError: The archive is damaged or truncated. The message says where.
    """
    overrides = _Overrides()
    start = position = 0
    while True:
        if stream.seek(position) < position or (file_size is not None and position > file_size):
            raise _truncated(start)
        block = stream.read(BLOCK_SIZE)
        if not block and position == 0:
            raise SourceUnreadableError("The archive is empty.")
        if not block or block == END_BLOCK:  # programs accept an archive without the blocks that mark its end
            break
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            if position == 0:
                raise SourceUnreadableError("The file is not an archive.") from error
            raise (_damaged if len(block) == BLOCK_SIZE else _truncated)(position) from error
        start, position = position, position + BLOCK_SIZE
        if block[156:157] == tarfile.GNUTYPE_SPARSE:
            position = _skip_sparse_map(stream, position, is_extended=bool(block[482]))
        has_contents = header.type not in FILE_TYPES and header.type != tarfile.DIRTYPE
        size = header.size
        if overrides.size is not None and has_contents and not _is_extension(header.type):
            size = overrides.size
        if size < 0:
            raise _damaged(start)
        contents_position = position
        if has_contents:
            position += -(-size // BLOCK_SIZE) * BLOCK_SIZE
            if file_size is not None and contents_position + size > file_size:
                raise _truncated(start)
        if _is_extension(header.type):
            if header.type in EXTENSIONS_READ:
                _read_extension(stream, header.type, size, overrides, start)
            continue
        if header.type != tarfile.DIRTYPE:
            yield _member(header, overrides, TarContents(open_stream, contents_position, size))
        overrides = _Overrides()
    if file_size is None:
        stream.read(CHUNK_SIZE)  # verifies the checksum at the end of a compressed file


EXTENSIONS_READ = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME)


def _is_extension(kind: bytes) -> bool:
    return kind in EXTENSIONS_READ or kind in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK)


def _skip_sparse_map(stream: ByteStream, position: int, is_extended: bool) -> int:
    """Return where the contents of a sparse member start, after the blocks that extend its map."""
    while is_extended:
        stream.seek(position)
        block = stream.read(BLOCK_SIZE)
        if len(block) < BLOCK_SIZE:
            raise _truncated(position)
        position += BLOCK_SIZE
        is_extended = bool(block[504])
    return position


def _read_extension(stream: ByteStream, kind: bytes, size: int, overrides: _Overrides, start: int) -> None:
    """Read an extended header, which is about the member that follows."""
    if size > MAX_HEADER_BYTES:
        overrides.is_too_long = True
        return
    data = stream.read(size)
    if len(data) < size:
        raise _truncated(start)
    if kind == tarfile.GNUTYPE_LONGNAME:
        overrides.name = data.partition(b"\0")[0]
        return
    position = 0
    while position < size and data[position]:
        match = PAX_RECORD.match(data, position)
        end = position + int(match[1]) if match else 0
        if not match or not match.end() < end <= size or data[end - 1 : end] != b"\n":
            raise _damaged(start)
        key, value = match[2], data[match.end() : end - 1]
        position = end
        if (key == b"path" and not overrides.is_sparse) or key == b"GNU.sparse.name":
            overrides.name = value
        elif key == b"size":
            if not value.isdigit() or len(value) > 20:
                raise _damaged(start)
            overrides.size = int(value)
        overrides.is_sparse = overrides.is_sparse or key.startswith(b"GNU.sparse.")


def _member(header: tarfile.TarInfo, overrides: _Overrides, contents: TarContents) -> Member:
    name = header.name if overrides.name is None else overrides.name.decode("utf-8", "surrogateescape")
    if overrides.is_too_long:
        problem = f"The header of this member is longer than {MAX_HEADER_BYTES >> 20} MiB."
    elif header.type in FILE_TYPES:
        problem = f"Not a regular file but {FILE_TYPES[header.type]}."
    elif overrides.is_sparse or header.type == tarfile.GNUTYPE_SPARSE:
        problem = "Sparse members of archives are not supported."
    elif header.type in tarfile.REGULAR_TYPES:
        return Member(name, contents)
    else:
        problem = "Not a regular file."
    return Member(name, contents, SourceUnreadableError(problem))


def _damaged(position: int) -> SourceUnreadableError:
    return SourceUnreadableError(f"The archive is damaged: reading ended at byte {position:,}.")


def _truncated(position: int) -> SourceUnreadableError:
    return SourceUnreadableError(f"The archive is truncated: it ends within the member at byte {position:,}.")
