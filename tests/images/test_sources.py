"""Arguments, lists of arguments, and Python objects as sources."""

from __future__ import annotations

import io
import os
import threading

import numpy as np
import pytest
from PIL import Image

from densenet_cli.errors import SourceNotFoundError, SourceUnreadableError, UsageError
from densenet_cli.images.reading import read_source
from densenet_cli.images.sources import expand, expand_objects, from_object, read_list
from densenet_cli.paths import local_path


def names(*arguments: str) -> list[str]:
    return [source.name for source in expand(arguments)]


class TestArguments:
    def test_order_and_spelling_are_kept(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "photos").mkdir()
        for name in ("b.jpg", "a.jpg", "photos/1.jpg"):
            (tmp_path / name).touch()
        assert names("b.jpg", "./a.jpg", "photos", "photos/", "./photos//1.jpg", "b.jpg") == [
            "b.jpg",
            "./a.jpg",
            "photos/1.jpg",
            "photos/1.jpg",
            "./photos//1.jpg",
            "b.jpg",
        ]

    def test_arguments_are_consumed_lazily(self):
        def arguments():
            yield "https://example.org/a.jpg"
            pytest.fail("the second argument was consumed")

        assert next(expand(arguments())).name == "https://example.org/a.jpg"


class TestUrls:
    @pytest.mark.parametrize("url", ["http://example.org/a.jpg", "https://example.org/b", "HTTPS://EXAMPLE.ORG/c"])
    def test_are_not_looked_up_as_files(self, url):
        (source,) = expand([url])
        assert source.kind == "url" and source.origin == url

    def test_names_contain_no_credentials(self):
        (source,) = expand(["https://user:secret@example.org/a.jpg?x=1"])
        assert source.name == "https://example.org/a.jpg?x=1"
        assert source.origin == "https://user:secret@example.org/a.jpg?x=1"

    def test_names_are_not_shortened(self):
        urls = [f"https://example.org/{'x' * 400}/{image}.jpg" for image in "ab"]
        assert names(*urls) == urls

    def test_file_urls_are_file_names(self):
        (source,) = expand(["file:///etc/passwd"])
        assert type(source.error) is SourceNotFoundError

    def test_unknown_scheme(self):
        (source,) = expand(["httpx://a/b.jpg"])
        with pytest.raises(SourceUnreadableError, match="httpx"):
            read_source(source)


class TestLists:
    def test_one_per_line(self):
        data = b"a.jpg\n\nsub/b c.jpg\r\ncaf\xe9.jpg\nlast"
        expected = [b"a.jpg", b"sub/b c.jpg", b"caf\xe9.jpg", b"last"]
        assert [os.fsencode(name) for name in read_list(io.BytesIO(data))] == expected

    def test_a_byte_order_mark_is_no_part_of_the_first_name(self):
        for encoding in ("utf-8-sig", "utf-16"):
            assert list(read_list(io.BytesIO("a.jpg\r\ncafé.jpg\r\n".encode(encoding)))) == ["a.jpg", "café.jpg"]
        assert list(read_list(io.BytesIO(b"\xef\xbb\xbfa\0"), null=True)) == ["\ufeffa"]

    def test_nul_terminated(self):
        assert list(read_list(io.BytesIO(b"two\nlines.jpg\0\0b.jpg\r\0"), null=True)) == ["two\nlines.jpg", "b.jpg\r"]

    def test_longer_than_a_buffer(self):
        expected = [f"{index}.jpg" for index in range(30_000)]
        assert list(read_list(io.BytesIO("\n".join(expected).encode()))) == expected

    def test_each_argument_is_available_before_the_next_is_written(self):
        reader, writer = os.pipe()
        with open(reader, "rb") as list_, open(writer, "wb", buffering=0) as pipe:
            watchdog = threading.Timer(5, pipe.close)
            watchdog.start()
            arguments = read_list(list_)
            for argument in ("a.jpg", "b.jpg"):
                pipe.write(f"{argument}\nhalf".encode())
                assert next(arguments).removeprefix("half") == argument
            watchdog.cancel()

    def test_file_urls_and_home_folders(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", "/home/me")
        monkeypatch.chdir(tmp_path)
        for entry, path in (
            ("file:///a%20b/caf%E9.jpg", os.fsdecode(b"/a b/caf\xe9.jpg")),
            ("FILE:///x#1?.jpg", "/x#1?.jpg"),
            ("file://localhost/x.jpg", "/x.jpg"),
            ("file:/x.jpg", "/x.jpg"),
            ("~/x.jpg", "/home/me/x.jpg"),
            ("file://elsewhere/x.jpg", "file://elsewhere/x.jpg"),
            ("a~/x.jpg", "a~/x.jpg"),
            ("https://a/~/x", "https://a/~/x"),
            ("-", "-"),
        ):
            assert local_path(entry) == path
        (tmp_path / "~").touch()
        assert local_path("~") == "~"

    def test_the_list_is_not_an_image(self):
        stream = io.BytesIO(b"a.jpg\n-\nb.jpg\n")
        sources = list(expand(read_list(stream), stdin=stream))
        assert [source.name for source in sources] == ["a.jpg", "-", "b.jpg"]
        assert type(sources[1].error) is SourceUnreadableError and "list" in str(sources[1].error)
        assert next(expand(["-"], stdin=io.BytesIO())).error is None

    def test_empty_list(self):
        assert list(read_list(io.BytesIO())) == []

    def test_files_that_are_no_lists(self):
        for data in (b"a.jpg\0b.jpg\0", b"\x89PNG\0\0\n\n", "a.jpg\n".encode("utf-16-le")):
            with pytest.raises(UsageError, match="null"):
                list(read_list(io.BytesIO(data)))
        assert list(read_list(io.BytesIO(b"a.jpg\nb\0.jpg"))) == ["a.jpg", "b\0.jpg"]


class TestObjects:
    @pytest.mark.parametrize(
        ("image", "name", "kind"),
        [
            ("a.jpg", "a.jpg", "path"),
            (b"bytes", "<bytes>", "bytes"),
            (memoryview(b"bytes"), "<bytes>", "bytes"),
            (io.BytesIO(), "<file>", "file"),
            (Image.new("L", (2, 2)), "<image>", "image"),
            (np.zeros((2, 3, 3), np.uint8), "<array>", "array"),
            ("https://u:p@example.org/x", "https://example.org/x", "url"),
        ],
    )
    def test_kinds(self, image, name, kind):
        source = from_object(image)
        assert (source.name, source.kind) == (name, kind)

    def test_an_open_file_has_its_name(self, tmp_path):
        (tmp_path / "a.jpg").touch()
        with open(tmp_path / "a.jpg", "rb") as file:
            assert from_object(file).name == str(tmp_path / "a.jpg")
        assert from_object(tmp_path / "a.jpg").kind == "path"

    def test_an_array_is_copied(self):
        frame = np.full((2, 3, 3), 7, np.uint8)
        source = from_object(frame)
        frame[:] = 0
        assert (source.origin == 7).all()

    def test_a_source_is_returned_unchanged(self):
        source = from_object("a.jpg")
        assert from_object(source) is source

    @pytest.mark.parametrize(
        "image",
        [
            None,
            7,
            ["a.jpg"],
            np.zeros((2, 3), np.uint8),
            np.zeros((2, 3, 4), np.uint8),
            np.zeros((2, 3, 3), np.float32),
            np.zeros((0, 3, 3), np.uint8),
        ],
    )
    def test_anything_else_is_an_error(self, image):
        with pytest.raises(UsageError, match="image"):
            from_object(image)
        (source,) = expand_objects([image])
        assert source.error and source.error.type == "UnreadableImage"

    @pytest.mark.parametrize("images", ["a.jpg", b"bytes", np.zeros((2, 3, 3), np.uint8)])
    def test_a_single_image_is_not_an_iterable_of_images(self, images):
        with pytest.raises(UsageError, match="images"):
            expand_objects(images)
