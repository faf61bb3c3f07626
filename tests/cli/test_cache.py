"""``densenet cache``: showing, pruning, and verifying the stored files."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import pytest

from densenet_cli.engines import graph_cache, onnx
from densenet_cli.output import remote
from densenet_cli.output.atomic import locked
from densenet_cli.paths import checkpoints_dir, images_dir, staging_dir
from tests.support.checkpoints import write_legacy_h5
from tests.support.command import densenet
from tests.support.images import photograph
from tests.support.networks import TINY, random_arrays


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "mine.h5"
    write_legacy_h5(path, random_arrays(TINY), TINY)
    image = tmp_path / "a.png"
    photograph().save(image)
    assert densenet("predict", image, "--weights", path).status == 0
    return path


def states():
    return [graph["state"] for graph in json.loads(densenet("cache", "--format", "json").out)["graphs"]]


def test_empty_cache():
    result = densenet("cache")
    assert result.status == 0
    assert "absent" in result.out and "none" in result.out


def test_graphs_are_shown_with_their_checkpoints(weights):
    result = densenet("cache")
    assert "mine.h5" in result.out and "current" in result.out
    assert str(graph_cache.graphs_dir()) in result.out
    assert states() == ["current"]


def test_prune_keeps_current_graphs(weights):
    assert densenet("cache", "--prune").status == 0
    assert states() == ["current"]
    weights.unlink()
    assert states() == ["stale"]
    result = densenet("cache", "--prune")
    assert "Removed 1 graph" in result.err
    assert states() == []


def test_verify_finds_a_damaged_graph(weights):
    assert densenet("cache", "--verify").status == 0
    (folder,) = graph_cache.graphs_dir().iterdir()
    (folder / onnx.DATA_FILE).write_bytes(b"")
    result = densenet("cache", "--verify")
    assert result.status == 3
    assert str(folder) in result.err


def test_a_graph_of_another_layout_is_stale(weights):
    (folder,) = graph_cache.graphs_dir().iterdir()
    entry = json.loads((folder / graph_cache.ENTRY_FILE).read_text())
    del entry["layout"], entry["request"]["name"], entry["head"]
    (folder / graph_cache.ENTRY_FILE).write_text(json.dumps(entry))
    result = densenet("cache", "--verify")
    assert result.status == 0
    assert "stale" in result.out and "mine.h5" in result.out


@pytest.mark.parametrize(("find_folder", "name"), [(images_dir, "a.pixels"), (checkpoints_dir, "5f/model.safetensors")])
def test_other_files_are_shown_and_pruned(find_folder, name):
    folder = find_folder()
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_bytes(bytes(3_000_000))
    result = densenet("cache")
    assert str(folder) in result.out and "3.0 MB" in result.out
    assert densenet("cache", "--prune").status == 0
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("find_folder", [graph_cache.graphs_dir, images_dir, checkpoints_dir])
def test_files_that_cannot_be_removed(find_folder, monkeypatch):
    path = find_folder() / "damaged"
    path.parent.mkdir(parents=True)
    path.touch()
    original = Path.unlink

    def unlink(self, missing_ok=False):
        if self == path:
            raise PermissionError(1, "Operation not permitted")
        original(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    result = densenet("cache", "--prune")
    assert result.status == 4
    assert f"Cannot remove {path}" in result.err
    assert path.exists()


def test_staged_results_that_cannot_be_removed(monkeypatch):
    folder = staging_dir() / "run"
    (folder / "files").mkdir(parents=True)
    (folder / "state.json").write_text('{"url": "s3://bucket/a.csv"}')
    monkeypatch.setattr(remote.shutil, "rmtree", mock.Mock(side_effect=PermissionError(1, "Operation not permitted")))
    result = densenet("cache", "--prune")
    assert result.status == 4
    assert str(folder) in result.err


def test_staged_results_of_a_running_command_are_kept():
    folder = staging_dir() / "run"
    (folder / "files").mkdir(parents=True)
    (folder / "state.json").write_text('{"url": "s3://bucket/a.csv"}')
    with locked(folder / "lock"):
        result = densenet("cache", "--prune")
    assert result.status == 0
    assert "s3://bucket/a.csv" in result.err
    assert folder.exists()


def test_files_that_disappear(monkeypatch):
    images_dir().mkdir(parents=True)
    (images_dir() / "gone").symlink_to("nowhere")
    original = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda self: self.name == "gone" or original(self))
    assert densenet("cache").status == 0
