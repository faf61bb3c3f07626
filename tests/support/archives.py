"""Archives for tests: of a folder in every format, and with headers that no program writes."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

from densenet_cli.images.walking import Entry, walk

FORMATS = ("tar", "tar.gz", "tgz", "tar.bz2", "tar.xz", "zip")


def pack(folder: Path, archive: Path, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write the images in a folder to an archive, in the order in which a folder is searched."""
    names = [Path(entry.path) for entry in walk(str(folder)) if isinstance(entry, Entry)]
    members = [(str(path.relative_to(folder)), path.read_bytes()) for path in names]
    if archive.suffix == ".zip":
        return write_zip(archive, *members, method=method)
    return write_tar(archive, *members)


def write_tar(archive: Path, *members: tuple[str, bytes] | tarfile.TarInfo, format_: int = tarfile.PAX_FORMAT) -> Path:
    """Write members, or headers of members without contents, to a tar archive, compressed as its name says."""
    mode = {".gz": "gz", ".tgz": "gz", ".bz2": "bz2", ".xz": "xz"}.get(archive.suffix, "")
    with tarfile.open(archive, f"w:{mode}", format=format_, encoding="utf-8", errors="surrogateescape") as file:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                file.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                file.addfile(info, io.BytesIO(member[1]))
    return archive


def write_zip(archive: Path, *members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write members to a zip archive."""
    with zipfile.ZipFile(archive, "w", method) as file:
        for name, data in members:
            file.writestr(name, data)
    return archive


def tar_member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, size: int | None = None) -> bytes:
    """Return a member of a tar archive whose header states any size."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(data) if size is None else 0
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")[-512:])
    if size is not None:
        block[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    return with_checksum(block) + data + bytes(-len(data) % 512)


def with_checksum(block: bytearray) -> bytes:
    """Return a header block with the right checksum."""
    block[148:156] = b" " * 8
    block[148:155] = b"%06o\0" % sum(block)
    return bytes(block)


def pax_header(*records: tuple[str, str], kind: bytes = tarfile.XHDTYPE) -> bytes:
    """Return an extended header for the member that follows."""
    data = b""
    for key, value in records:
        record = f" {key}={value}\n".encode("utf-8", "surrogateescape")
        length = len(record) + 1
        while len(str(length)) + len(record) != length:
            length = len(str(length)) + len(record)
        data += str(length).encode() + record
    return tar_member("pax", data, kind)
