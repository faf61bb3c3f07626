"""Unusual environments and values: closed streams, other encodings, no home folder, control characters, NaN."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from PIL import Image

from tests.support.checkpoints import write_legacy_h5
from tests.support.command import densenet, run_process
from tests.support.networks import TINY, random_arrays


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "é.png"
    Image.new("RGB", (40, 40), "teal").save(path)
    return path


def shell(script, **settings):
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120, check=False, **settings)


def test_output_encoding_other_than_utf_8(weights, image):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = run_process("predict", image, "--weights", weights, "-k", 1, env=environment)
    assert result.returncode == 0
    assert "\\xe9.png" in result.stdout and "#" in result.stdout


@pytest.mark.parametrize(
    ("closed", "status"), [("2>&-", 0), (">&-", 0), ("- <&-", 1), ("--files-from - <&-", 0)], ids=str
)
def test_closed_standard_streams(weights, image, closed, status):
    result = shell(f"'{sys.executable}' -m densenet_cli predict '{image}' --weights '{weights}' {closed}")
    assert result.returncode == status
    assert "Internal error" not in result.stderr


def test_closed_standard_error_does_not_stop_the_run(weights, image, tmp_path):
    missing = " ".join(f"missing{n}.jpg" for n in range(200))
    output = tmp_path / "out.csv"
    script = (
        f"'{sys.executable}' -m densenet_cli predict {missing} '{image}' --weights '{weights}' -o '{output}' 2>&1 | :"
    )
    result = shell(f"{script}; exit ${{PIPESTATUS[0]}}")
    assert result.returncode == 1
    assert len(output.read_text().splitlines()) == 1 + 200 + 5


def test_no_home_folder(weights, image, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    inherited = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH")
    environment = {name: os.environ[name] for name in inherited if name in os.environ}
    code = (
        "import os, pwd, sys, densenet_cli.cli as cli\n"
        "def getpwuid(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = getpwuid\n"
        "cli.main(sys.argv[1:])"
    )
    for arguments, status in [
        (["predict", image, "--weights", weights], 0),
        (["predict", image, "--offline"], 2),
        (["cache"], 2),
    ]:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        result = subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120, check=False
        )
        assert result.returncode == status, result.stderr
        assert not list(folder.iterdir())
        assert status == 0 or "KERAS_HOME" in result.stderr


@pytest.fixture
def deleted_folder(tmp_path, monkeypatch):
    """Make a folder that was deleted the working directory."""
    folder = tmp_path / "deleted"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()


@pytest.mark.parametrize(
    "arguments",
    [("predict", "-o", "g.csv"), ("predict", "-o", "g.jsonl"), ("embed", "-o", "g.npz"), ("explain", "-o", "maps")],
    ids=str,
)
def test_a_deleted_working_directory(weights, image, tmp_path, deleted_folder, arguments):
    command, option, name = arguments
    result = densenet(command, image, "--weights", weights, option, tmp_path / name)
    assert result.status == 0, result.err
    assert (tmp_path / name).exists()
    result = densenet(command, image, "--weights", weights, option, name)
    assert result.status == 4
    assert "working directory" in result.err


def test_a_missing_image_to_sort_in_a_deleted_working_directory(weights, tmp_path, deleted_folder):
    result = densenet("sort", "missing.png", "--into", tmp_path / "sorted", "--weights", weights)
    assert result.status == 1
    assert "SourceNotFound" in result.err and "Internal error" not in result.err


def test_a_table_with_a_deleted_working_directory(image, tmp_path, deleted_folder):
    (tmp_path / "t.csv").write_text(f"path,label\n{image},tench\n")
    result = densenet("evaluate", "--csv", tmp_path / "t.csv", "--variant", "121", "--offline")
    assert result.status == 3, result.err  # the table was read, and the weights are missing


def test_control_characters_in_names_are_escaped(weights, image, tmp_path):
    hostile = tmp_path / "a\x1b[31mb\nc.h5"
    hostile.write_bytes(weights.read_bytes())
    result = densenet("predict", image, "--weights", hostile)
    assert result.status == 0 and "\x1b" not in result.out and "a\\x1b[31mb\\nc" in result.out
    hostile.write_bytes(b"nothing")
    result = densenet("predict", image, "--weights", hostile)
    assert result.status == 3 and "\x1b" not in result.err


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--min-prob", "nan"], 2),
        (["--threads", str(10**12)], 2),
        (["--batch-size", "100000"], 2),
        (["--weights", "/nowhere/x.h5"], 3),
        (["--weights", "/"], 3),
    ],
)
def test_invalid_values(weights, image, arguments, status):
    model = [] if "--weights" in arguments else ["--weights", weights]
    result = densenet("predict", image, *model, *arguments)
    assert result.status == status
    assert "Internal" not in result.err and result.out == ""


def test_usage_errors_precede_missing_weights(image):
    assert densenet("predict", image, "--offline", "--ten-crop", "--preprocess", "pad").status == 2


def test_weights_that_overflow_float32(image, tmp_path):
    arrays = random_arrays(TINY)
    arrays["conv1_conv"]["kernel"][:] = 3e38
    path = tmp_path / "huge.h5"
    write_legacy_h5(path, arrays, TINY)
    result = densenet("predict", image, "--weights", path)
    assert result.status == 3
    assert "float32" in result.err


def test_the_tensorflow_engine_prints_no_messages(weights, image):
    result = run_process("predict", image, "--weights", weights, "--engine", "tensorflow", "--format", "jsonl")
    assert result.returncode == 0
    assert result.stderr == ""
