"""Full disks (a small tmpfs) and caches that cannot be written."""

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
from tests.support.images import noise_images
from tests.support.small_disk import MOUNT_NAMESPACE, needs_a_small_disk


@pytest.fixture
def folder(tmp_path):
    """A folder with 299 links to a small image, and a damaged image."""
    root = tmp_path / "images"
    root.mkdir()
    Image.new("RGB", (40, 50), "teal").save(root / "000.png")
    for number in range(1, 300):
        os.link(root / "000.png", root / f"{number:03}.png")
    (root / "017.png").unlink()
    (root / "017.png").write_bytes(b"text")
    return root


RESULTS = """
import json, pathlib, subprocess, sys
disk, arguments, output, expected = sys.argv[1], json.loads(sys.argv[2]), pathlib.Path(sys.argv[3]), sys.argv[4]
complete = pathlib.Path(expected).read_bytes()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True)
first = subprocess.run([sys.executable, "-m", "densenet_cli", *arguments], stderr=subprocess.PIPE, text=True)
written = output.read_bytes()
subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
resumed = subprocess.run([sys.executable, "-m", "densenet_cli", *arguments, "--resume"], stderr=subprocess.DEVNULL)
print(json.dumps({
    "status": first.returncode, "message": first.stderr.splitlines()[-1], "written": len(written),
    "is prefix": complete.startswith(written), "ends with newline": written.endswith(b"\\n"),
    "resumed status": resumed.returncode, "is complete": output.read_bytes() == complete,
}))
"""


@needs_a_small_disk
@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_run_on_a_full_disk_can_be_resumed(folder, weights, tmp_path, suffix):
    disk = tmp_path / "disk"
    disk.mkdir()
    arguments = ["predict", str(folder), "--weights", str(weights), "-o"]
    assert densenet(*arguments, tmp_path / f"expected.{suffix}").status == 1
    output = str(disk / f"out.{suffix}")
    report = run_in_namespace(RESULTS, disk, json.dumps([*arguments, output]), output, tmp_path / f"expected.{suffix}")
    assert report["status"] == 4
    assert f"{output}: No space left on device" in report["message"] and "--resume" in report["message"]
    assert 10_000 < report["written"] < 64 << 10 and report["is prefix"] and report["ends with newline"]
    assert (report["resumed status"], report["is complete"]) == (1, True)


GRAPH = """
import json, pathlib, subprocess, sys
cache, arguments = sys.argv[1], json.loads(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", cache], check=True)
runs = [
    subprocess.run([sys.executable, "-m", "densenet_cli", *arguments], capture_output=True, text=True) for _ in range(2)
]
files = [str(path) for path in pathlib.Path(cache).rglob("*") if "graphs" in path.parts and path.is_file()]
print(json.dumps({"out": [run.stdout for run in runs], "err": [run.stderr for run in runs], "files": files}))
"""


@needs_a_small_disk
def test_predict_without_room_for_the_graph(folder, weights, tmp_path, monkeypatch):
    arguments = ["predict", str(folder / "000.png"), "--weights", str(weights), "--format", "jsonl"]
    expected = json.loads(densenet(*arguments).out)
    cache = tmp_path / "small"
    cache.mkdir()
    monkeypatch.setenv("DENSENET_CACHE", str(cache))
    report = run_in_namespace(GRAPH, cache, json.dumps(arguments))
    assert report["err"] == ["", ""] and report["files"] == []
    for out in report["out"]:
        assert_same_prediction(json.loads(out), expected)


def run_in_namespace(script: str, *arguments: object) -> dict:
    command = [*MOUNT_NAMESPACE, sys.executable, "-c", script, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def assert_same_prediction(actual: dict, expected: dict) -> None:
    for score, other in zip(actual["predictions"], expected["predictions"], strict=True):
        assert score["label"] == other["label"]
        assert score["probability"] == pytest.approx(other["probability"], abs=1e-6)


AS_NOBODY = """
import base64, os, sys
from densenet_cli import Classifier
weights, image, cache = sys.argv[1:]
for os.environ["DENSENET_CACHE"] in (os.environ["DENSENET_CACHE"], "/dev/null/none"):
    Classifier(weights=weights).predict(image).to_json()  # import all modules while they can be read
if os.geteuid() == 0:
    os.setgroups([]); os.setegid(65534); os.seteuid(65534)
os.environ["DENSENET_CACHE"] = cache
for _ in range(2):
    print(Classifier(weights=weights).predict(image).to_json())
"""


@pytest.mark.parametrize("cache", ["empty", "absent", "graphs of another user"])
def test_predict_with_an_unwritable_cache(folder, weights, cache):
    root = Path(tempfile.mkdtemp(prefix="densenet-"))  # accessible to every user, unlike the folders of pytest
    try:
        shutil.copy(weights, root / "tiny.h5")
        shutil.copy(folder / "000.png", root / "a.png")
        (root / "cache").mkdir()
        arguments = ["predict", root / "a.png", "--weights", root / "tiny.h5", "--format", "jsonl"]
        expected = json.loads(densenet(*arguments).out)
        if cache == "absent":
            (root / "cache").rmdir()
        elif cache != "empty":
            shutil.copytree(os.environ["DENSENET_CACHE"], root / "cache", dirs_exist_ok=True)
        before = sorted(root.rglob("*"))
        for path in (root, *(path for path in before if path.is_dir())):
            path.chmod(0o555)
        command = [sys.executable, "-c", AS_NOBODY, root / "tiny.h5", root / "a.png", root / "cache"]
        run = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=120)
        assert (run.returncode, run.stderr) == (0, "")
        for line in run.stdout.splitlines():
            assert_same_prediction(json.loads(line), expected)
        assert len(run.stdout.splitlines()) == 2
        assert sorted(root.rglob("*")) == before
    finally:
        for path in (root, *root.rglob("*")):
            path.chmod(0o755)
        shutil.rmtree(root)


SORT = """
import json, pathlib, subprocess, sys
disk, images = sys.argv[1], pathlib.Path(sys.argv[2])
command = [sys.executable, "-m", "densenet_cli", *json.loads(sys.argv[3])]
def contents(folder):
    return [path.read_bytes() for path in sorted(pathlib.Path(folder).rglob("*.png"))]
before = sorted(contents(images))
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=192k", "tmpfs", disk], check=True)
first = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
placed, left = contents(disk), contents(images)
subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
second = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
finished = sorted(contents(disk))
undone = subprocess.run([*command[:3], "sort", "--undo", disk], stdout=subprocess.DEVNULL)
print(json.dumps({
    "status": first.returncode, "message": first.stderr.splitlines()[-1], "placed": len(placed), "left": len(left),
    "nothing is lost": set(placed + left) == set(before), "statuses": [second.returncode, undone.returncode],
    "is complete": finished == before, "is restored": sorted(contents(images)) == before and contents(disk) == [],
}))
"""


@needs_a_small_disk
@pytest.mark.parametrize("action", ["--copy", "--move"])
def test_sorting_to_a_full_disk_can_be_continued(weights, tmp_path, action):
    """The disk is another file system, so that a move copies."""
    images, disk = tmp_path / "images", tmp_path / "disk"
    images.mkdir()
    disk.mkdir()
    noise_images(images, 100)
    arguments = ["sort", str(images), "--into", str(disk), "--weights", str(weights), action]
    report = run_in_namespace(SORT, disk, images, json.dumps(arguments))
    assert report["status"] == 4 and "No space left on device" in report["message"]
    assert 5 < report["placed"] < 95 and report["nothing is lost"]
    assert report["left"] == (100 if action == "--copy" else 100 - report["placed"])
    assert report["statuses"] == [0, 0] and report["is complete"] and report["is restored"]
