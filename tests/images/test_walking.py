"""Folders and globs: order, links, loops, errors, and size."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time

import pytest

from densenet_cli.errors import EmptySourceError, SourceNotFoundError, SourceUnreadableError, UsageError
from densenet_cli.images.sources import Source, expand


def touch(root, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def cwd(tmp_path, monkeypatch):
    """Return an empty folder that is the current one."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def names(*arguments: str) -> list[str]:
    return [source.name for source in expand(arguments)]


def only_error(*arguments: str) -> Source:
    (source,) = expand(arguments)
    assert source.kind == "nothing" and source.error is not None and str(source.error)
    return source


def expand_as_nobody(folder, argument: str) -> list[tuple[str, str | None]]:
    """Expand an argument in a process without root's permissions."""
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


class TestFolders:
    def test_depth_first_with_sorted_names(self, cwd):
        touch(cwd, "p/b.jpg", "p/a/2.jpg", "p/a/10.jpg", "p/c/x.png", "p/B.jpg", "p/a.jpg", "p/a/z/deep.gif")
        expected = ["p/B.jpg", "p/a/10.jpg", "p/a/2.jpg", "p/a/z/deep.gif", "p/a.jpg", "p/b.jpg", "p/c/x.png"]
        assert names("p") == expected
        assert [source.origin for source in expand(["p"])] == expected

    def test_only_image_extensions_and_no_hidden_files(self, cwd, caplog):
        touch(cwd, "p/a.JPG", "p/b.TiFf", "p/c.heic", "p/notes.txt", "p/data.h5", "p/no_suffix")
        touch(cwd, "p/.hidden.jpg", "p/.x/y.jpg")
        caplog.set_level("INFO")
        assert names("p") == ["p/a.JPG", "p/b.TiFf", "p/c.heic"]
        (record,) = caplog.records
        assert record.levelname == "INFO" and "3 files" in record.getMessage()

    def test_extensions_of_other_formats_that_hold_images(self, cwd):
        files = ["p/a.mpo", "p/b.jps", "p/c.hif", "p/d.jpx", "p/e.APNG"]
        touch(cwd, *files)
        assert names("p") == files

    def test_additional_extensions(self, cwd):
        touch(cwd, "p/a.jpg", "p/b.DAT", "p/c.dat.txt", "p/d", "p/q/e.raw")
        for suffixes in ([".dat", "raw"], ["DAT", ".Raw"]):
            found = [source.name for source in expand(["p"], suffixes=suffixes)]
            assert found == ["p/a.jpg", "p/b.DAT", "p/q/e.raw"]
        assert [source.name for source in expand(["p/*"], suffixes=["raw"])][-1] == "p/q/e.raw"
        assert [source.name for source in expand(["p"], suffixes=[""])] == ["p/a.jpg", "p/d"]

    def test_extensions_of_archives(self, cwd):
        touch(cwd, "p/a.tar.gz", "p/b.gz", "p/c.TAR.XZ", "p/d.tgz")
        found = expand(["p"], suffixes=["tar.gz", ".tar.xz"], archives=False)
        assert [source.name for source in found] == ["p/a.tar.gz", "p/c.TAR.XZ"]

    @pytest.mark.parametrize("suffix", [".jpg.gz", "a/b", "/", "*.x.y", ".."])
    def test_additional_extensions_are_checked(self, suffix):
        with pytest.raises(UsageError, match="suffix"):
            expand(["p"], suffixes=[suffix])

    def test_skipped_files_are_logged_once_for_all_folders(self, cwd, caplog):
        touch(cwd, "p/a.jpg", "p/x.txt", "q/y.txt", "q/b.jpg", "r/c.jpg")
        caplog.set_level("INFO")
        assert names("r") == ["r/c.jpg"]
        assert caplog.records == []
        assert names("p", "q") == ["p/a.jpg", "q/b.jpg"]
        (record,) = caplog.records
        assert "2 files" in record.getMessage()

    @pytest.mark.parametrize(
        ("files", "message"),
        [((), "no images"), (("p/a.txt",), "1 other file"), (("p/a.txt", "p/q/b.c"), "2 other files")],
    )
    def test_without_images(self, cwd, files, message):
        (cwd / "p").mkdir()
        touch(cwd, *files)
        source = only_error("p")
        assert source.name == "p" and type(source.error) is EmptySourceError and message in str(source.error)

    def test_special_files_are_sources_that_are_not_opened(self, cwd):
        """Decoding rejects them, so that each has a record."""
        (cwd / "p").mkdir()
        os.mkfifo(cwd / "p/pipe.jpg")
        os.mkfifo(cwd / "fifo")
        assert names("p", "fifo") == ["p/pipe.jpg", "fifo"]

    def test_an_unreadable_folder_is_one_error_among_the_images(self, cwd):
        touch(cwd, "p/a.jpg", "p/locked/x.jpg", "p/z.jpg")
        (cwd / "p/locked").chmod(0)
        assert expand_as_nobody(cwd, "p") == [
            ("p/a.jpg", None),
            ("p/locked", "SourceUnreadable"),
            ("p/z.jpg", None),
        ]
        assert expand_as_nobody(cwd, "p/locked") == [("p/locked", "SourceUnreadable")]
        assert expand_as_nobody(cwd, "p/locked/x.jpg") == [("p/locked/x.jpg", "SourceUnreadable")]
        assert expand_as_nobody(cwd, "p/*/x.jpg") == [("p/locked/x.jpg", "SourceUnreadable")]
        assert expand_as_nobody(cwd, "p/locked/*.jpg") == [("p/locked/*.jpg", "SourceUnreadable")]
        assert expand_as_nobody(cwd, "p/**/x.jpg") == [("p/locked", "SourceUnreadable")]

    def test_loops_of_links_end_and_no_folder_is_searched_twice(self, cwd):
        touch(cwd, "p/a.jpg", "p/q/b.jpg")
        (cwd / "p/q/up").symlink_to("..")
        (cwd / "p/q/self").symlink_to(".")
        (cwd / "p/also_q").symlink_to("q")
        (cwd / "p/loop").symlink_to("loop")
        assert names("p") == ["p/a.jpg", "p/also_q/b.jpg"]

    def test_links_that_double_the_paths_at_each_level(self, cwd):
        folder = cwd / "p"
        for _ in range(40):
            folder.mkdir()
            (folder / "again").symlink_to("next")
            folder = folder / "next"
        touch(folder, "a.jpg")
        start = time.monotonic()
        assert len(names("p")) == 1
        assert time.monotonic() - start < 5

    def test_deeper_than_pythons_recursion_limit(self, cwd):
        for _ in range(1200):
            os.mkdir("d")
            os.chdir("d")
        try:
            os.chdir(cwd)
            assert only_error("d").name == "d"
            assert only_error("d/**/*.jpg").name == "d/**/*.jpg"
        finally:  # pytest's cleanup recurses
            subprocess.run(["rm", "-r", cwd / "d"], check=True)

    def test_names_that_are_not_utf_8_or_contain_special_characters(self, cwd):
        special = [b"caf\xe9.jpg", b"two\nlines.jpg", b"\x1b[31mred.jpg", b" space .jpg", b"*star?.jpg"]
        for name in special:
            (cwd / os.fsdecode(b"p/" + name)).parent.mkdir(exist_ok=True)
            open(os.fsencode(cwd) + b"/p/" + name, "wb").close()
        assert sorted(os.fsencode(name) for name in names("p")) == sorted(b"p/" + name for name in special)
        for name in special:
            assert [os.fsencode(name) for name in names(os.fsdecode(b"p/" + name))] == [b"p/" + name]

    def test_a_hundred_thousand_files(self, cwd, monkeypatch):
        real_scandir = os.scandir

        class Entry:
            def __init__(self, index: int) -> None:
                self.name = f"{index:06}.jpg"

            def is_dir(self) -> bool:
                return False

        class Entries:
            def __enter__(self):
                return (Entry(index) for index in reversed(range(100_000)))

            def __exit__(self, *_: object) -> None: ...

        (cwd / "p").mkdir()
        monkeypatch.setattr(os, "scandir", lambda path: Entries() if path == "p" else real_scandir(path))
        start = time.monotonic()
        assert next(expand(["p"])).name == "p/000000.jpg"
        assert time.monotonic() - start < 3


class TestGlobs:
    def test_matches_are_sorted(self, cwd):
        touch(cwd, "p/b.jpg", "p/a.jpg", "p/c.png", "p/.hidden.jpg", "q/d.jpg")
        assert names("p/*.jpg") == ["p/a.jpg", "p/b.jpg"]
        assert names("?/[bd].*") == ["p/b.jpg", "q/d.jpg"]
        assert names("p/.*.jpg") == ["p/.hidden.jpg"]
        assert names(f"{cwd}/p/*.png") == [f"{cwd}/p/c.png"]
        assert names("./*/d.jpg") == ["./q/d.jpg"]
        assert names("p/../q/*") == ["p/../q/d.jpg"]

    def test_files_need_no_image_extension_and_folders_are_searched(self, cwd):
        touch(cwd, "p/a.txt", "p/f/x.jpg", "p/f/y.txt")
        assert names("p/*") == ["p/a.txt", "p/f/x.jpg"]

    def test_two_stars_match_any_number_of_folders(self, cwd):
        touch(cwd, "p/a.jpg", "p/x/b.jpg", "p/x/y/c.jpg", "p/x/y/d.png", "p/.h/e.jpg", "p/n.txt")
        assert names("p/**/*.jpg") == ["p/a.jpg", "p/x/b.jpg", "p/x/y/c.jpg"]
        assert names("**/c.jpg") == ["p/x/y/c.jpg"]
        assert names("p/**/y/*") == ["p/x/y/c.jpg", "p/x/y/d.png"]
        assert names("p/**/**/b.jpg") == ["p/x/b.jpg"]

    def test_two_stars_at_the_end_match_the_folder(self, cwd):
        touch(cwd, "p/a.jpg", "p/x/b.jpg", "p/n.txt")
        assert names("p/**") == names("p") == ["p/a.jpg", "p/x/b.jpg"]
        assert names("**") == ["./p/a.jpg", "./p/x/b.jpg"]
        assert names("p*/**") == names("*/**/**") == ["p/a.jpg", "p/x/b.jpg"]
        assert type(only_error("none/**").error) is SourceNotFoundError
        assert type(only_error("p/a.jpg/**").error) is SourceNotFoundError

    def test_two_stars_match_no_image_twice(self, cwd):
        touch(cwd, "p/a/a/1.jpg", "p/a/2.jpg")
        assert names("p/**/*") == ["p/a/2.jpg", "p/a/a/1.jpg"]
        assert names("p/**/a/**/*.jpg") == ["p/a/2.jpg", "p/a/a/1.jpg"]

    def test_a_slash_at_the_end_matches_only_folders(self, cwd):
        touch(cwd, "g/a/1.jpg", "g/a/b/2.jpg", "g/c/b/3.jpg", "g/file.jpg")
        assert names("g/*/") == ["g/a/1.jpg", "g/a/b/2.jpg", "g/c/b/3.jpg"]
        assert names("g/*/b/") == ["g/a/b/2.jpg", "g/c/b/3.jpg"]
        assert type(only_error("g/f*/").error) is type(only_error("*/file.jpg/").error) is SourceNotFoundError

    @pytest.mark.parametrize("pattern", ["**/b/", "g/**/", "g/**/*/", "g/**/**", "g/**/*/*/"])
    def test_folders_at_any_depth_yield_no_image_twice(self, cwd, pattern):
        touch(cwd, "g/a/b/1.jpg", "g/a/b/c/b/2.jpg", "g/a/b/c/d/3.jpg")
        (cwd / "g/link").symlink_to("a")
        assert sorted(name[-5:] for name in names(pattern)) == ["1.jpg", "2.jpg", "3.jpg"]

    def test_loops_of_links_end(self, cwd):
        touch(cwd, "p/a.jpg")
        (cwd / "p/one").symlink_to(".")
        (cwd / "p/two").symlink_to("..")
        assert names("p/**/a.jpg") == ["p/a.jpg"]

    def test_without_a_match(self, cwd):
        touch(cwd, "p/a.png")
        for pattern in ("p/*.jpg", "none/*", "p/**/x", "p/a.png/*", "[", "*/none.jpg"):
            source = only_error(pattern)
            assert source.name == pattern and type(source.error) is SourceNotFoundError, pattern

    def test_a_path_that_exists_is_never_a_glob(self, cwd):
        touch(cwd, "[1].jpg", "1.jpg", "*.jpg")
        assert names("[1].jpg") == ["[1].jpg"]
        assert names("*.jpg") == ["*.jpg"]
        (cwd / "*.jpg").unlink()
        assert names("*.jpg") == ["1.jpg", "[1].jpg"]

    @pytest.mark.parametrize(
        ("pattern", "written"),
        [
            ("trip [2024]/*.jpg", "trip [[]2024]/*.jpg"),
            ("all/a[1]/b[2]/c*", "all/a[[]1]/b[[]2]/c*"),
            ("trip [2024]/**", "trip [[]2024]/**"),
        ],
    )
    def test_without_a_match_because_of_brackets_in_a_name(self, pattern, written, cwd):
        touch(cwd, "trip [2024]/a.jpg", "all/a[1]/b[2]/c.jpg", "other/a.jpg")
        assert f"write {written}." in str(only_error(pattern).error)
        assert names(written)  # as the message says
        assert "write" not in str(only_error("other/[x]*.jpg").error)
        assert "write" not in str(only_error("other//none*.jpg").error)
        assert str(cwd) in str(only_error(str(cwd / "trip [2024]/*.jpg")).error)

    def test_a_folder_without_images_that_matches_is_an_error(self, cwd):
        (cwd / "p/q").mkdir(parents=True)
        source = only_error("p/*")
        assert source.name == "p/q" and type(source.error) is EmptySourceError

    def test_an_inaccessible_folder_is_an_error(self, cwd):
        touch(cwd, "p/locked/x/a.jpg", "p/b/x/a.jpg")
        (cwd / "p/locked").chmod(0)
        assert expand_as_nobody(cwd, "p/*/x/*.jpg") == [
            ("p/b/x/a.jpg", None),
            ("p/locked/x", "SourceUnreadable"),
        ]


class TestSinglePaths:
    def test_a_named_file_needs_no_image_extension(self, cwd):
        touch(cwd, "notes.txt", ".hidden")
        assert [source.kind for source in expand(["notes.txt", ".hidden"])] == ["path", "path"]

    def test_missing_file(self, cwd):
        source = only_error("none.jpg")
        assert source.name == "none.jpg" and type(source.error) is SourceNotFoundError

    @pytest.mark.parametrize("argument", ["a\0b.jpg", "x" * 5000, "loop.jpg"])
    def test_impossible_name(self, cwd, argument):
        (cwd / "loop.jpg").symlink_to("loop.jpg")
        assert type(only_error(argument).error) is SourceUnreadableError

    def test_broken_link(self, cwd):
        (cwd / "link.jpg").symlink_to("nowhere")
        assert "symbolic link" in str(only_error("link.jpg").error)
