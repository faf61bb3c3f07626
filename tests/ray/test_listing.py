"""The sources of a run: encoding, parts, and listings that are continued."""

from __future__ import annotations

import os
from itertools import chain

import pytest

from densenet_cli.errors import SourceNotFoundError, UsageError
from densenet_cli.images.sources import Source, expand, from_object
from densenet_cli.ray.folder import PartFolder
from densenet_cli.ray.listing import SourceArguments, decode_source, encode_source, list_parts
from tests.support.archives import write_tar
from tests.support.images import encode, photograph


@pytest.fixture
def folder(tmp_path):
    return PartFolder(str(tmp_path / "out"), "jsonl")


def paths(*names):
    return [Source(name, name, "path") for name in names]


def read_names(folder, arguments, parts):
    return [
        [source.name for line in folder.read_sources(part).decode().splitlines() for source in decode(line, arguments)]
        for part in range(parts)
    ]


def decode(line, arguments):
    return list(decode_source(line, arguments))


def arguments(*names, folder="/data"):
    return SourceArguments(names, None, False, (), folder)


@pytest.mark.parametrize(
    "source",
    [
        Source("a.jpg", "a.jpg", "path"),
        Source(os.fsdecode(b"caf\xe9\n.jpg"), os.fsdecode(b"caf\xe9\n.jpg"), "path"),
        Source("/x/a.tif[2]", "/x/a.tif", "path", page=2),
        Source("https://host/a.jpg?x=1", "https://host/a.jpg?x=1", "url"),
        Source("s3://bucket/a.tif[1]", "s3://bucket/a.tif", "remote", page=1),
        Source("none.jpg", None, "nothing", SourceNotFoundError("No such file or folder.")),
    ],
)
def test_sources_are_restored(source):
    line = encode_source(source)
    assert line.isascii() and "\n" not in line
    (decoded,) = decode(line, arguments())
    assert (decoded.name, decoded.kind, decoded.page) == (source.name, source.kind, source.page)
    assert type(decoded.error) is type(source.error) and str(decoded.error) == str(source.error)
    if source.kind == "path":
        assert decoded.origin == os.path.join("/data", source.origin)
    else:
        assert decoded.origin == source.origin


@pytest.mark.parametrize("url", ["http://me:secret@host/a.jpg", "https://me:secret@host/a.tif[3]"])
def test_credentials_are_never_stored(url):
    with pytest.raises(UsageError) as error:
        encode_source(from_object(url))
    assert "secret" not in str(error.value)


def test_standard_input_is_refused():
    (source,) = expand(["-"])
    with pytest.raises(UsageError):
        encode_source(source)


def test_parts_have_the_sources_in_order(folder):
    names = [f"{number}.jpg" for number in range(7)]
    assert list(list_parts(paths(*names), folder, 3)) == [0, 1, 2]
    assert read_names(folder, arguments(), 3) == [names[:3], names[3:6], names[6:]]
    assert folder.read_totals() == (3, 7)


def test_a_list_is_stored_before_its_part_is_yielded(folder):
    consumed = []

    def sources():
        for source in paths("a", "b", "c", "d"):
            consumed.append(source.name)
            yield source

    parts = list_parts(sources(), folder, 2)
    assert next(parts) == 0
    assert folder.read_sources(0) is not None
    assert consumed == ["a", "b", "c"]
    assert folder.read_totals() is None


def test_a_complete_listing_is_not_repeated(folder):
    list(list_parts(paths("a", "b", "c"), folder, 2))
    assert list(list_parts(paths(), folder, 2)) == [0, 1]


@pytest.mark.parametrize("data", [b"", b'{"parts"', b"[]", b"{}", b'{"parts": null, "sources": 3}'])
def test_totals_that_are_damaged_are_found_again(folder, data):
    list(list_parts(paths("a", "b", "c"), folder, 2))
    folder.put("_sources/complete.json", data)
    assert list(list_parts(paths("a", "b", "c"), folder, 2)) == [0, 1]
    assert folder.read_totals() == (2, 3)


@pytest.mark.parametrize("listed", [1, 2, 3])
def test_a_listing_is_continued(folder, listed):
    names = ["a", "b", "a", "b", "a", "c", "b", "d"]
    parts = list_parts(paths(*names), folder, 2)
    for _ in range(listed):
        next(parts)
    parts.close()
    # "0" and "aa" appeared before the place where the listing stopped: they are not part of the run.
    changed = ["0", names[0], "aa", *names[1:], "e"]
    assert list(list_parts(paths(*changed), folder, 2)) == list(range(5))
    assert list(chain.from_iterable(read_names(folder, arguments(), 5))) == [*names, "e"]


def test_each_stored_list_is_read_once(folder, monkeypatch):
    parts = list_parts(paths(*map(str, range(20))), folder, 2)
    for _ in range(8):
        next(parts)
    parts.close()
    read = []
    read_sources = folder.read_sources
    monkeypatch.setattr(folder, "read_sources", lambda part: read.append(part) or read_sources(part))
    assert list(list_parts(paths(*map(str, range(20))), folder, 2)) == list(range(10))
    assert read == [7, *range(8)]
    assert folder.read_totals() == (10, 20)


def test_a_listing_whose_last_source_is_gone_is_refused(folder):
    parts = list_parts(paths("a", "b", "c"), folder, 2)
    next(parts)
    parts.close()
    with pytest.raises(UsageError, match="b is missing"):
        list(list_parts(paths("a", "c"), folder, 2))


def test_an_archive_is_a_part(tmp_path, folder):
    import tarfile

    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(encode(photograph("coffee", (8, 8)), "PNG"))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("1.png", "2.png"):
            tar.add(tmp_path / name, f"x/{name}")
    names = ("1.png", "*.tar", "2.png", "a.tar/x", "a.tar/x/2.png", "a.tar/x/3.png", "1.png")
    given = arguments(*names, folder=str(tmp_path))
    previous = os.getcwd()
    os.chdir(tmp_path)
    try:
        expected = [source.name for source in expand(names)]
        assert list(list_parts(given.expand(), folder, 10)) == [0, 1, 2, 3, 4]
    finally:
        os.chdir(previous)
    listed = read_names(folder, given, 5)
    assert listed[1] == listed[3] == ["a.tar/x/1.png", "a.tar/x/2.png"]
    assert list(chain.from_iterable(listed)) == expected


def test_names_in_archives_in_object_storage(s3_server, s3_proxy, tmp_path, folder):
    """Archives are not read to list their members, and a folder that is named like an archive is one."""
    images = [(f"x/{name}.png", b"x") for name in ("1", "2", "2")]
    url = s3_server.bucket("bucket", {"a.tar": write_tar(tmp_path / "a.tar", *images).read_bytes()})
    for name in ("1", "2", "3"):
        s3_server.put("bucket", f"folder.zip/{name}.png", b"x")
    names = (
        *(f"{url}/a.tar", f"{url}/a.tar/x", f"{url}/a.tar/x/2.png", f"{url}/a.tar/x/1.png", f"{url}/a.tar/none.png"),
        *(f"{url}/folder.zip", f"{url}/folder.zip/2.png"),
    )
    expected = [source.name for source in expand(names)]
    s3_proxy.requests.clear()
    given = arguments(*names, folder=str(tmp_path))
    assert list(list_parts(given.expand(), folder, 10)) == [0, 1, 2]
    assert s3_proxy.count("GET", "a.tar") == 0
    listed = read_names(folder, given, 3)
    assert list(map(len, listed)) == [3, 3, 7]
    assert list(chain.from_iterable(listed)) == expected
