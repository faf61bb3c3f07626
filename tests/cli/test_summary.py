"""``densenet summary``: totals, formats, and terminal widths."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from densenet_cli import variants
from densenet_cli.labels import from_class_names
from densenet_cli.topology import DenseNetConfig, HeadLayer
from densenet_cli.weights import safetensors
from densenet_cli.weights.contents import ModelMetadata
from tests.support.checkpoints import write_torchvision
from tests.support.command import densenet, run_process
from tests.support.networks import unscaled_arrays


@pytest.mark.parametrize(
    ("variant", "totals"),
    [
        ("121", ["8,062,504", "7,978,856", "2.834 G"]),
        ("161", ["28,900,936", "28,681,000", "7.728 G"]),
    ],
)
def test_totals(variant, totals):
    result = densenet("summary", "--variant", variant)
    assert result.status == 0
    assert all(total in result.out for total in totals)
    assert result.err == ""


def test_every_layer():
    result = densenet("summary", "--layers")
    assert "conv5_block16_2_conv" in result.out


@pytest.mark.parametrize("variant", variants.VARIANTS)
def test_json_totals_are_sums(variant):
    summary = json.loads(densenet("summary", "--variant", variant, "--format", "json").out)
    assert summary["model"] == variants.get(variant).model
    for total in ("parameters", "trainable", "multiply_adds"):
        assert summary[total] == sum(stage[total] for stage in summary["stages"])
        assert summary[total] == sum(layer[total] for stage in summary["stages"] for layer in stage["layers"])
    assert summary["stages"][-1]["output_shape"] == [variants.get(variant).config.classes]


def test_input_size():
    result = densenet("summary", "--input-size", "448")
    assert "14x14x1024" in result.out
    refused = densenet("summary", "--input-size", "16")
    assert refused.status == 2 and "too small" in refused.err


def test_an_unknown_variant_lists_all_variants():
    result = densenet("summary", "--variant", "12")
    assert result.status == 2 and "bc-190-40" in result.err


@pytest.mark.parametrize("columns", ["80", "160"])
def test_table_fits_the_terminal(columns):
    result = run_process("summary", env={**os.environ, "COLUMNS": columns})
    lines = result.stdout.splitlines()
    assert all("Dense block" not in line or "conv)" in line for line in lines)
    assert max(map(len, lines)) <= max(int(columns), 84)


@pytest.fixture
def checkpoint_file(tmp_path):
    head = (HeadLayer("dense", 7), HeadLayer("batch_norm"), HeadLayer("relu"), HeadLayer("dense", 3))
    config = DenseNetConfig((1, 2), 4, stem_width=8, classes=3, pooling="max", activation="sigmoid", input_size=96)
    metadata = ModelMetadata(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), labels=from_class_names("abc"))
    paths = {"plain": tmp_path / "plain.safetensors", "hidden": tmp_path / "hidden.safetensors"}
    for name, network in (("plain", config), ("hidden", replace(config, head=head))):
        safetensors.write(paths[name], unscaled_arrays(network), network, metadata)
    return paths


@pytest.mark.parametrize("name", ["plain", "hidden"])
def test_checkpoint(checkpoint_file, name):
    """The head and what the file states are shown."""
    path = str(checkpoint_file[name])
    result = densenet("summary", "--weights", path)
    assert result.status == 0
    layers = ["global max pool", "dense", "batch norm", "relu", "sigmoid"]
    text = " ".join(result.out.split())
    for layer in layers:
        assert (layer in text) == (name == "hidden" or layer not in ("batch norm", "relu"))
    for statement in (f"{name}: DenseNet, input 96 x 96 x 3", "mean 0.5,0.5,0.5", "std 0.25,0.25,0.25", "3 labels"):
        assert statement in text
    summary = json.loads(densenet("summary", "--weights", path, "--format", "json").out)
    assert summary["config"]["pooling"] == "max" and summary["stated"]["labels"] == ["a", "b", "c"]
    assert summary["stages"][-1]["output_shape"] == [3]


def test_activation(tmp_path):
    config = DenseNetConfig((1, 2), 4, stem_width=8, classes=3)
    path = tmp_path / "bare.safetensors"
    write_torchvision(path, unscaled_arrays(config), config)
    summary = json.loads(densenet("summary", "--weights", path, "--activation", "sigmoid", "--format", "json").out)
    assert (summary["config"]["activation"], summary["stated"]["activation"]) == ("sigmoid", None)
    result = densenet("summary", "--variant", "tiny", "--activation", "sigmoid")
    assert result.status == 2 and "tiny states softmax" in result.err


def test_unreadable_checkpoint(tmp_path):
    result = densenet("summary", "--weights", str(tmp_path / "none.h5"))
    assert result.status == 3 and "none.h5" in result.err
