"""What ``weights`` can name: files and folders. The Hub has tests of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from densenet_cli.errors import CheckpointError, UsageError
from densenet_cli.weights.locations import find_checkpoint, model_name


def create(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


@pytest.mark.parametrize("name", ["hf:/timm/x", "hf:timm/x", "HF:///timm/x"])
def test_a_url_with_a_missing_slash(name, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="hf://timm/x" if name != "HF:///timm/x" else "hf://"):
        find_checkpoint(name)
    monkeypatch.chdir(tmp_path)
    create(tmp_path, "hf:x.h5")
    assert find_checkpoint("hf:x.h5") == Path("hf:x.h5")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["pytorch_model.bin", "model.safetensors", "config.json", "x.pth"], "model.safetensors"),
        (
            ["pytorch_model.bin", "model.safetensors.index.json", "model-00001-of-00001.safetensors"],
            "model.safetensors.index.json",
        ),
        (["pytorch_model.bin", "other.safetensors"], "pytorch_model.bin"),
        (["config.json", "metadata.json", "model.weights.h5", "x.pth"], "model.weights.h5"),
        (["a.keras", "b.pth", "c.pth"], "a.keras"),
        (["a.weights.h5", "b.pth"], "a.weights.h5"),
        (["README.md", "checkpoint.pth.tar"], "checkpoint.pth.tar"),
        (["model.pt", "optimizer.pt", "training_args.bin", ".hidden.pt"], "model.pt"),
        (["sub/model.safetensors", "model.ckpt"], "model.ckpt"),
    ],
)
def test_checkpoint_in_a_folder(tmp_path, names, expected):
    create(tmp_path, *names)
    assert find_checkpoint(tmp_path) == find_checkpoint(f"{tmp_path}/") == tmp_path / expected


def test_loop_of_links_in_a_folder_is_no_checkpoint(tmp_path):
    create(tmp_path, "x.pth")
    (tmp_path / "model.safetensors").symlink_to("model.safetensors")
    assert find_checkpoint(tmp_path) == tmp_path / "x.pth"


def test_several_checkpoints_are_listed(tmp_path):
    create(tmp_path, "b.pth", "a.pth", "c.txt")
    with pytest.raises(CheckpointError, match=r"a\.pth and b\.pth"):
        find_checkpoint(tmp_path)


@pytest.mark.parametrize("names", [[], ["config.json", "README.md"], ["sub/model.safetensors"]])
def test_folder_without_a_checkpoint(tmp_path, names):
    create(tmp_path, *names)
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        find_checkpoint(tmp_path)


def test_other_paths_are_files(tmp_path):
    assert find_checkpoint(tmp_path / "missing.h5") == tmp_path / "missing.h5"
    assert find_checkpoint("hf/a/b") == Path("hf/a/b")


def test_names_of_models(tmp_path, monkeypatch):
    create(tmp_path / "cats v1.0", "model.safetensors")
    monkeypatch.chdir(tmp_path / "cats v1.0")
    assert model_name("x/mine.weights.h5") == "mine"
    assert model_name("x/mine.pth.tar") == "mine"
    assert model_name("x/mine.safetensors.index.json") == "mine"
    assert model_name("x/densenet121.ra_in1k.safetensors") == "densenet121.ra_in1k"
    assert model_name("../cats v1.0/") == model_name(tmp_path / "cats v1.0") == model_name(".") == "cats v1.0"
    (tmp_path / "link").symlink_to("cats v1.0")
    assert model_name(tmp_path / "link") == "link"
    (tmp_path / "cats v1.0" / "sub").mkdir()
    assert model_name("sub/..") == "cats v1.0"
    assert model_name("hf://timm/densenet121.ra_in1k@v1/x.bin") == "densenet121.ra_in1k"
    snapshot = create(tmp_path / "models--timm--densenet121.ra_in1k" / "snapshots" / "5f", "model.safetensors")
    assert model_name(snapshot) == "densenet121.ra_in1k"
    assert model_name(create(tmp_path / "run" / "snapshots" / "epoch10", "model.safetensors")) == "epoch10"


@pytest.mark.parametrize("url", ["hf://nothing", "https://huggingface.co/timm/densenet121.ra_in1k"])
def test_invalid_url(url):
    with pytest.raises(UsageError, match="hf://ORGANIZATION/NAME"):
        find_checkpoint(url)
