"""A real disk that is full, and caches that can't be written, under the real command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from tests.support.command import densenet
from tests.support.networks import tiny_weights
from tests.support.small_disk import MOUNT_NAMESPACE, needs_a_small_disk


@pytest.fixture
def folder(tmp_path):
    """Three hundred names of one small image, a broken one among them."""
    root = tmp_path / "images"
    root.mkdir()
    Image.new("RGB", (40, 50), "teal").save(root / "000.png")
    for number in range(1, 300):
        os.link(root / "000.png", root / f"{number:03}.png")
    (root / "017.png").unlink()
    (root / "017.png").write_bytes(b"text")
    return root


@pytest.fixture
def weights(tmp_path):
    return tiny_weights(tmp_path)


RESULTS = """
import json, pathlib, subprocess, sys
disk, arguments, output, expected = sys.argv[1], json.loads(sys.argv[2]), pathlib.Path(sys.argv[3]), sys.argv[4]
whole = pathlib.Path(expected).read_bytes()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True)
full = subprocess.run([sys.executable, "-m", "densenet_cli", *arguments], stderr=subprocess.PIPE, text=True)
kept = output.read_bytes()
subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
later = subprocess.run([sys.executable, "-m", "densenet_cli", *arguments, "--resume"], stderr=subprocess.DEVNULL)
print(json.dumps({
    "full": full.returncode, "said": full.stderr.splitlines()[-1], "kept": len(kept), "begins": whole.startswith(kept),
    "whole records": kept.endswith(b"\\n"), "later": later.returncode, "same": output.read_bytes() == whole,
}))
"""


@needs_a_small_disk
@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_results_on_a_disk_that_gets_full_and_then_more_room(folder, weights, tmp_path, suffix):
    disk = tmp_path / "disk"
    disk.mkdir()
    arguments = ["predict", str(folder), "--weights", str(weights), "-o"]
    assert densenet(*arguments, tmp_path / f"expected.{suffix}").status == 1
    output = str(disk / f"out.{suffix}")
    report = in_a_namespace(RESULTS, disk, json.dumps([*arguments, output]), output, tmp_path / f"expected.{suffix}")
    assert report["full"] == 4
    assert f"{output}: No space left on device" in report["said"] and "--resume" in report["said"]
    assert 10_000 < report["kept"] < 64 << 10 and report["begins"] and report["whole records"]
    assert (report["later"], report["same"]) == (1, True)


GRAPH = """
import json, pathlib, subprocess, sys
cache, arguments = sys.argv[1], json.loads(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", cache], check=True)
runs = [
    subprocess.run([sys.executable, "-m", "densenet_cli", *arguments], capture_output=True, text=True) for _ in range(2)
]
left = [str(path) for path in pathlib.Path(cache).rglob("*") if "graphs" in path.parts and path.is_file()]
print(json.dumps({"out": [run.stdout for run in runs], "err": [run.stderr for run in runs], "left": left}))
"""


@needs_a_small_disk
def test_a_disk_without_room_for_the_graph(folder, weights, tmp_path, monkeypatch):
    arguments = ["predict", str(folder / "000.png"), "--weights", str(weights), "--format", "jsonl"]
    expected = json.loads(densenet(*arguments).out)
    cache = tmp_path / "small"
    cache.mkdir()
    monkeypatch.setenv("DENSENET_CACHE", str(cache))
    report = in_a_namespace(GRAPH, cache, json.dumps(arguments))
    assert report["err"] == ["", ""] and report["left"] == []
    for out in report["out"]:
        assert_same_answer(json.loads(out), expected)


def in_a_namespace(script: str, *arguments: object) -> dict:
    command = [*MOUNT_NAMESPACE, sys.executable, "-c", script, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def assert_same_answer(found: dict, expected: dict) -> None:
    for mine, theirs in zip(found["predictions"], expected["predictions"], strict=True):
        assert mine["label"] == theirs["label"]
        assert mine["probability"] == pytest.approx(theirs["probability"], abs=1e-6)


AS_NOBODY = """
import base64, os, sys
from densenet_cli import Classifier
weights, image, cache = sys.argv[1:]
for os.environ["DENSENET_CACHE"] in (os.environ["DENSENET_CACHE"], "/dev/null/none"):
    Classifier(weights=weights).predict(image).to_json()  # everything is imported while it may be
if os.geteuid() == 0:
    os.setgroups([]); os.setegid(65534); os.seteuid(65534)
os.environ["DENSENET_CACHE"] = cache
for _ in range(2):
    print(Classifier(weights=weights).predict(image).to_json())
"""


@pytest.mark.parametrize("cache", ["empty", "absent", "full of another's graphs"])
def test_a_cache_that_may_not_be_written(folder, weights, cache):
    place = Path(tempfile.mkdtemp(prefix="densenet-"))  # where every user may go, unlike below pytest's own folder
    try:
        shutil.copy(weights, place / "tiny.h5")
        shutil.copy(folder / "000.png", place / "a.png")
        (place / "cache").mkdir()
        arguments = ["predict", place / "a.png", "--weights", place / "tiny.h5", "--format", "jsonl"]
        expected = json.loads(densenet(*arguments).out)
        if cache == "absent":
            (place / "cache").rmdir()
        elif cache != "empty":
            shutil.copytree(os.environ["DENSENET_CACHE"], place / "cache", dirs_exist_ok=True)
        before = sorted(place.rglob("*"))
        for path in (place, *(path for path in before if path.is_dir())):
            path.chmod(0o555)
        command = [sys.executable, "-c", AS_NOBODY, place / "tiny.h5", place / "a.png", place / "cache"]
        run = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=120)
        assert (run.returncode, run.stderr) == (0, "")
        for line in run.stdout.splitlines():
            assert_same_answer(json.loads(line), expected)
        assert len(run.stdout.splitlines()) == 2
        assert sorted(place.rglob("*")) == before
    finally:
        for path in (place, *place.rglob("*")):
            path.chmod(0o755)
        shutil.rmtree(place)
