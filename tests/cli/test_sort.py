"""``densenet sort`` from end to end."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.command import densenet, restore_sigint


@pytest.fixture(scope="module")
def folder(calibrated_folder):
    return calibrated_folder


@pytest.fixture
def images(folder, tmp_path):
    """A hundred of the images, two with sidecar files, and one that is damaged."""
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted((folder / "images").iterdir())[:100]:
        shutil.copy(path, images)
    (images / "001.xmp").write_text("about 001")
    (images / "002.png.xmp").write_text("about 002")
    (images / "broken.jpg").write_bytes(b"no image")
    return images


def tree(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".densenet")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def expected_folders(images, weights, *options):
    """Return the folder of each image, according to ``predict``."""
    result = densenet("predict", images, "--weights", weights, *options, "--format", "jsonl")
    folders = {}
    for record in map(json.loads, result.out.splitlines()):
        if "error" in record:
            label = "failed"
        elif "set" in record:
            label = record["set"][0]["label"] if len(record["set"]) == 1 else "unsure"
        elif record.get("unsure") or not record["predictions"]:
            label = "unsure"
        else:
            label = record["predictions"][0]["label"]
        folders[Path(record["source"]).name] = label
    return folders


@pytest.mark.parametrize(
    "options",
    [[], ["--min-prob", 0.5], ["--max-error", 0.4], ["--coverage", 0.7]],
    ids=lambda options: " ".join(map(str, options)),
)
def test_folders_are_those_of_predict(folder, images, tmp_path, options):
    weights, into = folder / "calibrated.safetensors", tmp_path / "sorted"
    expected = expected_folders(images, weights, *options)
    assert (set(expected.values()) >= {"unsure"}) == bool(options)
    before = tree(images)
    dry = densenet("sort", images, "--into", into, "--weights", weights, *options, "--dry-run")
    assert dry.status == 1 and not into.exists() and tree(images) == before
    result = densenet("sort", images, "--into", into, "--weights", weights, *options)
    assert result.status == 1 and "broken.jpg" in result.err
    placed = {path.name: path.parent.name for path in into.rglob("*.*g")}
    assert placed == expected
    for name, count in Counter(expected.values()).items():
        for output in (dry.out, result.out):
            assert any(line.split() == [name, str(count)] for line in output.splitlines())
    assert {path.name for path in into.rglob("*.xmp")} == {"001.xmp", "002.png.xmp"}
    assert tree(images) == before
    assert densenet("sort", "--undo", into).status == 0
    assert not into.exists() and tree(images) == before


@pytest.mark.parametrize("action", ["--copy", "--move", "--link"])
def test_sidecars_that_are_sources(folder, images, tmp_path, action):
    """A shell that expands ``images/*`` passes the sidecar files, too. They are no images, and no errors."""
    weights, into = folder / "calibrated.safetensors", tmp_path / "sorted"
    (images / "001.aae").write_text("edits of 001")
    before = tree(images)
    (images / "broken.jpg").unlink()
    result = densenet("sort", *sorted(images.iterdir()), "--into", into, "--weights", weights, action)
    assert result.status == 0 and "with 3 sidecar files" in result.out and not result.err
    placed = {path.name: path.parent.name for path in into.rglob("*.*") if path.name[0] != "."}
    assert len(placed) == 103 and "failed" not in placed.values()
    assert placed["001.xmp"] == placed["001.aae"] == placed["001.png"]
    assert placed["002.png.xmp"] == placed["002.png"]
    assert densenet("sort", "--undo", into).status == 0
    assert tree(images) == {name: content for name, content in before.items() if name != "broken.jpg"}


def test_dry_run_knows_earlier_runs(folder, images, tmp_path):
    into = tmp_path / "sorted"
    command = ["sort", images, "--into", into, "--weights", folder / "calibrated.safetensors"]
    densenet(*command)
    next(into.rglob("001.png")).unlink()
    shutil.copy(images / "001.png", images / "new.png")
    with (into / ".densenet-sort.jsonl").open("a") as journal:
        journal.write('{"incomplete')
    before = tree(into)
    dry = densenet(*command, "--dry-run")
    assert dry.status == 0 and "1 image to place" in " ".join(dry.out.split()) and tree(into) == before
    result = densenet(*command)
    assert result.status == 0 and "1 image placed" in " ".join(result.out.split())


def test_undo_of_a_renamed_folder(folder, images, tmp_path):
    """Its copies are not where the journal says, so nothing is restored and the journal is kept."""
    into, renamed = tmp_path / "sorted", tmp_path / "renamed"
    densenet("sort", images, "--into", into, "--weights", folder / "calibrated.safetensors")
    into.rename(renamed)
    result = densenet("sort", "--undo", renamed)
    assert result.status == 2 and str(into) in result.err and "Restored" not in result.out
    assert len(tree(renamed)) == 103
    renamed.rename(into)
    assert densenet("sort", "--undo", into).status == 0 and not into.exists()


def test_groups(folder, images, tmp_path):
    weights, into, groups = folder / "calibrated.safetensors", tmp_path / "sorted", tmp_path / "groups.csv"
    groups.write_text("label,folder\nant,Small/Insects\nbee,Small/Insects\ncow,Large\n")
    result = densenet(
        "sort", images, "--into", into, "--weights", weights, "--by", "group", "--groups", groups, "--link"
    )
    assert result.status == 1
    names = {"ant": "Small/Insects", "bee": "Small/Insects", "cow": "Large", "failed": "failed"}
    for name, label in expected_folders(images, weights).items():
        assert (into / names.get(label, "other") / name).is_symlink()


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("ant,Small\n", "no label column"),
        ("label,kind\nant,Small\n", "no folder column"),
        ("label,folder\nant,Small\nant,Large\n", "Line 3 "),
        ("label,folder\naunt,Small\n", "'aunt'"),
    ],
)
def test_bad_groups(folder, tmp_path, table, text):
    (tmp_path / "groups.csv").write_text(table)
    options = ["--weights", folder / "calibrated.safetensors", "--by", "group", "--groups", tmp_path / "groups.csv"]
    result = densenet("sort", folder, "--into", tmp_path / "sorted", *options)
    assert result.status == 2 and text in result.err
    assert "_column" not in result.err  # sort has no option for the name of the column


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_run_continues(folder, images, tmp_path, signal_number):
    """Interrupted at several moments, the same command finally gives the result of an uninterrupted run."""
    weights, into = folder / "calibrated.safetensors", tmp_path / "sorted"
    before, expected = tree(images), expected_folders(images, weights)
    command = [sys.executable, "-m", "densenet_cli", "sort", images, "--into", into, "--weights", weights, "--move"]
    kills = 0
    for count in (1, 30, 60):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=restore_sigint
        )
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if into.exists() and len(tree(into)) >= count:
                process.send_signal(signal_number)
                kills += 1
                break
        process.wait()
        together = [*tree(images).values(), *tree(into).values()]
        assert not Counter(before.values()) - Counter(together)
    assert kills
    assert densenet(*command[3:]).status in (0, 1)
    assert {path.name: path.parent.name for path in into.rglob("*.*g")} == expected
    assert tree(images) == {}
    assert densenet("sort", "--undo", into).status == 0
    assert tree(images) == before


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["images"], "--into"),
        (["--undo", "sorted", "--into", "x"], "--into"),
        (["--undo", "sorted", "--dry-run"], "--dry-run"),
        (["--undo", "sorted", "--move"], "--move"),
        (["--undo", "sorted", "images"], "sources"),
        (["--undo", "sorted"], "journal"),
        (["images", "--into", "x", "--by", "group"], "--groups"),
        (["images", "https://example.com/a.jpg", "--into", "x"], "not on this machine"),
        (["images", "images.zip", "--into", "x"], "in an archive"),
        (["images", "--into", "s3://bucket/x"], "--into"),
        (["images", "--into", "x", "--by", "id"], "ids"),
        (["--into", "x"], "source"),
    ],
)
def test_invalid_input(folder, images, tmp_path, monkeypatch, options, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sorted").mkdir()
    shutil.make_archive("images", "zip", images)
    before = tree(images)
    result = densenet("sort", *options, *(["--weights", folder / "calibrated.safetensors"] * ("--undo" not in options)))
    assert result.status == 2 and text in result.err
    assert tree(images) == before and not (tmp_path / "x").exists() and tree(tmp_path / "sorted") == {}
