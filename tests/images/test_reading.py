"""The same photograph from every kind of source, and files that are missing, inaccessible, or not regular."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from densenet_cli.errors import DownloadFailedError, SourceNotFoundError, SourceUnreadableError, UnreadableImageError
from densenet_cli.images import reading
from densenet_cli.images.sources import Source, expand
from tests.support.images import encode, load_error, load_pixels, photograph, rotated


class TestSources:
    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "photo.png"
        photograph("rocket").save(path)
        return path

    @pytest.fixture
    def expected(self):
        return load_pixels(photograph("rocket"))

    def test_path(self, path, expected):
        assert np.array_equal(load_pixels(path), expected)
        assert np.array_equal(load_pixels(str(path)), expected)

    def test_bytes_and_file_objects(self, path, expected):
        data = path.read_bytes()
        assert np.array_equal(load_pixels(data), expected)
        assert np.array_equal(load_pixels(bytearray(data)), expected)
        assert np.array_equal(load_pixels(io.BytesIO(data)), expected)
        with path.open("rb") as file:
            assert np.array_equal(load_pixels(file), expected)

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_file_object_that_returns_small_pieces(self, path, expected, kind):
        class Stream(io.BytesIO):
            def read(self, size=-1):
                return kind(super().read(min(size, 1000)))

        data = path.read_bytes()
        assert np.array_equal(load_pixels(Stream(data)), expected)
        (source,) = expand(["-"], stdin=Stream(data))
        assert np.array_equal(load_pixels(source), expected)

    @pytest.mark.parametrize("text", ["", "a text"])
    def test_file_object_that_returns_text(self, text):
        error = load_error(io.StringIO(text))
        assert type(error) is UnreadableImageError and "binary" in str(error)

    def test_array(self, expected):
        assert np.array_equal(load_pixels(np.asarray(photograph("rocket"))), expected)

    def test_standard_input_is_read_once(self, path, expected):
        first, second = expand(["-", "-"], stdin=io.BytesIO(path.read_bytes()))
        for source in (first, second):
            assert np.array_equal(load_pixels(source), expected)

    def test_pil_image_is_not_changed(self):
        image = Image.open(io.BytesIO(rotated(photograph("chelsea"), 6)))
        before = image.copy()
        assert np.array_equal(load_pixels(image), load_pixels(rotated(photograph("chelsea"), 6)))
        assert image.size == before.size and image.tobytes() == before.tobytes()
        assert image.getexif()[0x0112] == 6

    def test_url(self, path, expected, monkeypatch):
        requests = []

        def fetch(url, *, max_bytes):
            requests.append((url, max_bytes))
            return path.read_bytes()

        monkeypatch.setattr("densenet_cli.http.fetch", fetch)
        assert np.array_equal(load_pixels("https://example.org/a.png"), expected)
        assert requests == [("https://example.org/a.png", reading.MAX_STREAM_BYTES)]

    def test_url_that_fails(self, monkeypatch):
        def fetch(url, *, max_bytes):
            raise DownloadFailedError("404 Not Found")

        monkeypatch.setattr("densenet_cli.http.fetch", fetch)
        assert type(load_error("http://example.org/a.png")) is DownloadFailedError

    def test_endless_stream(self, monkeypatch):
        monkeypatch.setattr(reading, "MAX_STREAM_BYTES", 1000)

        class Endless:
            def read(self, size: int) -> bytes:
                return b"x" * size

        assert "limit" in str(load_error(Endless()))

    def test_source_with_an_error(self):
        error = load_error(Source("x", "x", "nothing", SourceNotFoundError("No such file.")))
        assert type(error) is SourceNotFoundError and str(error) == "No such file."


class TestFiles:
    def test_missing_file(self, tmp_path):
        assert type(load_error(tmp_path / "none.jpg")) is SourceNotFoundError

    def test_broken_link(self, tmp_path):
        (tmp_path / "link.jpg").symlink_to("nowhere")
        error = load_error(tmp_path / "link.jpg")
        assert type(error) is SourceNotFoundError and "symbolic link" in str(error)

    def test_loop_of_links(self, tmp_path):
        (tmp_path / "a.jpg").symlink_to("a.jpg")
        assert type(load_error(tmp_path / "a.jpg")) is SourceUnreadableError

    def test_name_with_a_nul_byte(self):
        assert type(load_error("a\0b.jpg")) is SourceUnreadableError

    @pytest.mark.parametrize("kind", ["FIFO", "socket", "device", "folder"])
    def test_only_regular_files_are_opened(self, kind, tmp_path, monkeypatch):
        path = tmp_path / "x.jpg"
        if kind == "FIFO":
            os.mkfifo(path)
        elif kind == "socket":
            monkeypatch.chdir(tmp_path)  # the path of a socket must be short
            with socket.socket(socket.AF_UNIX) as server:
                server.bind("x.jpg")
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to("/dev/zero")
        monkeypatch.setattr(os, "open", lambda *_: pytest.fail("it was opened"))
        error = load_error(path)
        assert type(error) is SourceUnreadableError and kind in str(error)

    def test_file_without_permission(self, tmp_path):
        path = tmp_path / "secret.jpg"
        path.write_bytes(encode(photograph(), "JPEG"))
        path.chmod(0)
        for folder in (tmp_path, *tmp_path.parents[:2]):
            folder.chmod(0o755)
        script = (
            "import os, sys; from densenet_cli.images import decoding, preprocessing, sources\n"
            "try: decoding.load(sources.from_object(b'a text'), preprocessing.Preprocessing())\n"
            "except Exception: pass  # everything is imported before the user changes\n"
            "os.setgid(65534); os.setuid(65534)\n"
            "try: decoding.load(sources.from_object(sys.argv[1]), preprocessing.Preprocessing())\n"
            "except Exception as error: print(error.type, error)"
        )
        result = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
        assert result.stdout == "SourceUnreadable Permission denied.\n"
