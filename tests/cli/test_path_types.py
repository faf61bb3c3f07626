"""Names of output files and folders that all commands refuse before any work."""

from __future__ import annotations

import json
import shutil

import click
import pytest

from densenet_cli.cli import COMMANDS
from densenet_cli.cli import densenet as group
from densenet_cli.cli.path_types import OutputPath
from densenet_cli.weights import safetensors
from densenet_cli.weights.contents import ModelMetadata
from tests.conftest import SAMPLES
from tests.support.command import densenet
from tests.support.networks import TINY, random_arrays

REQUIRED = {"train": ["-o", "run"], "embed": ["-o", "v.npz"]}


def options_of(type_):
    return {
        (name, max(param.opts, key=len))
        for name in COMMANDS
        for param in group.get_command(click.Context(group), name).params
        if isinstance(param.type, type_) and isinstance(param, click.Option)
    }


OUTPUTS = sorted(options_of(OutputPath))
INPUTS = (
    *("--weights", "--labels", "--int8-images", "--files-from", "--csv", "--groups", "--undo"),
    *("--agreement", "--config", "--val"),
)


def test_every_path_is_an_input_or_an_output():
    assert {option for _, option in options_of(click.Path) - options_of(OutputPath)} == set(INPUTS)
    assert {command for command, _ in OUTPUTS} == {
        *("predict", "sort", "explain", "embed", "evaluate", "calibrate", "train", "export"),
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(SAMPLES / "cat.jpg", tmp_path)
    return tmp_path


@pytest.mark.parametrize(("command", "option"), OUTPUTS)
@pytest.mark.parametrize(
    "name", ["", "-", "https://example.org/x", "HTTP://example.org/x", "file:///tmp/x", "file:x", "hf://a/x", "FILE:/x"]
)
def test_names_that_are_not_files(folder, command, option, name):
    if name == "-" and (command, option) == ("predict", "--output"):
        return  # standard output
    arguments = [] if command == "export" else ["."] if command in ("train", "calibrate", "evaluate") else ["cat.jpg"]
    result = densenet(command, *arguments, option, name, "--offline")
    assert result.status == 2
    assert option in result.err
    assert [path.name for path in folder.iterdir()] == ["cat.jpg"]


@pytest.mark.parametrize(("command", "option"), OUTPUTS)
def test_object_storage(folder, command, option):
    """Where URLs are accepted, --offline is the next error."""
    arguments = [] if command == "export" else ["."] if command in ("train", "calibrate", "evaluate") else ["cat.jpg"]
    result = densenet(command, *arguments, option, "s3://key:secret@bucket/x.csv", "--offline")
    assert result.status == 2 and "secret" not in result.err
    is_accepted = option == "--output" and command in ("predict", "embed", "evaluate", "explain")
    assert ("not supported" not in result.err) == is_accepted


@pytest.fixture
def files(folder):
    """A small model in several forms, labels, and tables."""
    metadata = ModelMetadata(labels=None, preprocess="squash", input_size=32, training={}, accuracy={})
    safetensors.write(folder / "w.safetensors", random_arrays(TINY), TINY, metadata)
    (folder / "model").mkdir()
    shutil.copy("w.safetensors", "model/model.safetensors")
    (folder / "model" / "config.json").write_text("{}")
    labels = [f"class {n}" for n in range(200)]
    (folder / "lab.csv").write_text("index,name\n" + "".join(f"{n},{name}\n" for n, name in enumerate(labels)))
    (folder / "lab.json").write_text(json.dumps(labels))
    (folder / "t.csv").write_text("path,label\ncat.jpg,tabby\n")
    (folder / "list.csv").write_text("cat.jpg\n")
    (folder / "run").mkdir()
    shutil.copy("w.safetensors", "run/model.safetensors")
    shutil.copy("t.csv", "run/skipped.csv")
    return folder


@pytest.mark.parametrize(
    "line",
    [
        "predict cat.jpg --variant tiny --labels lab.csv -o lab.csv",
        "predict cat.jpg --weights w.safetensors -o w.safetensors --format csv",
        "predict cat.jpg --weights model -o model/config.json",
        "predict cat.jpg --weights model/model.safetensors -o model/config.json",
        "predict cat.jpg --variant tiny --files-from list.csv -o list.csv",
        "predict cat.jpg --variant tiny --html cat.jpg",
        "predict cat.jpg --variant tiny --labels lab.csv --html lab.csv",
        "embed cat.jpg --weights w.safetensors -o ./w.safetensors",
        "evaluate --csv t.csv --variant tiny --mistakes t.csv",
        "evaluate --csv t.csv --variant tiny --labels lab.json -o lab.json",
        "evaluate --csv t.csv --variant tiny --html t.csv",
        "export --weights w.safetensors -o w.safetensors",
        "export --weights w.safetensors --labels lab.json -o lab.json --format safetensors",
        "train . -o run --freeze all --from run/model.safetensors",
        "train . -o run --freeze all --from run",
        "train --csv run/skipped.csv -o run --freeze all",
    ],
)
def test_files_that_the_command_reads_are_not_replaced(files, line):
    before = {path: path.read_bytes() for path in files.rglob("*") if path.is_file()}
    result = densenet(*line.split(), "--overwrite", "--offline")
    assert result.status == 2
    assert "reads" in result.err
    assert {path: path.read_bytes() for path in files.rglob("*") if path.is_file()} == before


def test_results_can_be_written_beside_a_checkpoint(files):
    arguments = ("predict", "cat.jpg", "--weights", "run", "-o", "run/results.csv")
    assert densenet(*arguments).status == 0
    assert densenet(*arguments, "--overwrite").status == 0
