"""Preflight checks: what cannot be written is an error before any work, and nothing is created."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from densenet_cli.errors import OutputError, UsageError
from densenet_cli.output.checks import (
    check_output_file,
    check_output_folder,
    check_package,
    check_parent_folder,
    file_exists_error,
    format_from_suffix,
)


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no folder be writable, for root neither."""
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)


def test_an_existing_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    check_output_file(path)
    path.touch()
    check_output_file(path)
    path.write_text("old")
    check_output_file(path, overwrite=True)
    with pytest.raises(UsageError, match=r"a\.csv exists.*`overwrite`"):
        check_output_file(path)
    with pytest.raises(UsageError, match=r"a\.csv exists.*`resume`.*`overwrite`"):
        check_output_file(path, can_resume=True)
    assert path.read_text() == "old"


def test_suggestions_for_an_existing_file() -> None:
    assert "`resume`" not in str(file_exists_error("a"))
    assert "`resume`" in str(file_exists_error("a", can_resume=True))


def test_a_path_that_is_not_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", "/dev/null"):
        with pytest.raises(OutputError, match="not a regular file"):
            check_output_file(path, overwrite=True)


def test_a_missing_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "missing" / "a.csv", tmp_path / "link"):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(tmp_path / "missing" / "b.csv")
        for check in (check_output_file, check_parent_folder):
            with pytest.raises(OutputError, match=rf"{path}.*{tmp_path / 'missing'} does not exist"):
                check(path)
    check_output_file(tmp_path / "missing" / "a.csv", create_folder=True)
    assert not (tmp_path / "missing").exists()


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for call in (
        lambda: check_output_folder(tmp_path / "file" / "maps"),
        lambda: check_output_file(tmp_path / "file" / "maps" / "a.png", create_folder=True),
        lambda: check_parent_folder(tmp_path / "file" / "a"),
    ):
        with pytest.raises(OutputError, match="file is not a folder"):
            call()


def test_a_read_only_folder(tmp_path: Path, read_only: None) -> None:
    (tmp_path / "a.csv").write_text("old")
    for call in (
        lambda: check_output_file(tmp_path / "new.csv"),
        lambda: check_output_file(tmp_path / "new.csv", in_place=True),
        lambda: check_output_file(tmp_path / "a.csv", overwrite=True),
        lambda: check_output_folder(tmp_path),
        lambda: check_output_folder(tmp_path / "new" / "maps"),
        lambda: check_parent_folder(tmp_path / "a"),
    ):
        with pytest.raises(OutputError, match="read-only"):
            call()
    check_output_file(tmp_path / "a.csv", overwrite=True, in_place=True)
    assert os.listdir(tmp_path) == ["a.csv"]


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="File name too long"):
        check_output_file(tmp_path / ("x" * 300))


def test_a_missing_package() -> None:
    check_package("os", "python", "a.csv")
    with pytest.raises(UsageError, match=r"a\.csv .*pip install some-package"):
        check_package("no_such_module", "some-package", "a.csv")


SUFFIXES = {"onnx": ".onnx", "saved-model": "", "tflite": ".tflite"}


@pytest.mark.parametrize(
    ("path", "given", "expected"),
    [
        ("a.onnx", None, "onnx"),
        ("A.ONNX", None, "onnx"),
        ("b.x/a.onnx", "onnx", "onnx"),
        ("model", None, "saved-model"),
        ("a.b/model", None, "saved-model"),
        ("model", "tflite", "tflite"),
        ("model.v2", "saved-model", "saved-model"),
        ("model.v2", "onnx", "onnx"),
    ],
)
def test_the_format_of_a_file(path: str, given: str | None, expected: str) -> None:
    assert format_from_suffix(path, SUFFIXES, given) == expected


@pytest.mark.parametrize(
    ("path", "given", "message"),
    [
        ("model.v2", None, r"model\.v2.*\.onnx or \.tflite"),
        ("a.onnx", "tflite", "onnx.*tflite"),
        ("a.onnx", "saved-model", "onnx.*saved-model"),
        ("a.onnx", "table", "table.*onnx, saved-model, or tflite"),
    ],
)
def test_a_format_that_cannot_be_determined(path: str, given: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        format_from_suffix(path, SUFFIXES, given)
    with pytest.raises(UsageError, match=r"a\.txt.*Use \.json\.$"):
        format_from_suffix("a.txt", {"json": ".json"})
    with pytest.raises(UsageError, match=r"Use \.json, or set `format`\.$"):
        format_from_suffix("a.txt", {"json": ".json"}, can_be_given=True)
