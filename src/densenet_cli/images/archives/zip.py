"""Zip archives: a walk over the directory that holds one entry at a time.

``zipfile`` is not used: it keeps the whole directory, which takes 600 MB for a million members.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator

from densenet_cli.errors import ImageError, SourceUnreadableError, UnreadableImageError
from densenet_cli.images.archives.contents import (
    BZIP2,
    DEFLATED,
    LOCAL_HEADER_SIZE,
    STORED,
    ByteStream,
    StreamOpener,
    ZipContents,
)
from densenet_cli.images.archives.members import Member

END = struct.Struct("<4s4H2LH")
"""The end of the directory: signature, numbers of this disk and of the directory's, two counts of entries, size and
offset of the directory, and length of the comment that follows."""
ZIP64_LOCATOR = struct.Struct("<4sLQL")
ZIP64_END = struct.Struct("<4sQ2H2L4Q")
ENTRY = struct.Struct("<4s2B5H3L5H2L")
"""Signature; version and system of the writer; version, flags, method, time, and date; checksum, compressed size, and
size; lengths of name, extra fields, and comment; disk; attributes of the file, internal and external; offset."""

MAX_COMMENT_LENGTH = 0xFFFF
CHUNK_SIZE = 1 << 16

ENCRYPTED = 0x1
UTF_8 = 0x800
UNIX_SYSTEMS = (3, 19)
WINDOWS_SYSTEMS = (0, 11)

MAX_RATIO = 1100
"""Deflate cannot compress by more than 1,032."""
RATIO_TOLERANCE = 1 << 20
"""Bytes added to that limit."""


def read_members(stream: ByteStream, open_stream: StreamOpener, file_size: int) -> Iterator[Member]:
    """Yield the members of a zip archive that are not folders, in the order of its directory.

    Args:
        stream: The archive. It may be read at other places between members.
        open_stream: Opens it again.
        file_size: Its size in bytes.

    Raises:
        SourceUnreadableError: The archive is damaged or truncated. The message says where.
    """
    position, end, prefix = _find_directory(stream, file_size)
    data = b""
    start = position
    total = 0
    while start < end:
        needed = ENTRY.size + 3 * 0xFFFF
        if start - position + needed > len(data) < end - position:
            position = start
            stream.seek(position)
            data = stream.read(min(CHUNK_SIZE + needed, end - position))
        offset = start - position
        if data[offset : offset + 4] != b"PK\1\2" or len(data) < offset + ENTRY.size:
            raise SourceUnreadableError(f"The archive is damaged: reading ended at byte {start:,}, in its directory.")
        fields = ENTRY.unpack_from(data, offset)
        name_length, extra_length, comment_length = fields[11:14]
        name_end = offset + ENTRY.size + name_length
        start += ENTRY.size + name_length + extra_length + comment_length
        if start > end:
            raise SourceUnreadableError("The archive is damaged: its directory is truncated.")
        _, _, system, _, flags, method, _, _, checksum, compressed_size, size = fields[:11]
        header_offset = fields[-1]
        if 0xFFFFFFFF in (size, compressed_size, header_offset):
            size, compressed_size, header_offset = _read_zip64(
                data[name_end : name_end + extra_length], size, compressed_size, header_offset
            )
        name = _decode_name(data[offset + ENTRY.size : name_end].partition(b"\0")[0], flags)
        if system in WINDOWS_SYSTEMS and "/" not in name:
            name = name.replace("\\", "/")  # some programs write these, which cannot be a part of names there
        if name.endswith("/"):
            continue
        contents = ZipContents(open_stream, prefix + header_offset, compressed_size, size, checksum, method)
        total += LOCAL_HEADER_SIZE + compressed_size
        mode = fields[-2] >> 16 if system in UNIX_SYSTEMS else 0
        yield Member(name, contents, _find_error(contents, flags, mode, is_overlapping=total > file_size))


def _find_directory(stream: ByteStream, file_size: int) -> tuple[int, int, int]:
    """Return start and end of the directory, and the number of bytes before the archive.

    Raises:
        SourceUnreadableError: There is none, or it is not in the file.
    """
    tail_start = max(0, file_size - END.size - MAX_COMMENT_LENGTH)
    stream.seek(tail_start)
    tail = stream.read(file_size - tail_start)
    position = tail.rfind(b"PK\5\6")
    if position < 0 or len(tail) < position + END.size:
        raise SourceUnreadableError(
            "The archive is truncated, or not a zip archive: its directory, which is at its end, is missing."
        )
    _, disk, _, _, _, size, offset, _ = END.unpack_from(tail, position)
    end = tail_start + position
    if position >= ZIP64_LOCATOR.size and tail[position - ZIP64_LOCATOR.size :][:4] == b"PK\6\7":
        end -= ZIP64_LOCATOR.size + ZIP64_END.size
        stream.seek(max(0, end))
        record = stream.read(ZIP64_END.size)
        if end < 0 or len(record) < ZIP64_END.size or record[:4] != b"PK\6\6":
            raise SourceUnreadableError("The archive is damaged: the end of its directory is missing.")
        disk, size, offset = (ZIP64_END.unpack(record)[index] for index in (4, 8, 9))
    if disk:
        raise SourceUnreadableError("Zip archives that are split into several files are not supported.")
    prefix = end - size - offset
    if prefix < 0:
        raise SourceUnreadableError("The archive is truncated: its directory is not in the file.")
    return end - size, end, prefix


def _read_zip64(extra: bytes, *values: int) -> list[int]:
    """Return values of an entry, with those from its extra field that have more than 32 bits."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        position += 4
        if kind == 1:
            count = min(length, len(extra) - position) // 8
            longer = iter(struct.unpack_from(f"<{count}Q", extra, position))
            return [next(longer, value) if value == 0xFFFFFFFF else value for value in values]
        position += length
    return list(values)


def _decode_name(name: bytes, flags: int) -> str:
    """Decode a name, which is in UTF-8 if a flag says so. Some programs use UTF-8 without the flag."""
    try:
        return name.decode("utf-8", "surrogateescape" if flags & UTF_8 else "strict")
    except UnicodeDecodeError:
        return name.decode("cp437")


def _find_error(contents: ZipContents, flags: int, mode: int, is_overlapping: bool) -> ImageError | None:
    """Return why a member cannot be read, or None."""
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        kind = " but a symbolic link" if stat.S_ISLNK(mode) else ""
        return SourceUnreadableError(f"Not a regular file{kind}.")
    if flags & ENCRYPTED:
        return SourceUnreadableError("The member is encrypted.")
    if contents.method not in (STORED, DEFLATED, BZIP2):
        return UnreadableImageError(f"Compression method {contents.method} is not supported.")
    if contents.size > MAX_RATIO * contents.compressed_size + RATIO_TOLERANCE:
        return UnreadableImageError(f"The member expands to more than {MAX_RATIO:,} times its size.")
    if is_overlapping:
        return UnreadableImageError("The archive is damaged: its members overlap.")
    return None
