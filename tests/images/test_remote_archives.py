"""Archives in object storage: the same sources as on disk, read in order with few requests."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from densenet_cli import Classifier, storage
from densenet_cli.errors import DownloadFailedError, SourceNotFoundError, SourceUnreadableError, UnreadableImageError
from densenet_cli.images.archives import index
from densenet_cli.images.reading import read_source
from densenet_cli.images.sources import expand, from_object
from tests.support.archives import FORMATS, pack, write_tar, write_zip
from tests.support.command import densenet
from tests.support.images import encode, photograph
from tests.support.s3 import Fault


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "photos"
    for number in range(12):
        path = folder / f"{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((20 + 10 * number, 40), 50).save(path)
    return folder


@pytest.fixture
def objects(folder, tmp_path):
    """Archives of the folder, in every format."""
    return {f"x.{name}": pack(folder, tmp_path / f"x.{name}").read_bytes() for name in FORMATS}


@pytest.fixture
def bucket(s3, objects):
    """A bucket with them."""
    return s3.bucket("images", objects)


@pytest.fixture
def slow_bucket(s3_proxy, s3_server, objects):
    """The same behind ``s3_proxy``."""
    return s3_server.bucket("images", objects)


@pytest.fixture(autouse=True)
def no_index():
    yield
    while index._indexes:
        index._indexes.popitem()[1].close()


def read_all(*arguments: object) -> dict[str, bytes]:
    return {source.name: read_source(source) for source in expand(map(str, arguments))}


@pytest.mark.parametrize("format_", FORMATS)
def test_the_same_sources_as_on_disk(bucket, tmp_path, format_):
    expected = read_all(tmp_path / f"x.{format_}")
    found = read_all(f"{bucket}/x.{format_}")
    assert found == {name.replace(str(tmp_path), bucket): data for name, data in expected.items()}
    assert len(found) == 12


def test_globs_braces_folders_and_members(bucket):
    archives = [f"{bucket}/x.tar", f"{bucket}/x.zip"]
    expected = [name for archive in archives for name in read_all(archive)]
    assert list(read_all(f"{bucket}/x.{{tar,zip}}")) == expected
    assert list(read_all(f"{bucket}/*.tar", f"{bucket}/*.zip")) == expected
    assert list(read_all(f"{bucket}/x.zip/1", f"{bucket}/x.tar/1/")) == [
        *(name for name in expected if "x.zip/1/" in name),
        *(name for name in expected if "x.tar/1/" in name),
    ]
    assert read_all(*expected) == read_all(*archives)
    assert read_all(*expected[::-1]) == read_all(*archives)


def test_braces_before_a_member(bucket):
    expected = [name for name in read_all(f"{bucket}/x.tar", f"{bucket}/x.zip") if "/1/" in name]
    assert list(read_all(f"{bucket}/x.{{tar,zip}}/1")) == expected
    assert list(read_all(f"{bucket}/x.{{tar,zip}}/1/1.png")) == [f"{bucket}/x.tar/1/1.png", f"{bucket}/x.zip/1/1.png"]


def test_braces_in_the_name_of_a_member(s3, tmp_path):
    archive = write_tar(tmp_path / "x.tar", ("{a,b}.png", b"braces"), ("a.png", b"a"))
    bucket = s3.bucket("images", {"x.tar": archive.read_bytes()})
    assert read_all(f"{bucket}/x.tar/{{a,b}}.png") == {f"{bucket}/x.tar/{{a,b}}.png": b"braces"}


def test_a_damaged_member_is_the_error_of_that_member(s3, tmp_path):
    archive = write_zip(tmp_path / "x.zip", *((f"{name}.png", name.encode() * 50) for name in "abc"), method=0)
    archive.write_bytes(archive.read_bytes().replace(b"b" * 50, b"b" * 49 + b"x"))
    bucket = s3.bucket("images", {"x.zip": archive.read_bytes()})
    a, b, c = expand([f"{bucket}/x.zip"])
    assert (read_source(a), type(b.error), read_source(c)) == (b"a" * 50, UnreadableImageError, b"c" * 50)
    assert b.name == f"{bucket}/x.zip/b.png"
    (listed,) = expand([b.name])
    assert (listed.name, type(listed.error)) == (b.name, UnreadableImageError)


@pytest.mark.parametrize("name", ["x.tar/none.png", "x.tar/none/", "none.tar", "none.tar/a.png"])
def test_what_is_not_there(bucket, name):
    (source,) = expand([f"{bucket}/{name}"])
    if source.error is None:
        with pytest.raises(SourceNotFoundError):
            read_source(source)
    else:
        assert type(source.error) is SourceNotFoundError


def test_a_folder_with_the_name_of_an_archive(s3):
    bucket = s3.bucket("images", {"x.tar/a.png": b"a", "x.tar/b/c.png": b"c"})
    assert read_all(f"{bucket}/x.tar", f"{bucket}/x.tar/a.png", f"{bucket}/x.tar/b") == {
        f"{bucket}/x.tar/a.png": b"a",
        f"{bucket}/x.tar/b/c.png": b"c",
    }


def test_a_page_of_a_member(s3, tmp_path):
    frames = [Image.new("L", (9, 9), shade) for shade in (0, 99)]
    (tmp_path / "p").mkdir()
    frames[0].save(tmp_path / "p" / "a.tif", save_all=True, append_images=frames[1:])
    bucket = s3.bucket("images", {"x.zip": pack(tmp_path / "p", tmp_path / "x.zip").read_bytes()})
    (source,) = expand([f"{bucket}/x.zip/a.tif[1]"])
    assert (source.name, source.page, source.kind) == (f"{bucket}/x.zip/a.tif[1]", 1, "member")


@pytest.mark.parametrize("format_", FORMATS)
def test_few_requests(s3_proxy, slow_bucket, format_):
    assert len(read_all(f"{slow_bucket}/x.{format_}")) == 12
    assert 1 <= s3_proxy.count("GET", f"x.{format_}") <= 3, [request.path for request in s3_proxy.requests]


def test_an_archive_that_cannot_be_read(s3_proxy, slow_bucket):
    s3_proxy.fault = lambda request: Fault(status=500, code="InternalError") if request.method == "GET" else None
    (source,) = expand([f"{slow_bucket}/x.tar"])
    assert source.name == f"{slow_bucket}/x.tar" and isinstance(source.error, DownloadFailedError)


def test_an_archive_that_is_replaced(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "CHECK_INTERVAL", 0)
    for data in (b"1", b"22"):
        archive = write_tar(tmp_path / "a.tar", ("a.png", data))
        bucket = s3.bucket("images", {"a.tar": archive.read_bytes()})
        assert read_all(f"{bucket}/a.tar/a.png") == {f"{bucket}/a.tar/a.png": data}


def test_the_command(s3, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.jpg").write_bytes(encode(photograph("coffee", (90 + number, 80)), "JPEG"))
    data = {f"photos.{name}": pack(folder, tmp_path / f"photos.{name}").read_bytes() for name in ("tar", "zip", "tgz")}
    bucket = s3.bucket("images", data)
    arguments = ["predict", "--variant", "tiny", "--format", "jsonl"]
    expected = densenet(*arguments, folder).out
    for name in data:
        for options in ([], ["--pages", "all"], ["--processes", 2], ["--isolate"]):
            result = densenet(*arguments, f"{bucket}/{name}", *options)
            assert result.out.replace(f"{bucket}/{name}", str(folder)) == expected
    result = densenet(*arguments, f"{bucket}/photos.tar", "--offline")
    assert [json.loads(line)["error"]["type"] for line in result.out.splitlines()] == ["DownloadFailed"]


def test_evaluation(s3, tmp_path):
    folder = tmp_path / "val"
    for number, label in enumerate(("jellyfish", "lampshade")):
        (folder / label).mkdir(parents=True)
        (folder / label / "1.png").write_bytes(encode(photograph("coffee", (60 + number, 50)), "PNG"))
    bucket = s3.bucket("images", {"val.zip": pack(folder, tmp_path / "val.zip").read_bytes()})
    arguments = ["evaluate", "--variant", "tiny", "--format", "json"]
    result = densenet(*arguments, f"{bucket}/val.zip")
    assert (result.status, result.out.replace(f"{bucket}/val.zip", str(folder))) == (
        0,
        densenet(*arguments, folder).out,
    )


@pytest.mark.parametrize("format_", ["tar", "tar.gz", "zip"])
def test_python_objects(bucket, s3, tmp_path, format_):
    """A single name is a member too, also below a folder that is named like an archive."""
    for name, data in read_all(f"{bucket}/x.{format_}").items():
        source = from_object(name)
        assert (source.name, read_source(source)) == (name, data)
    missing = from_object(f"{bucket}/x.{format_}/none.png")
    assert type(missing.error) is SourceNotFoundError
    data = s3.get("images", f"x.{format_}")
    s3.put("images", f"folder.zip/x.{format_}", data)
    s3.put("images", "folder.zip/a.png", b"a")
    s3.put("images", "damaged.tar", s3.get("images", "x.tar")[:3000])
    nested = f"{bucket}/folder.zip/x.{format_}/1/1.png"
    (expected,) = read_all(f"{bucket}/x.zip/1/1.png").values()
    assert read_source(from_object(nested)) == read_all(nested)[nested] == expected
    assert read_source(from_object(f"{bucket}/folder.zip/a.png")) == b"a"
    assert "truncated" in str(from_object(f"{bucket}/damaged.tar/none.png").error)


def test_python_objects_offline(s3_proxy):
    source = from_object("s3://images/x.tar/1/1.png", offline=True)
    assert source.kind == "remote"
    with Classifier("tiny", offline=True) as classifier, pytest.raises(DownloadFailedError):
        classifier.predict("s3://images/x.tar/1/1.png")
    assert s3_proxy.requests == []


def test_methods_for_one_image(bucket):
    name = f"{bucket}/x.tar/1/1.png"
    with Classifier("tiny") as classifier:
        (expected,) = classifier.predict_many([name])
        prediction = classifier.predict(name)
        assert (prediction.source, prediction.scores) == (name, expected.scores)
        assert classifier.embed(name).source == name
        assert classifier.load_pixels(name).dtype == "uint8"
        with pytest.raises(SourceNotFoundError, match="archive"):
            classifier.predict(f"{bucket}/x.tar/none.png")


def test_evaluation_of_folders_that_are_named_like_archives(s3, tmp_path):
    image = encode(photograph("coffee", (60, 50)), "PNG")
    keys = ("jellyfish/1.png", "lampshade/x.zip/2.png")
    url = s3.bucket("images", {f"val.zip/{key}": image for key in keys})
    for folder in (f"{url}/val.zip", f"{url}/val.zip/"):
        result = densenet("evaluate", folder, "--variant", "tiny", "--format", "json")
        assert (result.status, json.loads(result.out)["images"]) == (0, 2)
    assert densenet("evaluate", f"{url}/none.zip", "--variant", "tiny").status == 2


def test_evaluation_of_a_table(slow_bucket, tmp_path, s3_proxy):
    """Rows of a table name members, and none with --offline."""
    table = tmp_path / "labels.csv"
    names = list(read_all(f"{slow_bucket}/x.zip"))[:3]
    table.write_text("".join(f"{line}\n" for line in ["path,label", *(f"{name},lampshade" for name in names)]))
    arguments = ["evaluate", "--csv", table, "--variant", "tiny", "--format", "json"]
    assert json.loads(densenet(*arguments).out)["images"] == 3
    s3_proxy.requests.clear()
    result = densenet(*arguments, "--offline")
    assert result.status == 1
    assert s3_proxy.requests == []


@pytest.mark.parametrize("format_", ["tar", "tar.gz", "zip"])
def test_an_archive_that_is_replaced_before_a_member_is_read_again(s3, tmp_path, format_):
    """The bytes of another file are never those of the member."""
    archives = [pack_one(tmp_path / f"{data}.{format_}", data * 100) for data in ("1", "2")]
    bucket = s3.bucket("images", {f"a.{format_}": archives[0]})
    sources = [*expand([f"{bucket}/a.{format_}"]), from_object(f"{bucket}/a.{format_}/a.png")]
    assert read_source(sources[1]) == b"1" * 100
    s3.put("images", f"a.{format_}", archives[1])
    for source in sources:
        with pytest.raises(SourceUnreadableError, match="changed"):
            read_source(source)
    (source,) = expand([f"{bucket}/a.{format_}"])
    assert read_source(source) == b"2" * 100


def pack_one(path, data):
    folder = path.with_suffix(".d")
    folder.mkdir()
    (folder / "a.png").write_text(data)
    return pack(folder, path).read_bytes()


def test_an_archive_that_is_replaced_while_it_is_walked(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_BLOCK_SIZE", 1 << 16)
    members = [(f"{number:03}.png", b"1" * 10_000) for number in range(100)]
    data = write_tar(tmp_path / "a.tar", *members).read_bytes()
    bucket = s3.bucket("images", {"a.tar": data})
    found = expand([f"{bucket}/a.tar"])
    assert read_source(next(found)) == b"1" * 10_000
    s3.put("images", "a.tar", data.replace(b"1" * 10_000, b"2" * 10_000))
    results = [source.error or read_source(source) for source in found]
    assert {data for data in results if isinstance(data, bytes)} <= {b"1" * 10_000}
    assert "changed" in str(results[-1])
