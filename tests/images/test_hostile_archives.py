"""Hostile and damaged archives: one error record for each member or place, in limited time and memory."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import struct
import tarfile
import time
import tracemalloc
import zipfile
from collections import Counter
from functools import partial

import pytest

from densenet_cli.errors import SourceUnreadableError, UnreadableImageError, guard
from densenet_cli.images.archives import compression, tar
from densenet_cli.images.reading import read_source
from densenet_cli.images.sources import expand, from_object
from tests.images import fuzz_archives
from tests.support.archives import pax_header, tar_member, with_checksum, write_tar, write_zip

END = bytes(1024)
GOOD = tar_member("good.png", b"good")


def read(archive) -> list[tuple[str, bytes | str]]:
    """Return the name in the archive and the bytes, or the type of the error, of each source."""
    found = []
    for source in expand([str(archive)]):
        name = source.name.removeprefix(str(archive))
        try:
            found.append(
                (name, guard(partial(read_source, source)) if source.error is None else type(source.error).__name__)
            )
        except (SourceUnreadableError, UnreadableImageError) as error:
            found.append((name, type(error).__name__))
    return found


def message(archive, number=0) -> str:
    return str(list(expand([str(archive)]))[number].error)


def write(path, *blocks: bytes):
    path.write_bytes(b"".join(blocks))
    return path


class TestPaths:
    @pytest.mark.parametrize("name", ["/etc/a.png", "//a.png", "../a.png", "x/../../a.png", "a/../b.png"])
    @pytest.mark.parametrize("format_", ["tar", "zip"])
    def test_absolute_or_with_parents(self, tmp_path, name, format_):
        archive = tmp_path / f"a.{format_}"
        (write_zip if format_ == "zip" else write_tar)(archive, (name, b"bad"), ("good.png", b"good"))
        (bad, error), good = read(archive)
        assert error == "SourceUnreadableError" and bad.endswith(name.lstrip("/"))
        assert good == ("/good.png", b"good")
        assert type(from_object(f"{archive}{bad}").error) is SourceUnreadableError

    def test_too_long(self, tmp_path):
        name = "x/" * 3000 + "a.png"
        archive = write_tar(tmp_path / "a.tar", (name, b""), ("good.png", b"good"))
        assert message(archive).startswith("Paths of members")
        assert read(archive)[1:] == [("/good.png", b"good")]

    def test_with_a_null_character(self, tmp_path):
        archive = write(tmp_path / "a.tar", pax_header(("path", "a.png\0.txt")), tar_member("x"), GOOD, END)
        assert [name for name, _ in read(archive)][-1] == "/good.png"


class TestTypes:
    KINDS = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)

    @pytest.mark.parametrize("kind", KINDS)
    def test_links_and_devices(self, tmp_path, kind):
        info = tarfile.TarInfo("bad.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive = write_tar(tmp_path / "a.tar", info, ("good.png", b"good"))
        assert read(archive) == [("/bad.png", "SourceUnreadableError"), ("/good.png", b"good")]

    @pytest.mark.parametrize("kind", [b"Z", b"M", b"V", b"D"])
    def test_unknown_types(self, tmp_path, kind):
        archive = write(tmp_path / "a.tar", tar_member("bad.png", b"bad", kind), GOOD, END)
        assert read(archive) == [("/bad.png", "SourceUnreadableError"), ("/good.png", b"good")]

    def test_a_symbolic_link_in_a_zip(self, tmp_path):
        info = zipfile.ZipInfo("bad.png")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive = write_zip(tmp_path / "a.zip", (info, b"/etc/passwd"), ("good.png", b"good"))
        assert read(archive) == [("/bad.png", "SourceUnreadableError"), ("/good.png", b"good")]
        assert "symbolic link" in message(archive)

    @pytest.mark.parametrize(
        "header",
        [
            pax_header(("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", "bad.png")),
            pax_header(("GNU.sparse.name", "bad.png"), ("path", "GNUSparseFile.0/bad.png")),
        ],
    )
    def test_sparse_members_of_pax(self, tmp_path, header):
        archive = write(tmp_path / "a.tar", header, tar_member("GNUSparseFile.0/bad.png", b"0\n"), GOOD, END)
        assert read(archive) == [("/bad.png", "SourceUnreadableError"), ("/good.png", b"good")]

    def test_sparse_members_of_gnu_with_a_long_map(self, tmp_path):
        block = bytearray(tar_member("bad.png", b"x" * 600, tarfile.GNUTYPE_SPARSE)[:512])
        block[482] = 1
        more, last = bytearray(512), bytearray(512)
        more[504] = 1
        data = with_checksum(block) + bytes(more) + bytes(last) + b"x" * 600 + bytes(424)
        assert read(write(tmp_path / "a.tar", data, GOOD, END)) == [
            ("/bad.png", "SourceUnreadableError"),
            ("/good.png", b"good"),
        ]


class TestHeaders:
    def test_sizes(self, tmp_path):
        for size in (-1, -512, -(1 << 62), 1 << 40, 1 << 80):
            bad = tar_member("bad.png", b"", size=size)
            found = read(write(tmp_path / "a.tar", GOOD, bad, GOOD, END))
            assert found == [("/good.png", b"good"), ("", "SourceUnreadableError")], size

    def test_a_size_in_an_extended_header(self, tmp_path):
        archive = write(tmp_path / "a.tar", pax_header(("size", "3")), tar_member("a.png", b"", size=0), b"abc")
        assert read(write(archive, archive.read_bytes(), bytes(509), GOOD, END)) == [
            ("/a.png", b"abc"),
            ("/good.png", b"good"),
        ]
        for size in ("-512", "1e9", "9" * 30, ""):
            bad = pax_header(("size", size)) + tar_member("a.png", b"abc")
            assert read(write(archive, GOOD, bad, END)) == [("/good.png", b"good"), ("", "SourceUnreadableError")]

    @pytest.mark.parametrize(
        "kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK]
    )
    def test_long_extended_headers_are_not_read(self, tmp_path, kind):
        archive = tmp_path / "a.tar"
        with open(archive, "wb") as file:
            file.write(GOOD + tar_member("x", b"", kind, size=1 << 33))
            file.seek(1 << 33, os.SEEK_CUR)  # a hole in the file
            file.write(tar_member("next.png", b"next") + GOOD + END)
        tracemalloc.start()
        try:
            found = read(archive)
            assert tracemalloc.get_traced_memory()[1] < 4e6
        finally:
            tracemalloc.stop()
        is_about_next = kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME)
        assert found == [
            ("/good.png", b"good"),
            ("/next.png", "SourceUnreadableError" if is_about_next else b"next"),
            ("/good.png", b"good"),
        ]

    def test_chains_of_extended_headers(self, tmp_path):
        for header in (tar_member("x", b"long.png", tarfile.GNUTYPE_LONGNAME), pax_header(("comment", "x" * 5000))):
            assert read(write(tmp_path / "a.tar", header * 20_000, GOOD, END))[0][1] == b"good"

    @pytest.mark.parametrize(
        "data",
        [b"99 path=x\n", b"0 path=x\n", b"8 path=x", b"path=x\n", b"5 a=b", b"9" * 300, b"10 path=x" * 40, b"1 "],
    )
    def test_damaged_extended_headers(self, tmp_path, data):
        archive = write(tmp_path / "a.tar", GOOD, tar_member("x", data, tarfile.XHDTYPE), GOOD, END)
        assert read(archive) == [("/good.png", b"good"), ("", "SourceUnreadableError")]

    def test_patterns_that_take_long(self, tmp_path):
        started = time.monotonic()
        for data in (b"1" * (1 << 20), b"10 " + b"a" * (1 << 20), b"6 a=b\n" * 150_000, b"4 =\n" * 200_000):
            read(write(tmp_path / "a.tar", tar_member("x", data[: 1 << 20], tarfile.XHDTYPE), GOOD, END))
        assert time.monotonic() - started < 10

    def test_a_damaged_header(self, tmp_path):
        archive = write(tmp_path / "a.tar", GOOD, b"x" * 512, GOOD, END)
        assert read(archive) == [("/good.png", b"good"), ("", "SourceUnreadableError")]
        assert "byte 1,024" in message(archive, 1)

    @pytest.mark.parametrize("data", [b"", b"x", b"x" * 5000, b"\x89PNG" + bytes(600), b"PK\3\4", b"\x1f\x8b", b"BZh9"])
    @pytest.mark.parametrize("name", ["a.tar", "a.zip", "a.tgz"])
    def test_other_files(self, tmp_path, data, name):
        assert read(write(tmp_path / name, data)) == [("", "SourceUnreadableError")]

    def test_git_lfs_pointer(self, tmp_path):
        for name in ("a.tar", "a.zip"):
            pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
            assert "git lfs pull" in message(write(tmp_path / name, pointer))

    def test_zstandard(self, tmp_path):
        assert "Zstandard" in message(write(tmp_path / "a.tar", b"\x28\xb5\x2f\xfd" + bytes(100)))


class TestTruncation:
    def test_tar_at_every_length(self, tmp_path):
        data = GOOD + tar_member("b.png", b"b" * 1000) + pax_header(("path", "c.png")) + tar_member("x", b"c") + END
        complete = read(write(tmp_path / "a.tar", data))
        for length in range(1, len(data) - len(END), 101):
            found = read(write(tmp_path / "a.tar", data[:length]))
            assert found[-1] == ("", "SourceUnreadableError") or length % 512 == 0
            kept = found[:-1] if found[-1][0] == "" else found
            assert kept == complete[: len(kept)]

    @pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
    def test_compressed_at_every_length(self, tmp_path, compress):
        members = [tar_member(f"{number}.png", os.urandom(3000)) for number in range(10)]
        data = compress(b"".join(members) + END)
        complete = read(write(tmp_path / "a.tgz", data))
        assert len(complete) == 10
        for length in range(2, len(data) - 1, 997):
            found = read(write(tmp_path / "a.tgz", data[:length]))
            assert found[-1] == ("", "SourceUnreadableError")
            assert found[:-1] == complete[: len(found) - 1]
        assert len(found) > 5 or compress is bz2.compress

    @pytest.mark.parametrize("length", [600, 1000, 2000])
    def test_before_it_was_compressed(self, tmp_path, length):
        data = GOOD + tar_member("notes.txt", bytes(length))
        for end in (512, 1):
            archive = write(tmp_path / "a.tgz", gzip.compress(data[:-end]))
            assert read(archive) == [("/good.png", b"good"), ("", "SourceUnreadableError")]

    def test_a_checksum_at_the_end(self, tmp_path):
        data = bytearray(gzip.compress(GOOD + END))
        data[-6] ^= 1
        assert read(write(tmp_path / "a.tgz", bytes(data))) == [("/good.png", b"good"), ("", "SourceUnreadableError")]

    def test_zip(self, tmp_path):
        archive = write_zip(tmp_path / "a.zip", ("good.png", b"good"))
        data = archive.read_bytes()
        for length in range(len(data)):
            assert read(write(archive, data[:length])) == [("", "SourceUnreadableError")]


class TestZip:
    @pytest.fixture
    def archive(self, tmp_path):
        return write_zip(tmp_path / "a.zip", ("bad.png", b"bad" * 100), ("good.png", b"good"))

    def change(self, archive, offset, format_, *values):
        """Change fields of the first entry in the directory."""
        data = bytearray(archive.read_bytes())
        struct.pack_into(format_, data, data.index(b"PK\1\2") + offset, *values)
        return write(archive, bytes(data))

    def test_encryption(self, archive):
        assert read(self.change(archive, 8, "<H", 1)) == [("/bad.png", "SourceUnreadableError"), ("/good.png", b"good")]

    @pytest.mark.parametrize("method", [1, 9, 14, 93, 99, 65535])
    def test_unsupported_compression(self, archive, method):
        found = read(self.change(archive, 10, "<H", method))
        assert found == [("/bad.png", "UnreadableImageError"), ("/good.png", b"good")]

    @pytest.mark.parametrize(
        ("offset", "format_", "values"),
        [
            (16, "<L", [1]),  # checksum
            (20, "<L", [5]),  # compressed size
            (24, "<L", [299]),  # size
            (24, "<L", [301]),
            (24, "<L", [1 << 31]),
            (20, "<LL", [0, 0]),
            (20, "<LL", [(1 << 32) - 1, (1 << 32) - 1]),
            (42, "<L", [1]),  # offset
            (42, "<L", [(1 << 32) - 1]),
            (10, "<H", [0]),  # stored
            (10, "<H", [12]),  # bzip2
        ],
    )
    def test_wrong_directory(self, archive, offset, format_, values):
        found = read(self.change(archive, offset, format_, *values))
        assert found == [("/bad.png", "UnreadableImageError"), ("/good.png", b"good")] or found == [
            ("/bad.png", "UnreadableImageError"),
            ("/good.png", "UnreadableImageError"),  # they overlap
        ]

    def test_a_directory_that_ends_early(self, archive):
        found = read(self.change(archive, 28, "<H", 60_000))  # length of the name
        assert found == [("", "SourceUnreadableError")]
        data = archive.read_bytes()
        second = data.index(b"PK\1\2", data.index(b"PK\1\2") + 1)
        archive = write_zip(archive, ("bad.png", b"bad" * 100), ("good.png", b"good"))
        data = archive.read_bytes()
        second = data.rindex(b"PK\1\2")
        found = read(write(archive, data[:second] + b"xxxx" + data[second + 4 :]))
        assert found == [("/bad.png", b"bad" * 100), ("", "SourceUnreadableError")]

    def test_members_that_overlap(self, tmp_path):
        """All entries of the directory refer to the same bytes, which expand to much more (Fifield 2019)."""
        archive = write_zip(tmp_path / "a.zip", ("0.png", bytes(60 << 20)))
        data = archive.read_bytes()
        start, end = data.index(b"PK\1\2"), data.index(b"PK\5\6")
        entries = 2000
        tail = bytearray(data[end:])
        struct.pack_into("<2H2L", tail, 8, entries, entries, entries * (end - start), start)
        found = list(expand([str(write(archive, data[:start] + data[start:end] * entries + tail))]))
        assert len(found) == entries and type(found[-1].error) is UnreadableImageError
        assert 1 <= sum(source.error is None for source in found) < 10

    def test_a_bomb_of_bzip2(self, tmp_path):
        archive = write_zip(tmp_path / "a.zip", ("bad.png", bytes(60 << 20)), method=zipfile.ZIP_BZIP2)
        assert archive.stat().st_size < 1000
        assert read(archive) == [("/bad.png", "UnreadableImageError")]

    def test_a_bomb_that_states_a_small_size(self, tmp_path):
        archive = write_zip(tmp_path / "a.zip", ("bad.png", bytes(200 << 20)))
        self.change(archive, 24, "<L", 1000)
        tracemalloc.start()
        try:
            assert read(archive) == [("/bad.png", "UnreadableImageError")]
            assert tracemalloc.get_traced_memory()[1] < 16e6
        finally:
            tracemalloc.stop()


class TestBombs:
    @pytest.mark.parametrize("format_", ["tar.gz", "tar.bz2", "tar.xz", "tar", "zip"])
    def test_members_above_the_limit(self, tmp_path, format_):
        archive = tmp_path / f"a.{format_}"
        members = ("bad.png", bytes(65 << 20)), ("good.png", b"good")
        (write_zip if format_ == "zip" else write_tar)(archive, *members)
        tracemalloc.start()
        try:
            assert read(archive) == [("/bad.png", "UnreadableImageError"), ("/good.png", b"good")]
            assert tracemalloc.get_traced_memory()[1] < 24e6
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize("name", ["bad.txt", "bad.png"])
    def test_archives_that_expand_too_far(self, tmp_path, monkeypatch, name):
        monkeypatch.setattr(compression, "UNLIMITED_BYTES", 1 << 20)
        data = bz2.compress(GOOD + tar_member(name, bytes(40 << 20)) + GOOD + END)
        found = read(write(tmp_path / "a.tar.bz2", data))
        assert found[0] == ("/good.png", b"good") and found[-1] == ("", "SourceUnreadableError")
        assert "times its size" in message(tmp_path / "a.tar.bz2", -1)

    def test_xz_that_requests_much_memory(self, tmp_path, monkeypatch):
        monkeypatch.setattr(compression, "MAX_XZ_MEMORY", 1 << 20)
        archive = write(tmp_path / "a.tar.xz", lzma.compress(GOOD + END, preset=6))
        assert read(archive) == [("", "SourceUnreadableError")]
        assert "memory" in message(archive)


@pytest.mark.parametrize("format_", ["tar", "tar.gz", "zip"])
def test_memory_does_not_grow_with_the_number_of_members(tmp_path, format_):
    def peak(count: int) -> int:
        members = ((f"{number:07}.png", b"x") for number in range(count))
        archive = tmp_path / f"a.{format_}"
        (write_zip if format_ == "zip" else write_tar)(archive, *members)
        assert sum(1 for _ in expand([str(archive)])) == count  # imports
        tracemalloc.start()
        try:
            assert sum(1 for _ in expand([str(archive)])) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(20_000) < peak(200) + 1_000_000


def test_random_archives(tmp_path):
    """``fuzz_archives`` tries many more."""
    found = sum((fuzz_archives.check(seed, tmp_path) for seed in range(400)), Counter())
    assert found["read"] > 100 and found["SourceUnreadable"] > 100


def test_the_end_of_a_tar_may_be_missing(tmp_path):
    assert read(write(tmp_path / "a.tar", GOOD)) == [("/good.png", b"good")]
    assert tar.BLOCK_SIZE == 512
