"""Folders: 100,000 files, output inside the source folder, and names with control characters."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys

import psutil
import pytest
from PIL import Image

from tests.support.command import densenet


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "original.png"
    Image.new("RGB", (40, 50), "teal").save(path)
    return path


def test_first_result_of_a_folder_with_100_000_files(weights, image, tmp_path):
    """The first result is fast, measured in CPU time, which does not depend on other programs."""
    sizes = {"small": 10, "large": 100_000}
    for name, count in sizes.items():
        (tmp_path / name).mkdir()
        for number in range(count):
            if number % 10_000 == 0:  # file systems limit the number of links to a file
                shutil.copy(image, tmp_path / name / f"{number:06}.png")
                target = f"{tmp_path}/{name}/{number:06}.png"
            else:
                os.link(target, f"{tmp_path}/{name}/{number:06}.png")
    try:
        cpu_time_to_first_result(tmp_path / "small", weights)  # caches the graph
        small, large = (cpu_time_to_first_result(tmp_path / name, weights) for name in sizes)
    finally:
        shutil.rmtree(tmp_path / "large")
    assert large - small < 1.5


def cpu_time_to_first_result(folder, weights) -> float:
    """Return the CPU time in seconds that the command needs until its first result can be read."""
    command = [sys.executable, "-m", "densenet_cli", "predict", folder, "--weights", weights, "--format", "jsonl"]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as running:
        first = json.loads(running.stdout.readline())
        times = psutil.Process(running.pid).cpu_times()
        running.kill()
    assert first["source"] == f"{folder}/000000.png" and len(first["predictions"]) == 5
    return times.user + times.system


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "json"])
def test_output_inside_the_source_folder(weights, image, tmp_path, suffix):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.png", "z.png"):
        shutil.copy(image, folder / name)
    output = folder / f"out.{suffix}"
    arguments = ["predict", folder, "--weights", weights, "-o", output, "-k", 1]
    assert densenet(*arguments).status == 0
    first = output.read_bytes()
    assert first.count(str(folder).encode()) == 2
    assert densenet(*arguments, "--overwrite" if suffix == "json" else "--resume").status == 0
    assert output.read_bytes() == first


NAMES = (
    b"caf\xe9.png",
    b"two\nlines.png",
    b"\x1b[31mred\x07.png",
    b'"quoted", and more\r.png',
    "\u202egnp.png".encode(),
)


def test_names_with_control_characters_or_invalid_utf_8(weights, image, tmp_path):
    folder = os.fsencode(tmp_path / "folder")
    os.mkdir(folder)
    for name in NAMES:
        shutil.copy(image, os.path.join(folder, name))
    with open(os.path.join(folder, b"\x1b[2Jbroken\xff\n.png"), "wb") as file:
        file.write(b"text")
    paths = sorted(os.path.join(folder, name) for name in os.listdir(folder))
    arguments = ["predict", tmp_path / "folder", "--weights", weights, "-k", 1]

    lines = densenet(*arguments, "--format", "jsonl")
    records = [json.loads(line) for line in lines.out.splitlines()]
    assert sorted(map(source_bytes, records)) == paths
    table = csv.DictReader(io.StringIO(densenet(*arguments, "--format", "csv").out, newline=""), strict=True)
    assert sorted(unescape(row["source"]) for row in table) == paths
    for result in (lines, densenet(*arguments)):
        text = result.out + result.err
        assert all(character.isprintable() or character == "\n" for character in text)
        assert result.err.count("\n") == 1 and "\\x1b[2Jbroken\\xff\\n.png: UnreadableImage" in result.err


def source_bytes(record) -> bytes:
    return base64.b64decode(record["source_bytes"]) if "source_bytes" in record else os.fsencode(record["source"])


def unescape(source: str) -> bytes:
    """Return the bytes of a name in CSV, in which backslashes are doubled and invalid UTF-8 is escaped."""
    return re.sub(
        rb"\\(\\|x..)",
        lambda match: b"\\" if match[1] == b"\\" else bytes([int(match[1][1:], 16)]),
        source.encode(),
    )
