"""Read hostile archives: each source has bytes or one error, without crash or hang, in little time and memory.

    python -m tests.images.fuzz_archives 20000

generates that many archives of all formats, with random members and damage, walks them, and reads the members in random
order. A seed determines an archive: ``python -m tests.images.fuzz_archives 1 17`` repeats that of seed 17.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import struct
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil

from densenet_cli.errors import ImageError, guard
from densenet_cli.images.reading import read_source
from densenet_cli.images.sources import expand, from_object
from tests.support.archives import pax_header, tar_member, with_checksum

MAX_SECONDS = 20
"""Processor time for one archive."""
MAX_GROWTH = 400_000_000
"""Bytes by which the process may grow, including the largest member that is read and the memory of xz."""

NAMES = (
    *("a.png", "b.jpg", "x/c.png", "./d.png", "n/" * 30 + "e.png", "f" * 150 + ".png", "caf\udce9.png", "naïve.png"),
    *("/abs.png", "../up.png", "x/../../y.png", "a.txt", "b.cls", "inner.tar", ".hidden.png", "__MACOSX/a.png"),
    *("z" * 5000 + ".png", "a\nb.png", "", "/", "..", "x/", "a.tif[2]", "{a,b}.png", "*.png", "[0].png"),
)
KINDS = [bytes([value]) for value in b"01234567xgLKSMVDNAX\0Z"]
NUMBERS = (
    0,
    1,
    2,
    511,
    512,
    513,
    0x7F,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 40,
    (1 << 64) - 1,
)
PAX_KEYS = (
    "path",
    "size",
    "comment",
    "GNU.sparse.name",
    "GNU.sparse.major",
    "linkpath",
    "mtime",
    "",
    "=",
    "hdrcharset",
)


def contents(rng: random.Random) -> bytes:
    """Return contents that compress well, or not at all, of up to a few hundred kB, and rarely many MB."""
    size = rng.choice((0, 1, 100, 511, 512, 513, 5000, 100_000))
    if rng.random() < 0.01:
        return bytes(rng.choice((3, 70)) << 20)
    return rng.choice((bytes(size), rng.randbytes(size)))


def build_tar(rng: random.Random) -> bytes:
    """Return a tar archive of which some headers are damaged but have the right checksum."""
    blocks = []
    for _ in range(rng.randrange(12)):
        if rng.random() < 0.3:
            records = [(rng.choice(PAX_KEYS), random_value(rng)) for _ in range(rng.randrange(4))]
            blocks.append(pax_header(*records, kind=rng.choice((b"x", b"x", b"g", b"X"))))
        kind = tarfile.REGTYPE if rng.random() < 0.6 else rng.choice(KINDS)
        name = rng.choice(NAMES).replace("\n", " ")
        member = bytearray(tar_member(name if len(name) < 100 else name[-99:], contents(rng), kind))
        if kind == tarfile.GNUTYPE_LONGNAME:
            member = bytearray(tar_member("x", rng.choice(NAMES).encode("utf-8", "surrogateescape"), kind))
        if rng.random() < 0.2:
            start, length = rng.choice(((0, 100), (100, 8), (124, 12), (156, 1), (257, 8), (345, 155), (482, 30)))
            member[start : start + length] = random_field(rng, length)
            member[:512] = with_checksum(member[:512])
        blocks.append(bytes(member))
        if rng.random() < 0.05:
            blocks.append(rng.choice((bytes(512), rng.randbytes(512), b"\xff" * 512)))
    return b"".join(blocks) + bytes(rng.choice((0, 512, 1024, 9000)))


def random_value(rng: random.Random) -> str:
    """Return a value of an extended header."""
    return rng.choice((rng.choice(NAMES), str(rng.choice(NUMBERS)), f"-{rng.choice(NUMBERS)}", "x" * 3000, "1.5", "\0"))


def random_field(rng: random.Random, length: int) -> bytes:
    """Return a field of a tar header: a number in one of its forms, or noise."""
    number = rng.choice(NUMBERS)
    forms = (f"{number:o}".encode(), b"-1", b"\x80" + number.to_bytes(11), b"\xff" * length, rng.randbytes(length), b"")
    return rng.choice(forms)[:length].ljust(length, b"\0")


def build_zip(rng: random.Random) -> bytes:
    """Return a zip archive in which some fields are damaged."""
    file = io.BytesIO(rng.choice((b"", b"", b"#!/bin/sh\n" * 20)))
    file.seek(0, io.SEEK_END)
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(file, "a") as archive:  # about duplicate names
        archive.comment = b"c" * rng.choice((0, 0, 10, 60_000))
        for _ in range(rng.randrange(12)):
            info = zipfile.ZipInfo(rng.choice(NAMES).encode("utf-8", "replace").decode() or "x")
            info.create_system = rng.choice((0, 3, 19))
            info.external_attr = rng.choice((0, 0o100644 << 16, 0o120777 << 16, 0o20666 << 16))
            info.compress_type = rng.choice((0, 8, 8, 12, 14))
            with archive.open(info, "w", force_zip64=rng.random() < 0.2) as member:
                member.write(contents(rng))
    data = bytearray(file.getvalue())
    for _ in range(rng.choice((0, 1, 1, 3))):
        signature, size = rng.choice(((b"PK\1\2", 46), (b"PK\5\6", 22), (b"PK\3\4", 30), (b"PK\6\6", 56)))
        starts = [start for start in range(len(data)) if data.startswith(signature, start)] if len(data) < 2e5 else []
        if starts:
            offset = rng.choice(starts) + rng.randrange(4, size)
            value = rng.choice(NUMBERS)
            form = rng.choice("BHLQ")
            width = struct.calcsize(f"<{form}")
            data[offset : offset + width] = (value % (1 << 8 * width)).to_bytes(width, "little")
    return bytes(data)


def damage(rng: random.Random, data: bytes) -> bytes:
    """Return data with a few bytes changed, removed, or repeated, or without its end."""
    damaged = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        if not damaged:
            break
        position = rng.randrange(len(damaged))
        match rng.randrange(5):
            case 0:
                damaged[position] ^= 1 << rng.randrange(8)
            case 1:
                del damaged[position:]
            case 2:
                del damaged[position : position + rng.choice((1, 512, 5000))]
            case 3:
                damaged[position:position] = damaged[position : position + rng.choice((1, 512, 5000))]
            case 4:
                damaged[position : position + 8] = rng.randbytes(8)
    return bytes(damaged)


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "tar.gz": partial(gzip.compress, compresslevel=1),
    "tar.bz2": partial(bz2.compress, compresslevel=1),
    "tar.xz": partial(lzma.compress, preset=0),
}


def build(seed: int) -> tuple[str, bytes]:
    """Return the extension and the bytes of an archive."""
    rng = random.Random(seed)
    format_ = rng.choice((*COMPRESSIONS, "tar", "zip", "zip", "zip"))
    data = build_zip(rng) if format_ == "zip" else build_tar(rng)
    is_damaged = rng.random() < 0.5
    if is_damaged and rng.random() < 0.5:
        data = damage(rng, data)
        is_damaged = False
    data = COMPRESSIONS.get(format_, bytes)(data)
    return rng.choice((format_,) * 9 + ("tar",)), damage(rng, data) if is_damaged else data


def check(seed: int, folder: Path) -> Counter[str]:
    """Read an archive and return counts of what was found. Raises ``AssertionError`` if a check fails."""
    suffix, data = build(seed)
    path = folder / f"a.{suffix}"
    path.write_bytes(data)
    process = psutil.Process()
    started, memory = time.process_time(), process.memory_info().rss
    found: Counter[str] = Counter(archives=1)
    sources = list(expand([str(path)]))
    assert sources, f"seed {seed}: nothing"
    rng = random.Random(seed)
    rng.shuffle(sources)
    for source in sources:
        assert source.name.startswith(str(path)), f"seed {seed}: {source.name}"
        try:
            if source.error:
                raise source.error
            assert source.kind == "member", f"seed {seed}: {source}"
            first, second = (guard(partial(read_source, source)) for _ in range(2))
            assert first == second and len(first) == source.origin.size, f"seed {seed}: {source}"
            found["read"] += 1
        except ImageError as error:
            assert str(error).isprintable() and 0 < len(str(error)) < 300, f"seed {seed}: {error}"
            found[error.type] += 1
    if found["read"]:  # a name leads to the first member of that name
        source = rng.choice(sources)
        assert from_object(source.name).name == source.name
    growth, elapsed = process.memory_info().rss - memory, time.process_time() - started
    assert growth < MAX_GROWTH, f"seed {seed}: {growth / 1e6:.0f} MB"
    assert elapsed < MAX_SECONDS, f"seed {seed}: {elapsed:.0f} s"
    found["slowest_ms"] = round(1000 * elapsed)
    return found


def main(archives: int, seed: int = 0) -> None:
    """Read archives, beginning with that of ``seed``, and print statistics."""
    total: Counter[str] = Counter()
    slowest = 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(seed, seed + archives):
            found = check(number, Path(folder))
            slowest = max(slowest, found.pop("slowest_ms"))
            total.update(found)
            if number % 1000 == 999:
                print(number + 1, dict(total), flush=True)
    peak = psutil.Process().memory_info().rss
    print(f"{dict(total)}, memory at the end {peak / 1e6:.0f} MB, slowest archive {slowest} ms of processor time")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
