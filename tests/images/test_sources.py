from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from densenet_cli.errors import EmptySourceError, SourceNotFoundError, SourceUnreadableError, UsageError
from densenet_cli.images.sources import Source, expand, from_object, read_list


def touch(root, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def here(tmp_path, monkeypatch):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def names(*arguments: str) -> list[str]:
    return [source.name for source in expand(arguments)]


def only_error(*arguments: str) -> Source:
    (source,) = expand(arguments)
    assert source.kind == "nothing" and source.error is not None and str(source.error)
    return source


def test_arguments_keep_their_order_and_their_spelling(here):
    touch(here, "b.jpg", "a.jpg", "photos/1.jpg")
    assert names("b.jpg", "./a.jpg", "photos", "photos/", "./photos//1.jpg", "b.jpg") == [
        "b.jpg",
        "./a.jpg",
        "photos/1.jpg",
        "photos/1.jpg",
        "./photos//1.jpg",
        "b.jpg",
    ]


def test_a_folder_is_searched_depth_first_each_sorted(here):
    touch(here, "p/b.jpg", "p/a/2.jpg", "p/a/10.jpg", "p/c/x.png", "p/B.jpg", "p/a.jpg", "p/a/z/deep.gif")
    expected = ["p/B.jpg", "p/a/10.jpg", "p/a/2.jpg", "p/a/z/deep.gif", "p/a.jpg", "p/b.jpg", "p/c/x.png"]
    assert names("p") == expected
    assert [source.origin for source in expand(["p"])] == expected


def test_files_without_an_image_extension_are_skipped_and_their_number_logged(here, caplog):
    touch(
        here,
        "p/a.JPG",
        "p/b.TiFf",
        "p/c.heic",
        "p/notes.txt",
        "p/data.h5",
        "p/no_suffix",
        "p/.hidden.jpg",
        "p/.x/y.jpg",
    )
    caplog.set_level("INFO")
    assert names("p") == ["p/a.JPG", "p/b.TiFf", "p/c.heic"]
    (record,) = caplog.records
    assert record.levelname == "INFO" and "3 files" in record.getMessage()


def test_skipped_files_are_logged_once_for_all_folders(here, caplog):
    touch(here, "p/a.jpg", "p/x.txt", "q/y.txt", "q/b.jpg", "r/c.jpg")
    caplog.set_level("INFO")
    assert names("r") == ["r/c.jpg"]
    assert caplog.records == []
    assert names("p", "q") == ["p/a.jpg", "q/b.jpg"]
    (record,) = caplog.records
    assert "2 files" in record.getMessage()


def test_a_file_named_outright_is_always_tried(here):
    touch(here, "notes.txt", ".hidden")
    assert [source.kind for source in expand(["notes.txt", ".hidden"])] == ["path", "path"]


def test_a_missing_file(here):
    source = only_error("none.jpg")
    assert source.name == "none.jpg" and type(source.error) is SourceNotFoundError


@pytest.mark.parametrize("argument", ["a\0b.jpg", "x" * 5000, "loop.jpg"])
def test_a_name_that_can_be_no_file(here, argument):
    (here / "loop.jpg").symlink_to("loop.jpg")
    assert type(only_error(argument).error) is SourceUnreadableError


def test_a_link_to_nothing(here):
    (here / "link.jpg").symlink_to("nowhere")
    assert "link" in str(only_error("link.jpg").error)


@pytest.mark.parametrize(
    ("files", "words"), [((), "no images"), (("p/a.txt",), "1 other file"), (("p/a.txt", "p/q/b.c"), "2 other files")]
)
def test_an_empty_folder(here, files, words):
    (here / "p").mkdir()
    touch(here, *files)
    source = only_error("p")
    assert source.name == "p" and type(source.error) is EmptySourceError and words in str(source.error)


def test_what_is_no_regular_file_stays_a_source_and_is_not_opened(here):
    """Decoding refuses it with its reason; a row is there for it."""
    (here / "p").mkdir()
    os.mkfifo(here / "p/pipe.jpg")
    os.mkfifo(here / "fifo")
    assert names("p", "fifo") == ["p/pipe.jpg", "fifo"]


def test_an_unreadable_folder_is_one_error_among_the_others(here):
    touch(here, "p/a.jpg", "p/locked/x.jpg", "p/z.jpg")
    (here / "p/locked").chmod(0)
    sources = as_nobody(here, "p")
    assert sources == [("p/a.jpg", None), ("p/locked", "SourceUnreadable"), ("p/z.jpg", None)]
    assert as_nobody(here, "p/locked") == [("p/locked", "SourceUnreadable")]
    assert as_nobody(here, "p/locked/x.jpg") == [("p/locked/x.jpg", "SourceUnreadable")]
    assert as_nobody(here, "p/*/x.jpg") == [("p/locked/x.jpg", "SourceUnreadable")]
    assert as_nobody(here, "p/locked/*.jpg") == [("p/locked/*.jpg", "SourceUnreadable")]
    assert as_nobody(here, "p/**/x.jpg") == [("p/locked", "SourceUnreadable")]


def as_nobody(folder, argument: str) -> list[tuple[str, str | None]]:
    """What ``expand`` gives a user whom permissions stop: in a process that drops its user id first."""
    script = (
        "import os, sys; from densenet_cli.images.sources import expand\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "print([(source.name, source.error and source.error.type) for source in expand(sys.argv[1:])])"
    )
    for path in (folder, *folder.parents):
        if path.stat().st_uid == os.getuid() and path.is_relative_to("/tmp"):
            path.chmod(path.stat().st_mode | 0o055)
    result = subprocess.run(
        [sys.executable, "-c", script, argument], cwd=folder, capture_output=True, text=True, check=True
    )
    return ast.literal_eval(result.stdout)


def test_loops_of_links_end_and_no_folder_is_searched_twice(here):
    touch(here, "p/a.jpg", "p/q/b.jpg")
    (here / "p/q/up").symlink_to("..")
    (here / "p/q/self").symlink_to(".")
    (here / "p/also_q").symlink_to("q")
    (here / "p/loop").symlink_to("loop")
    assert names("p") == ["p/a.jpg", "p/also_q/b.jpg"]


def test_links_that_double_at_each_level_end_at_once(here):
    folder = here / "p"
    for _ in range(40):
        folder.mkdir()
        (folder / "again").symlink_to("next")
        folder = folder / "next"
    touch(folder, "a.jpg")
    started = time.monotonic()
    assert len(names("p")) == 1
    assert time.monotonic() - started < 5


def test_a_tree_deeper_than_pythons_recursion(here):
    depth = 1200
    for _ in range(depth):
        os.mkdir("d")
        os.chdir("d")
    try:
        os.chdir(here)
        assert only_error("d").name == "d"
        assert only_error("d/**/*.jpg").name == "d/**/*.jpg"
    finally:  # pytest's own clearing up recurses
        subprocess.run(["rm", "-r", here / "d"], check=True)


def test_names_that_are_not_utf_8_or_hold_odd_characters(here):
    odd = [b"caf\xe9.jpg", b"two\nlines.jpg", b"\x1b[31mred.jpg", b" space .jpg", b"*star?.jpg"]
    for name in odd:
        (here / os.fsdecode(b"p/" + name)).parent.mkdir(exist_ok=True)
        open(os.fsencode(here) + b"/p/" + name, "wb").close()
    found = [os.fsencode(name) for name in names("p")]
    assert sorted(found) == sorted(b"p/" + name for name in odd)
    for name in odd:
        assert [os.fsencode(name) for name in names(os.fsdecode(b"p/" + name))] == [b"p/" + name]


def test_a_hundred_thousand_files_give_the_first_at_once(here, monkeypatch):
    real = os.scandir

    class Entry:
        def __init__(self, index: int) -> None:
            self.name = f"{index:06}.jpg"

        def is_dir(self) -> bool:
            return False

    class Entries:
        def __enter__(self):
            return (Entry(index) for index in reversed(range(100_000)))

        def __exit__(self, *_: object) -> None: ...

    (here / "p").mkdir()
    monkeypatch.setattr(os, "scandir", lambda path: Entries() if path == "p" else real(path))
    started = time.monotonic()
    assert next(expand(["p"])).name == "p/000000.jpg"
    assert time.monotonic() - started < 3


def test_sources_come_lazily(here):
    touch(here, "a.jpg")

    def arguments():
        yield "a.jpg"
        pytest.fail("the next was asked for too early")

    assert next(expand(arguments())).name == "a.jpg"


class TestUrls:
    @pytest.mark.parametrize("url", ["http://example.org/a.jpg", "https://example.org/b", "HTTPS://EXAMPLE.ORG/c"])
    def test_are_not_looked_for_on_disk(self, url, here):
        (source,) = expand([url])
        assert source.kind == "url" and source.origin == url

    def test_are_named_without_credentials(self):
        (source,) = expand(["https://user:secret@example.org/a.jpg?x=1"])
        assert source.name == "https://example.org/a.jpg?x=1"
        assert source.origin == "https://user:secret@example.org/a.jpg?x=1"

    def test_are_named_at_their_full_length(self):
        urls = [f"https://example.org/{'x' * 400}/{image}.jpg" for image in "ab"]
        assert names(*urls) == urls

    @pytest.mark.parametrize("url", ["ftp://example.org/a.jpg", "file:///etc/passwd", "httpx://a/b.jpg"])
    def test_of_other_schemes_are_no_urls(self, url, here):
        assert type(only_error(url).error) is SourceNotFoundError


class TestGlobs:
    def test_match_sorted(self, here):
        touch(here, "p/b.jpg", "p/a.jpg", "p/c.png", "p/.hidden.jpg", "q/d.jpg")
        assert names("p/*.jpg") == ["p/a.jpg", "p/b.jpg"]
        assert names("?/[bd].*") == ["p/b.jpg", "q/d.jpg"]
        assert names("p/.*.jpg") == ["p/.hidden.jpg"]
        assert names(f"{here}/p/*.png") == [f"{here}/p/c.png"]
        assert names("./*/d.jpg") == ["./q/d.jpg"]
        assert names("p/../q/*") == ["p/../q/d.jpg"]

    def test_match_files_as_if_named_outright_and_search_folders(self, here):
        touch(here, "p/a.txt", "p/f/x.jpg", "p/f/y.txt")
        assert names("p/*") == ["p/a.txt", "p/f/x.jpg"]

    def test_two_stars_are_any_number_of_folders(self, here):
        touch(here, "p/a.jpg", "p/x/b.jpg", "p/x/y/c.jpg", "p/x/y/d.png", "p/.h/e.jpg", "p/n.txt")
        assert names("p/**/*.jpg") == ["p/a.jpg", "p/x/b.jpg", "p/x/y/c.jpg"]
        assert names("**/c.jpg") == ["p/x/y/c.jpg"]
        assert names("p/**/y/*") == ["p/x/y/c.jpg", "p/x/y/d.png"]
        assert names("p/**/**/b.jpg") == ["p/x/b.jpg"]

    def test_two_stars_at_the_end_are_the_folder(self, here):
        touch(here, "p/a.jpg", "p/x/b.jpg", "p/n.txt")
        assert names("p/**") == names("p") == ["p/a.jpg", "p/x/b.jpg"]
        assert names("**") == ["./p/a.jpg", "./p/x/b.jpg"]

    def test_two_stars_give_no_image_twice(self, here):
        touch(here, "p/a/a/1.jpg", "p/a/2.jpg")
        assert names("p/**/*") == ["p/a/2.jpg", "p/a/a/1.jpg"]
        assert names("p/**/a/**/*.jpg") == ["p/a/2.jpg", "p/a/a/1.jpg"]

    def test_a_slash_at_the_end_is_for_folders_only(self, here):
        touch(here, "g/a/1.jpg", "g/a/b/2.jpg", "g/c/b/3.jpg", "g/file.jpg")
        assert names("g/*/") == ["g/a/1.jpg", "g/a/b/2.jpg", "g/c/b/3.jpg"]
        assert names("g/*/b/") == ["g/a/b/2.jpg", "g/c/b/3.jpg"]
        assert type(only_error("g/f*/").error) is type(only_error("*/file.jpg/").error) is SourceNotFoundError

    @pytest.mark.parametrize("pattern", ["**/b/", "g/**/", "g/**/*/", "g/**/**", "g/**/*/*/"])
    def test_folders_at_any_depth_give_no_image_twice(self, here, pattern):
        touch(here, "g/a/b/1.jpg", "g/a/b/c/b/2.jpg", "g/a/b/c/d/3.jpg")
        (here / "g/link").symlink_to("a")
        found = names(pattern)
        assert sorted(name[-5:] for name in found) == ["1.jpg", "2.jpg", "3.jpg"]

    def test_loops_of_links_end(self, here):
        touch(here, "p/a.jpg")
        (here / "p/one").symlink_to(".")
        (here / "p/two").symlink_to("..")
        assert names("p/**/a.jpg") == ["p/a.jpg"]

    def test_without_a_match(self, here):
        touch(here, "p/a.png")
        for pattern in ("p/*.jpg", "none/*", "p/**/x", "p/a.png/*", "[", "*/none.jpg"):
            source = only_error(pattern)
            assert source.name == pattern and type(source.error) is SourceNotFoundError, pattern

    def test_a_path_that_exists_is_never_a_glob(self, here):
        touch(here, "[1].jpg", "1.jpg", "*.jpg")
        assert names("[1].jpg") == ["[1].jpg"]
        assert names("*.jpg") == ["*.jpg"]
        (here / "*.jpg").unlink()
        assert names("*.jpg") == ["1.jpg", "[1].jpg"]

    def test_a_folder_without_images_that_matches_is_an_error(self, here):
        (here / "p/q").mkdir(parents=True)
        source = only_error("p/*")
        assert source.name == "p/q" and type(source.error) is EmptySourceError


class TestLists:
    def test_one_a_line(self):
        data = b"a.jpg\n\nsub/b c.jpg\r\ncaf\xe9.jpg\nlast"
        assert [os.fsencode(name) for name in read_list(io.BytesIO(data))] == [
            b"a.jpg",
            b"sub/b c.jpg",
            b"caf\xe9.jpg",
            b"last",
        ]

    def test_one_a_nul_byte(self):
        assert list(read_list(io.BytesIO(b"two\nlines.jpg\0\0b.jpg\r\0"), null=True)) == ["two\nlines.jpg", "b.jpg\r"]

    def test_longer_than_a_buffer(self):
        expected = [f"{index}.jpg" for index in range(30_000)]
        assert list(read_list(io.BytesIO("\n".join(expected).encode()))) == expected

    def test_each_is_there_before_the_next_is_written(self):
        reader, writer = os.pipe()
        with open(reader, "rb") as list_, open(writer, "wb", buffering=0) as pipe:
            too_late = threading.Timer(5, pipe.close)
            too_late.start()
            arguments = read_list(list_)
            for argument in ("a.jpg", "b.jpg"):
                pipe.write(f"{argument}\nhalf".encode())
                assert next(arguments).removeprefix("half") == argument
            too_late.cancel()

    def test_the_list_itself_is_no_image(self):
        stream = io.BytesIO(b"a.jpg\n-\nb.jpg\n")
        sources = list(expand(read_list(stream), stdin=stream))
        assert [source.name for source in sources] == ["a.jpg", "-", "b.jpg"]
        assert type(sources[1].error) is SourceUnreadableError and "list" in str(sources[1].error)
        assert next(expand(["-"], stdin=io.BytesIO())).error is None

    def test_an_empty_list(self):
        assert list(read_list(io.BytesIO())) == []


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
    def test_are_told_apart(self, image, name, kind):
        source = from_object(image)
        assert (source.name, source.kind) == (name, kind)

    def test_an_open_file_has_its_name(self, tmp_path):
        (tmp_path / "a.jpg").touch()
        with open(tmp_path / "a.jpg", "rb") as file:
            assert from_object(file).name == str(tmp_path / "a.jpg")
        assert from_object(tmp_path / "a.jpg").kind == "path"

    def test_an_array_is_taken_as_it_is_now(self):
        frame = np.full((2, 3, 3), 7, np.uint8)
        source = from_object(frame)
        frame[:] = 0
        assert (source.origin == 7).all()

    def test_a_source_is_one_already(self):
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
    def test_anything_else_is_refused(self, image):
        with pytest.raises(UsageError, match="image"):
            from_object(image)
