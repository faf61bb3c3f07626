"""Text files of any common encoding and with any line ends."""

from __future__ import annotations

import codecs
import io
import os

import pytest

from densenet_cli.errors import UsageError
from densenet_cli.textfiles import read_lines, read_text

LINES = ["café.jpg", "", "東京/2 🦊.jpg", "last"]

ENCODINGS = {
    "UTF-8": str.encode,
    "UTF-8 with a mark": lambda text: text.encode("utf-8-sig"),
    "UTF-16-LE": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "UTF-16-BE": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
}


class Pieces(io.RawIOBase):
    """A stream that returns one byte per read."""

    def __init__(self, data: bytes) -> None:
        self._pieces = iter([data[n : n + 1] for n in range(len(data))])

    def read(self, size: int = -1) -> bytes:
        return next(self._pieces, b"")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encodings_and_line_ends(tmp_path, encoding, end):
    data = ENCODINGS[encoding](end.join(LINES) + end)
    assert list(read_lines(io.BytesIO(data))) == LINES
    assert list(read_lines(Pieces(data))) == LINES
    (tmp_path / "file").write_bytes(data)
    assert read_text(tmp_path / "file") == "\n".join(LINES) + "\n"


def test_bytes_that_are_not_utf8_are_kept():
    data = b"caf\xe9.jpg\n\xff\xfa\n\xef\xbb"
    for stream in (io.BytesIO(data), Pieces(data)):
        assert [os.fsencode(line) for line in read_lines(stream)] == data.split(b"\n")


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf", b"\xff\xfe"])
def test_empty_streams(data):
    assert list(read_lines(io.BytesIO(data))) == list(read_lines(Pieces(data))) == []


def test_incomplete_utf16_does_not_end_the_list():
    assert list(read_lines(io.BytesIO(b"\xff\xfea\0\n\0b"))) == ["a", "\ufffd"]


@pytest.mark.parametrize(
    ("data", "words"), [(b"caf\xe9", "UTF-8"), (b"\xff\xfea\0b", "UTF-16"), ("ab".encode("utf-16-le"), "null bytes")]
)
def test_a_file_that_is_not_text(tmp_path, data, words):
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(UsageError, match=rf"file .*{words}"):
        read_text(tmp_path / "file")


def test_a_missing_file(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        read_text(tmp_path / "file")
