"""Listing in the order of a search of local folders, page by page."""

from __future__ import annotations

import gc
from itertools import islice
from typing import Any, ClassVar

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from densenet_cli import storage
from densenet_cli.images import sources
from densenet_cli.images.reading import read_source
from densenet_cli.images.walking import Entry, SkippedFiles, walk
from densenet_cli.storage import listing
from densenet_cli.storage.errors import StorageError
from densenet_cli.storage.file_systems import FileSystem
from tests.support.s3 import names, synthetic_listing


class FakeS3:
    """The two methods of s3fs that listing uses, with small pages of keys in the order of S3."""

    req_kw: ClassVar[dict[str, Any]] = {}

    def __init__(self, keys: list[str], page_size: int) -> None:
        self.keys = sorted(set(keys))
        self.page_size = page_size
        self.requests = 0

    def split_path(self, path: str) -> tuple[str, str, None]:
        bucket, _, key = path.partition("/")
        return bucket, key, None

    def call_s3(self, method, Bucket, Prefix, MaxKeys, Delimiter="", StartAfter="", ContinuationToken=""):
        assert method == "list_objects_v2"
        self.requests += 1
        entries = {}
        for key in self.keys:
            if not key.startswith(Prefix) or key <= StartAfter:
                continue
            end = key.find(Delimiter, len(Prefix)) if Delimiter else -1
            name = key if end < 0 else key[: end + 1]
            if name > ContinuationToken:
                entries[name] = end >= 0
        count = min(MaxKeys, self.page_size)
        page = list(entries)[:count]
        return {
            "Contents": [{"Key": name} for name in page if not entries[name]],
            "CommonPrefixes": [{"Prefix": name} for name in page if entries[name]],
            "IsTruncated": len(entries) > count,
            **({"NextContinuationToken": page[-1]} if len(entries) > count else {}),
        }


def search_order(keys: list[str], skipped: str) -> list[str]:
    """Return the keys in the order of a search of local folders, without those in folders called ``skipped``."""
    wanted = [key.split("/") for key in set(keys) if skipped not in key.split("/")[:-1]]
    return ["/".join(parts) for parts in sorted(wanted)]


NAMES = st.text("ab-./!~\U0010ffff", min_size=1, max_size=3).filter(lambda name: "/" not in name) | st.just("skip")
KEYS = st.lists(st.lists(NAMES, min_size=1, max_size=3).map("/".join), max_size=15)


@given(KEYS, st.integers(1, 5))
def test_tree_in_search_order(keys, page_size):
    entered = []

    def enter(path: str) -> bool:
        entered.append(path)
        return path.rpartition("/")[2] != "skip"

    fs = FakeS3(["root/" + key for key in keys] + ["rooz", "root-1/x", "root/"], page_size)
    listed = list(listing._list_tree(FileSystem(fs, "bucket/root", "s3"), enter))
    assert listed == search_order(keys, "skip")
    assert len(entered) == len(set(entered))


@given(KEYS, st.integers(1, 5), st.sampled_from(["", "a", "a-"]))
def test_folder_in_search_order(keys, page_size, prefix):
    listed = list(listing._list_folder(FileSystem(FakeS3(keys, page_size), "bucket", "s3"), prefix))
    expected = {(key.partition("/")[0], "/" in key) for key in keys if key.startswith(prefix)}
    if prefix:
        expected = {(name, is_folder) for name, is_folder in expected if name.startswith(prefix)}
    # A file and a folder of the same name, which no local folder contains, are in this order.
    assert sorted(listed) == sorted(expected)
    assert [name for name, _ in listed] == sorted(name for name, _ in listed)


def test_storage_that_ignores_the_start():
    """Some servers do not know the parameter. Listing must not go on forever."""
    fs = FakeS3([str(number) for number in range(10)], 5)
    call = fs.call_s3
    fs.call_s3 = lambda method, **parameters: call(method, **{**parameters, "StartAfter": ""})
    with pytest.raises(StorageError):
        list(listing._list_tree(FileSystem(fs, "bucket", "s3"), lambda _: True))


def test_requests_per_page():
    """Names such as photo-00001.jpg do not cause a request each, although a folder photo/ could precede them."""
    keys = [f"set-{number // 1000}/photo-{number:06}.jpg" for number in range(10_000)]
    fs = FakeS3(keys, 1000)
    assert list(listing._list_tree(FileSystem(fs, "bucket", "s3"), lambda _: True)) == keys
    assert fs.requests < 50


def test_skipped_folder_is_not_listed():
    keys = ["a.jpg", *(f"skip/{number:05}" for number in range(50_000)), "z.jpg"]
    fs = FakeS3(keys, 1000)
    assert list(listing._list_tree(FileSystem(fs, "bucket", "s3"), lambda path: path != "skip")) == ["a.jpg", "z.jpg"]
    assert fs.requests < 5


LAYOUT = (
    *("a.jpg", "a/1.jpg", "a/notes.txt", "a-1/2.JPG", "a b/3.png", "b/.hidden/4.jpg", "b/.hidden.jpg", "b/c/d/5.webp"),
    *("b/__MACOSX/6.jpg", "@eaDir/7.jpg", "ü/8.jpg", "x.txt", "b/c!/9.gif", "b/c.jpg", "empty/notes.md"),
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in LAYOUT:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"data")


def all_sources(argument: str, caplog) -> tuple[list[tuple[str, str, str]], str]:
    caplog.clear()
    with caplog.at_level("INFO"):
        found = [(source.name, str(source.error or ""), source.kind) for source in sources.expand([argument])]
    return found, caplog.text


@pytest.mark.parametrize("scheme", ["s3", "memory"])
@pytest.mark.parametrize(
    "pattern",
    ["", "/", "/a", "/b/*", "/*", "/*.jpg", "/**", "/**/*.jpg", "/**/c*", "/a*/*", "/*/", "/[ab]*/*.jpg", "/b/.*"],
)
def test_same_sources_as_local_folders(folder, s3, caplog, scheme, pattern):
    root = s3.bucket("photos") if scheme == "s3" else "memory://photos"
    for name in LAYOUT:
        storage.put(f"{root}/{name}", b"data")
    local, local_log = all_sources(f"photos{pattern}", caplog)
    remote, log = all_sources(root + pattern, caplog)
    assert [(name.replace(root, "photos"), error) for name, error, _ in remote] == [entry[:2] for entry in local]
    assert {kind for *_, kind in remote} <= {"remote", "nothing"}
    assert len(local) > 0
    assert log == local_log


def test_missing_and_empty(s3):
    root = s3.bucket("some", {"folder/notes.txt": b"", "folder-2/a.jpg": b""})
    for argument, kind in (("/missing", "SourceNotFound"), ("/folder", "EmptySource"), ("/*.png", "SourceNotFound")):
        (source,) = sources.expand([root + argument])
        assert source.error and source.error.type == kind, argument


def test_key_with_special_characters(s3):
    keys = ["a?b.jpg", "a#b.jpg", "a%20b.jpg", "a b.jpg", "a[1].jpg", "*.jpg", "a//b.jpg", "ü/✓.jpg", "a&b;c.jpg"]
    root = s3.bucket("special", {key: key.encode() for key in keys})
    found = list(sources.expand([root]))
    assert sorted(names(found)) == sorted(f"{root}/{key}" for key in keys)
    for source in found:
        assert storage.read(source.origin, 100).decode() == source.name.removeprefix(f"{root}/")
    assert names(sources.expand([f"{root}/a[1].jpg", f"{root}/*.jpg"])) == [f"{root}/a[1].jpg", f"{root}/*.jpg"]


def test_pages(s3):
    assert [(source.name, source.page) for source in sources.expand(["s3://b/scan.tif[2]"])] == [
        ("s3://b/scan.tif[2]", 2)
    ]


def test_large_bucket_is_listed_page_by_page(s3_proxy):
    """The first image comes after the first page, and memory does not grow with the number of keys."""
    s3_proxy.fault = synthetic_listing("{:07}.jpg".format, 120_000)
    found = walk_bucket("s3://synthetic")
    assert next(found).path == "s3://synthetic/0000000.jpg"
    assert s3_proxy.count("GET") <= 2
    sum(1 for _ in islice(found, 9_999))
    process = psutil.Process()
    gc.collect()
    memory = process.memory_info().rss
    count = 10_000
    for _ in found:
        count += 1
        if count % 10_000 == 0:
            s3_proxy.requests.clear()
            assert process.memory_info().rss < memory + 20e6  # 110,000 names and entries would take more
    assert count == 120_000


def walk_bucket(url: str):
    from densenet_cli.images.remote import REMOTE

    for entry in walk(url, folders=REMOTE):
        assert not isinstance(entry, SkippedFiles)
        yield entry


def test_error_while_listing(s3_proxy):
    """A page that cannot be listed is one error, after the images of those before it."""
    from tests.support.s3 import Fault

    answer = synthetic_listing("{:07}.jpg".format, 3_000)

    def fault(request):
        if request.query.get("start-after", "") >= "0001":
            return Fault(status=403, code="AccessDenied")
        return answer(request)

    s3_proxy.fault = fault
    *found, last = walk_bucket("s3://synthetic")
    assert isinstance(last, Entry)
    assert len(found) >= 1000
    assert last.error and last.error.type == "SourceUnreadable"
    assert "secret" not in str(last.error)


def test_a_pattern_that_matches_nothing(s3):
    url = s3.bucket("bucket")
    for pattern, hint in ((f"{url}/none*.jpg", ""), (f"{url}/[a].jpg", ""), ("s3://buck*/a", "bucket cannot")):
        (source,) = sources.expand([pattern])
        assert source.error and "Brackets" not in str(source.error)
        assert hint in str(source.error)


def test_a_file_and_a_folder_of_the_same_name(s3):
    url = s3.bucket("bucket", {"photos": b"a file", "photos/1.jpg": b"x", "2.jpg": b"x"})
    assert names(sources.expand([f"{url}/photos"])) == [f"{url}/photos"]
    assert names(sources.expand([f"{url}/photos/"])) == [f"{url}/photos/1.jpg"]
    (source,) = sources.expand([f"{url}/2.jpg/"])
    assert source.error and source.error.type == "EmptySource"


def test_schemes_in_upper_case(s3):
    url = s3.bucket("bucket", {"photos/1.jpg": b"x"}).upper().replace("BUCKET", "bucket")
    (source,) = sources.expand([f"{url}/photos"])
    assert (source.name, read_source(source)) == ("S3://bucket/photos/1.jpg", b"x")
