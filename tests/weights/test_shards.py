"""Checkpoints in several files with an index."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from densenet_cli.errors import CheckpointError
from densenet_cli.topology import DenseNetConfig
from densenet_cli.weights import checkpoint, file_identity, shards
from tests.support import checkpoints as support
from tests.support import torch_files as writer
from tests.support.checkpoints import error_message
from tests.support.networks import unscaled_arrays

CONFIG = DenseNetConfig((1, 2), growth_rate=2, stem_width=4, classes=3)
ARRAYS = unscaled_arrays(CONFIG)


def write_shards(folder: Path, kind: str = "safetensors", count: int = 3) -> Path:
    """Write the arrays in ``count`` files with an index, whose path is returned."""
    stem = "model" if kind == "safetensors" else "pytorch_model"
    tensors = list(support.torch_tensors(ARRAYS, CONFIG).items())
    weight_map = {}
    for number in range(count):
        name = f"{stem}-{number + 1:05d}-of-{count:05d}.{kind}"
        part = dict(tensors[number::count])
        if kind == "safetensors":
            save_file(part, folder / name)
        else:
            writer.write_archive(folder / name, {key: writer.tensor(values) for key, values in part.items()})
        weight_map.update(dict.fromkeys(part, name))
    index = folder / f"{stem}.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}, indent=2))
    return index


def test_checksum_covers_all_shards(tmp_path):
    index = write_shards(tmp_path)
    before = shards.checkpoint_md5(index)
    shard = tmp_path / "model-00002-of-00003.safetensors"
    assert shards.checkpoint_md5(shard) == file_identity.file_md5(shard)
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert shards.checkpoint_md5(index) != before


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_arrays_of_all_shards_are_read(tmp_path, kind):
    index = write_shards(tmp_path, kind)
    loaded = checkpoint.read(index)
    assert loaded.config == CONFIG
    for layer, arrays in ARRAYS.items():
        for name, values in arrays.items():
            np.testing.assert_allclose(loaded.arrays[layer][name], values, rtol=1e-5, atol=1e-8)


def test_files_of_a_checkpoint(tmp_path):
    index = write_shards(tmp_path)
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    assert shards.checkpoint_files(index) == [index, *(tmp_path / name for name in names)]
    assert shards.checkpoint_files(tmp_path / names[0]) == [tmp_path / names[0]]


def test_a_single_shard_is_rejected(tmp_path):
    index = write_shards(tmp_path)
    assert f"Use the index of all shards, {index.name}" in error_message(tmp_path / "model-00002-of-00003.safetensors")
    index = write_shards(tmp_path, count=1)
    assert checkpoint.read(tmp_path / "model-00001-of-00001.safetensors").config == CONFIG


def test_missing_shard_and_missing_array(tmp_path):
    index = write_shards(tmp_path)
    shard = tmp_path / "model-00002-of-00003.safetensors"
    save_file({"other": np.zeros(1)}, shard)
    assert "does not contain the array" in error_message(index)
    shard.write_bytes(shard.read_bytes()[:-1])
    assert "Shard model-00002-of-00003.safetensors: The file is damaged" in error_message(index)
    shard.unlink()
    assert "model-00002-of-00003.safetensors is missing" in error_message(index)
    shard.mkdir()
    assert "model-00002-of-00003.safetensors is missing" in error_message(index)


def test_shards_larger_than_the_limit_together(tmp_path):
    index = write_shards(tmp_path)
    for shard in tmp_path.glob("*.safetensors"):
        with shard.open("r+b") as file:
            file.truncate(1 << 30)
    assert "3,221,225,472 bytes" in error_message(index)


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..",
        "",
        ".hidden.safetensors",
        "x.pkl",
        5,
        None,
        ["x"],
    ],
)
def test_names_of_other_folders_and_files_are_rejected(tmp_path, name):
    index = write_shards(tmp_path)
    values = json.loads(index.read_text())
    values["weight_map"]["features.conv0.weight"] = name
    index.write_text(json.dumps(values))
    error_message(index)
    with pytest.raises(CheckpointError):
        shards.checkpoint_files(index)


@pytest.mark.parametrize(
    "text", ["{", "{}", '{"weight_map": {}}', '{"weight_map": []}', '{"weight_map": 5}', '{"a":' + "[" * 100_000]
)
def test_damaged_index(tmp_path, text):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    error_message(index)


def test_index_with_too_many_shards(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {str(number): f"{number}.bin" for number in range(2000)}}))
    assert "1,000 shards" in error_message(index)
