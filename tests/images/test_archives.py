"""Archives as sources: which members are images, their names, and their bytes."""

from __future__ import annotations

import logging
import os
import tarfile
import threading
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from densenet_cli.errors import (
    EmptySourceError,
    SourceNotFoundError,
    SourceUnreadableError,
    UnreadableImageError,
    UsageError,
)
from densenet_cli.images import sources
from densenet_cli.images.archives import contents as contents_module
from densenet_cli.images.archives import expand_archive, index
from densenet_cli.images.archives.archive import OpenArchive
from densenet_cli.images.archives.contents import LocalFile, from_json, to_json
from densenet_cli.images.archives.members import normalize
from densenet_cli.images.loading import MemberBuffer
from densenet_cli.images.pages import expand_pages
from densenet_cli.images.reading import read_source
from densenet_cli.images.sources import Source, expand, expand_objects, from_object
from densenet_cli.images.walking import Entry, walk
from tests.support.archives import FORMATS, pack, write_tar, write_zip

SEQUENTIAL = [name for name in FORMATS if name not in ("tar", "zip")]


def names(*arguments: object) -> list[str]:
    return [source.name for source in expand(map(str, arguments))]


def write(archive, *members):
    return (write_zip if archive.suffix == ".zip" else write_tar)(archive, *members)


@pytest.fixture
def folder(tmp_path):
    """A folder of images of several sizes."""
    for number in range(12):
        path = tmp_path / "photos" / f"{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((20 + 30 * number, 40), 50).save(path)
    return tmp_path / "photos"


def files_in(folder) -> dict[str, bytes]:
    """Return the images in a folder by their names below it, in the order of a search."""
    entries = [entry for entry in walk(str(folder)) if isinstance(entry, Entry)]
    return {os.path.relpath(entry.path, folder): Path(entry.path).read_bytes() for entry in entries}


class TestMembers:
    @pytest.mark.parametrize("format_", FORMATS)
    def test_are_the_files_of_the_folder(self, folder, tmp_path, format_):
        archive = pack(folder, tmp_path / f"photos.{format_}")
        found = {source.name: read_source(source) for source in expand([str(archive)])}
        assert found == {f"{archive}/{name}": data for name, data in files_in(folder).items()}
        assert list(found) == [f"{archive}/{name}" for name in files_in(folder)]

    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
    def test_of_a_zip_with_this_compression(self, folder, tmp_path, method):
        archive = pack(folder, tmp_path / "photos.zip", method)
        assert [read_source(source) for source in expand([str(archive)])] == list(files_in(folder).values())

    @pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_of_every_tar_format_with_long_names(self, tmp_path, format_):
        expected = ["short.png", f"{'f' * 90}/{'n' * 90}.png", f"{'d' * 60}/{'e' * 60}/x.png"]
        if format_ != tarfile.USTAR_FORMAT:
            expected += [f"{'x' * 200}.png", "/".join(["y" * 99] * 12) + ".png", "naïve 日本.png"]
        archive = write_tar(tmp_path / "a.tar", *((name, name.encode()) for name in expected), format_=format_)
        found = {source.name.removeprefix(f"{archive}/"): read_source(source) for source in expand([str(archive)])}
        assert found == {name: name.encode() for name in expected}

    @pytest.mark.parametrize("format_", ["tar", "zip", "tar.gz"])
    def test_have_the_order_of_the_archive_and_no_redundant_dots(self, tmp_path, format_):
        archive = write(tmp_path / f"a.{format_}", *((name, b"") for name in ("./b.png", "c//a.PNG", "./c/./b.jpg")))
        assert names(archive) == [f"{archive}/b.png", f"{archive}/c/a.PNG", f"{archive}/c/b.jpg"]

    @pytest.mark.parametrize("format_", ["tar", "zip", "tar.gz"])
    def test_are_selected_as_in_a_folder(self, tmp_path, format_, caplog):
        ignored = [".hidden.png", ".git/a.png", "__MACOSX/a.png", "x/__MACOSX/._a.png", "x/__MACOSX/b.png"]
        skipped = ["a.cls", "a.json", "a.txt", "README", "inner.tar", "inner.zip"]
        archive = write(tmp_path / f"a.{format_}", *((name, b"") for name in ["a.png", *ignored, *skipped]))
        with caplog.at_level(logging.INFO):
            assert names(archive) == [f"{archive}/a.png"]
        assert caplog.messages == ["Skipped 6 files without an image extension and 2 system folders."]

    def test_with_other_extensions_on_request(self, tmp_path):
        archive = write_tar(tmp_path / "a.tar", ("a.img", b""), ("b.IMG", b""), ("c", b""), ("d.tar", b""))
        found = expand([str(archive)], suffixes=[".img", "", ".tar"])
        assert [source.name for source in found] == [f"{archive}/{name}" for name in ("a.img", "b.IMG", "c")]

    @pytest.mark.parametrize("format_", ["tar", "zip", "tar.gz"])
    @pytest.mark.parametrize("members", [[], [("a.txt", b"")]])
    def test_none(self, tmp_path, format_, members):
        archive = write(tmp_path / f"a.{format_}", *members)
        (source,) = expand([str(archive)])
        assert source.name == str(archive)
        assert type(source.error) is EmptySourceError and ("only 1 other file" in str(source.error)) == bool(members)

    def test_the_format_is_that_of_the_contents(self, folder, tmp_path):
        for real, stated in (("tar", "tar.gz"), ("tgz", "tar"), ("zip", "tar"), ("tar", "zip"), ("tar.xz", "tgz")):
            archive = pack(folder, tmp_path / f"real.{real}").rename(tmp_path / f"stated.{stated}")
            assert [read_source(source) for source in expand([str(archive)])] == list(files_in(folder).values())

    def test_behind_something_else_in_a_zip(self, folder, tmp_path):
        archive = pack(folder, tmp_path / "photos.zip")
        archive.write_bytes(b"#!/bin/sh\nexit\n" * 1000 + archive.read_bytes() + b"")
        assert [read_source(source) for source in expand([str(archive)])] == list(files_in(folder).values())

    def test_of_a_zip_with_a_comment_and_64_bit_fields(self, tmp_path):
        archive = tmp_path / "a.zip"
        with zipfile.ZipFile(archive, "w") as file:
            file.comment = b"c" * 65_535
            with file.open("a.png", "w", force_zip64=True) as member:
                member.write(b"contents")
        (source,) = expand([str(archive)])
        assert read_source(source) == b"contents"

    def test_of_a_zip_with_more_than_65535_members(self, tmp_path):
        archive = write_zip(tmp_path / "a.zip", *((f"{number}.png", b"%d" % number) for number in range(66_000)))
        found = list(expand([str(archive)]))
        assert len(found) == 66_000
        assert read_source(found[65_999]) == b"65999"

    def test_backslashes_in_a_zip_from_windows(self, tmp_path):
        names = ["cats\\1.png", "__MACOSX\\cats\\1.png", "..\\up.png", "cats\\empty\\", "a/b\\c.png"]
        for system, expected in ((0, ["cats/1.png", "../up.png", "a/b\\c.png"]), (3, [*names[:2], names[4]])):
            archive = tmp_path / f"{system}.zip"
            with zipfile.ZipFile(archive, "w") as file:
                for name in names:
                    info = zipfile.ZipInfo()
                    info.filename, info.create_system = name, system
                    file.writestr(info, b"x")
            assert [source.name.removeprefix(f"{archive}/") for source in expand([str(archive)])] == expected
        (source,) = expand([f"{tmp_path}/0.zip/cats"])
        assert read_source(source) == b"x"

    def test_names_that_are_not_utf_8(self, tmp_path):
        archive = write_tar(tmp_path / "a.tar", (os.fsdecode(b"caf\xe9.png"), b""), format_=tarfile.GNU_FORMAT)
        assert [os.fsencode(name) for name in names(archive)] == [os.fsencode(archive) + b"/caf\xe9.png"]
        archive = write_zip(tmp_path / "a.zip", ("caf\xe9.png", b""), ("xxxx.png", b""))
        data = archive.read_bytes()
        for new, name in ((b"caf\x82", "café"), ("né".encode() + b"x", "néx")):  # no flag: code page 437, or UTF-8
            archive.write_bytes(data.replace(b"xxxx", new))
            assert names(archive)[1] == f"{archive}/{name}.png"

    def test_of_concatenated_compressed_files(self, folder, tmp_path):
        for format_ in SEQUENTIAL:
            archive = pack(folder, tmp_path / f"photos.{format_}")
            plain = pack(folder, tmp_path / "photos.tar").read_bytes()
            module = {"tar.gz": "gzip", "tgz": "gzip", "tar.bz2": "bz2", "tar.xz": "lzma"}[format_]
            compress = __import__(module).compress
            archive.write_bytes(compress(plain[:3000]) + compress(plain[3000:]))
            assert [read_source(source) for source in expand([str(archive)])] == list(files_in(folder).values())


class TestArguments:
    def test_a_glob_opens_what_it_matches(self, folder, tmp_path):
        shards = tmp_path / "shards"
        shards.mkdir()
        for number in range(3):
            write_tar(shards / f"{number}.tar", (f"{number}.png", b""))
        expected = [f"{shards}/{number}.tar/{number}.png" for number in range(3)]
        assert names(f"{shards}/*.tar") == expected
        assert names(f"{tmp_path}/**/*.tar") == expected
        assert names(f"{shards}/{{0..2}}.tar") == expected
        assert names(f"{shards}/{{2,0}}.tar") == [expected[2], expected[0]]
        assert names(f"{tmp_path}/{{none,shards}}/*.tar")[1:] == expected

    def test_an_archive_in_a_folder_is_not_opened(self, folder, tmp_path):
        pack(folder, folder / "0" / "inner.tar")
        assert names(folder) == [f"{folder}/{name}" for name in files_in(folder)]
        found = [source.name for source in expand([str(folder / "0")], suffixes=[".tar"])]
        assert f"{folder}/0/inner.tar/1/1.png" in found

    def test_braces_in_the_name_of_a_file(self, tmp_path):
        (tmp_path / "{a,b}.png").touch()
        write_tar(tmp_path / "a.tar", ("{a,b}.png", b""))
        assert names(tmp_path / "{a,b}.png", tmp_path / "a.tar/{a,b}.png") == [
            f"{tmp_path}/{{a,b}}.png",
            f"{tmp_path}/a.tar/{{a,b}}.png",
        ]

    def test_braces_in_urls(self):
        assert names("https://example.org/{a,b}.jpg") == ["https://example.org/a.jpg", "https://example.org/b.jpg"]

    def test_too_many_names(self, monkeypatch):
        monkeypatch.setattr(sources, "MAX_NAMES", 10)
        assert len(names("missing-{0..9}.png")) == 10
        (source,) = expand(["missing-{0..10}.png"])
        assert source.name == "missing-{0..10}.png"
        assert "more than 10" in str(source.error)
        assert names("https://example.org/{0..10}.png") == ["https://example.org/{0..10}.png"]

    @pytest.mark.parametrize("format_", FORMATS)
    def test_a_name_in_a_record_is_a_source(self, folder, tmp_path, format_):
        archive = pack(folder, tmp_path / f"photos.{format_}")
        found = names(archive)
        for order in (found, found[::-1]):
            for listed in (list(expand(order)), [from_object(name) for name in order]):
                assert [source.name for source in listed] == order
                assert [read_source(source) for source in listed] == [
                    files_in(folder)[name.removeprefix(f"{archive}/")] for name in order
                ]

    def test_a_member_needs_no_image_extension(self, tmp_path):
        archive = write_tar(tmp_path / "a.tar", ("x/data", b"1"), ("x/data.png", b"2"))
        (source,) = expand([f"{archive}/x/data"])
        assert read_source(source) == b"1"

    def test_a_folder_in_an_archive(self, folder, tmp_path):
        for format_ in ("tar", "zip", "tar.gz"):
            archive = pack(folder, tmp_path / f"photos.{format_}")
            expected = [f"{archive}/{name}" for name in files_in(folder) if name.startswith("1/")]
            for argument in (f"{archive}/1", f"{archive}/1/", f"{archive}//1/."):
                assert names(argument) == expected
            assert len(names(f"{archive}/")) == 12

    def test_a_page_of_a_member(self, tmp_path):
        archive = write_zip(tmp_path / "a.zip", ("a.tif", b"1"), ("b.tif[1]", b"2"), ("b.tif", b"3"))
        pages = [f"{archive}/a.tif[2]", f"{archive}/b.tif[1]"]
        assert [(source.name, source.page, read_source(source)) for source in expand(pages)] == [
            (pages[0], 2, b"1"),
            (pages[1], None, b"2"),
        ]

    def test_what_is_not_there(self, folder, tmp_path):
        archive = pack(folder, tmp_path / "photos.tar")
        for name in (f"{archive}/none.png", f"{archive}/none/", f"{archive}/0/0.png/x", f"{archive}/none.tif[2]"):
            (source,) = expand([name])
            assert type(source.error) is SourceNotFoundError, name
            assert type(from_object(name).error) is SourceNotFoundError
        (source,) = expand([f"{tmp_path}/none.tar/a.png"])
        assert type(source.error) is SourceNotFoundError

    def test_python_objects(self, folder, tmp_path):
        archive = pack(folder, tmp_path / "photos.tar")
        assert [source.name for source in expand_objects([archive])] == names(archive)
        assert from_object(archive / "0" / "0.png").kind == "member"

    def test_a_folder_with_the_name_of_an_archive(self, tmp_path):
        (tmp_path / "a.tar").mkdir()
        (tmp_path / "a.tar" / "x.png").touch()
        assert names(tmp_path / "a.tar") == names(tmp_path / "a.tar/x.png") == [f"{tmp_path}/a.tar/x.png"]

    def test_a_fifo_is_not_opened(self, tmp_path):
        os.mkfifo(tmp_path / "a.tar")
        (source,) = expand([str(tmp_path / "a.tar")])
        assert type(source.error) is SourceUnreadableError and "FIFO" in str(source.error)

    def test_duplicate_names_are_two_sources(self, tmp_path):
        for archive in (tmp_path / "a.tar", tmp_path / "a.tar.gz"):
            write_tar(archive, ("a.png", b"1"), ("a.png", b"2"))
            assert [read_source(source) for source in expand([str(archive)])] == [b"1", b"2"]
            assert read_source(from_object(archive / "a.png")) == b"1"


class TestIndex:
    def test_a_list_in_the_order_of_the_archive_walks_it_once(self, tmp_path, monkeypatch):
        archive = write_tar(tmp_path / "a.tar", *((f"{number}.png", b"%d" % number) for number in range(100)))
        walks = []
        open_archive = index.OpenArchive
        monkeypatch.setattr(
            index, "OpenArchive", lambda *args, **options: walks.append(args) or open_archive(*args, **options)
        )
        for order in (range(100), range(99, -1, -1)):
            found = [from_object(archive / f"{number}.png") for number in order]
            assert [read_source(source) for source in found] == [b"%d" % number for number in order]
        assert len(walks) == 1

    def test_memory_is_limited(self, tmp_path, monkeypatch):
        monkeypatch.setattr(index, "MAX_MEMBERS", 10)
        archives = [
            write_tar(tmp_path / f"{name}.tar", *((f"{number}.png", b"%d" % number) for number in range(35)))
            for name in "abc"
        ]
        for number in (34, 3, 20, 1):
            for archive in archives:
                assert read_source(from_object(archive / f"{number}.png")) == b"%d" % number
                assert sum(entry.count for entry in index._indexes.values()) <= 20
        assert type(from_object(archives[0] / "35.png").error) is SourceNotFoundError

    def test_a_changed_archive_is_read_again(self, tmp_path):
        archive = write_tar(tmp_path / "a.tar", ("a.png", b"1"))
        assert read_source(from_object(archive / "a.png")) == b"1"
        write_tar(archive, ("b.png", b"0"), ("a.png", b"234"))
        assert read_source(from_object(archive / "a.png")) == b"234"


class TestContents:
    def test_are_read_by_any_thread(self, folder, tmp_path):
        for format_ in FORMATS:
            found = list(expand([str(pack(folder, tmp_path / f"photos.{format_}"))])) * 5
            with ThreadPoolExecutor(8) as pool:
                assert list(pool.map(read_source, found)) == list(files_in(folder).values()) * 5

    @pytest.mark.parametrize("format_", SEQUENTIAL)
    def test_of_a_compressed_tar_hold_no_bytes_that_are_not_used(self, folder, tmp_path, format_):
        found = list(expand([str(pack(folder, tmp_path / f"photos.{format_}"))]))
        assert not any(source.origin._data for source in found)
        assert [read_source(source) for source in found] == list(files_in(folder).values())

    def test_that_are_read_again_decompress_the_archive_once(self, folder, tmp_path, monkeypatch):
        found = list(expand([str(pack(folder, tmp_path / "photos.tar.gz"))]))
        opened = []
        call = contents_module.LocalFile.__call__
        monkeypatch.setattr(contents_module.LocalFile, "__call__", lambda file: opened.append(file) or call(file))
        assert [read_source(source) for source in found] == list(files_in(folder).values())
        assert len(opened) == 1

    @pytest.mark.parametrize("format_", ["tar", "zip"])
    def test_of_an_archive_that_changes(self, folder, tmp_path, format_):
        archive = pack(folder, tmp_path / f"photos.{format_}")
        source = next(expand([str(archive)]))
        os.utime(archive, ns=(1, 1))
        with pytest.raises(SourceUnreadableError, match="changed"):
            read_source(source)
        archive.unlink()
        with pytest.raises(SourceNotFoundError):
            read_source(source)

    def test_as_json(self, folder, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for format_ in ("tar", "zip"):
            pack(folder, tmp_path / f"photos.{format_}")
            for source in expand([f"photos.{format_}"]):
                assert from_json(to_json(source.origin)) == source.origin
                assert from_json(to_json(source.origin, "/x")).open_stream.path == f"/x/photos.{format_}"
        pack(folder, tmp_path / "photos.tgz")
        assert to_json(next(expand(["photos.tgz"])).origin) is None

    def test_in_order_for_streams_that_cannot_be_opened_often(self, folder, tmp_path):
        for format_ in FORMATS:
            file = LocalFile(str(pack(folder, tmp_path / f"photos.{format_}")))
            opened = []

            def open_stream(file=file, opened=opened):
                opened.append(file)
                return file()

            entries = expand_archive("x.tar", open_stream, in_order=True)
            assert [entry.contents.read(1 << 30) for entry in entries] == list(files_in(folder).values())
            assert len(opened) == 1


class TestMemberBuffer:
    def test_the_walk_waits_until_bytes_are_used(self, folder, tmp_path):
        archive = pack(folder, tmp_path / "photos.tar.gz")
        sizes = [len(data) for data in files_in(folder).values()]
        buffer = MemberBuffer(expand([str(archive)]), max_bytes=sum(sizes[:4]))
        walked: list[Source] = []
        thread = threading.Thread(target=lambda: walked.extend(iter_into(buffer, walked)), daemon=True)
        thread.start()
        thread.join(0.5)
        assert thread.is_alive() and len(walked) == 4
        data = []
        while len(data) < 12:
            if len(walked) > len(data):
                data.append(read_source(walked[len(data)]))
        thread.join(5)
        assert not thread.is_alive()
        assert data == list(files_in(folder).values())
        assert read_source(walked[3]) == data[3]  # again, from the archive

    def test_closing_ends_the_wait(self, folder, tmp_path):
        buffer = MemberBuffer(expand([str(pack(folder, tmp_path / "photos.tar.gz"))]), max_bytes=1)
        walked: list[Source] = []
        thread = threading.Thread(target=lambda: iter_into(buffer, walked), daemon=True)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        buffer.close()
        thread.join(5)
        assert not thread.is_alive() and len(walked) == 1

    def test_an_archive_that_disappears(self, folder, tmp_path):
        archive = pack(folder, tmp_path / "photos.tar.gz")
        found = list(expand([str(archive)]))
        archive.unlink()
        assert [type(source.error) for source in MemberBuffer(found)] == [SourceNotFoundError] * 12


def iter_into(buffer, walked):
    for source in buffer:
        walked.append(source)
    return ()


class TestPages:
    @pytest.mark.parametrize("format_", FORMATS)
    def test_are_those_of_the_files(self, tmp_path, format_):
        folder = tmp_path / "scans"
        folder.mkdir()
        pages = [Image.new("L", (30, 30), shade) for shade in (0, 100, 200)]
        pages[0].save(folder / "a.tif", save_all=True, append_images=pages[1:])
        pages[0].save(folder / "b.png")
        archive = pack(folder, tmp_path / f"scans.{format_}")
        expected = [source.name.replace(str(folder), str(archive)) for source in expand_pages(expand([str(folder)]))]
        found = list(expand_pages(expand([str(archive)])))
        assert [source.name for source in found] == expected
        assert len(found) == 4 and found[3].kind == ("member" if format_ in ("tar", "zip") else "bytes")


def test_usage_errors_are_raised_at_once(tmp_path):
    with pytest.raises(UsageError):
        expand([str(tmp_path / "a.tar")], suffixes=["a.b"])


def test_members_longer_than_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("densenet_cli.images.archives.members.MAX_STREAM_BYTES", 1000)
    for format_ in FORMATS:
        archive = write(tmp_path / f"a.{format_}", ("a.png", b"x" * 1000), ("b.png", b"x" * 1001), ("c.png", b"x"))
        errors = [type(source.error) for source in expand([str(archive)])]
        assert errors == [type(None), UnreadableImageError, type(None)], format_


NAMES = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1, max_size=300)
MEMBERS = st.lists(st.tuples(NAMES, st.binary(max_size=2000)), max_size=6)


class TestAgainstLibraries:
    @given(members=MEMBERS, format_=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_tar(self, tmp_path, members, format_):
        if format_ == tarfile.USTAR_FORMAT:
            members = [(name[:50].encode("ascii", "replace").decode(), data) for name, data in members]
        path = write_tar(tmp_path / "a.tar", *members, format_=format_)
        with tarfile.open(path, encoding="utf-8", errors="surrogateescape") as file:
            expected = [(normalize(info.name), file.extractfile(info).read()) for info in file if info.isreg()]
        assert read_members(path) == expected

    @given(members=MEMBERS, method=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]))
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_zip(self, tmp_path, members, method):
        path = tmp_path / "a.zip"
        with warnings.catch_warnings(action="ignore"):  # about duplicate names
            write_zip(path, *members, method=method)
        with zipfile.ZipFile(path) as file:
            expected = [(normalize(info.filename), file.read(info)) for info in file.infolist() if not info.is_dir()]
        assert read_members(path) == expected


def read_members(path) -> list[tuple[str, bytes]]:
    """Return the paths and the bytes of all members."""
    with OpenArchive(path.name, LocalFile(str(path))) as archive:
        return [(member.path, member.contents.read(1 << 20)) for member in archive]
