"""``scripts/check_published.py``, with a file of random weights instead of the published one."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from densenet_cli import labels, variants
from densenet_cli.weights import safetensors
from densenet_cli.weights.contents import ModelMetadata
from tests.conftest import ROOT
from tests.support.checkpoints import write_legacy_h5
from tests.support.hub import Hub
from tests.support.networks import TINY, random_arrays


@pytest.fixture
def script(keras, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    spec = importlib.util.spec_from_file_location("check_published", ROOT / "scripts" / "check_published.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_equal_weights_pass_and_different_weights_fail(script, keras, photographs, tmp_path, monkeypatch, capsys):
    variant = variants.get("121")
    file = tmp_path / "published" / variant.weights.name
    file.parent.mkdir()
    image = np.random.default_rng(0).normal(size=(1, 224, 224, 3))
    arrays = random_arrays(variant.config, image=image, top=0.1)
    write_legacy_h5(file, arrays, variant.config)
    md5 = hashlib.md5(file.read_bytes()).hexdigest()
    published = dataclasses.replace(variant, weights=variants.WeightsFile(file.name, md5))
    monkeypatch.setenv("DENSENET_BASE_URL", file.parent.as_uri())
    reference = keras.applications.DenseNet121(weights=str(file))
    monkeypatch.setattr(script, "load_reference", lambda name: reference)
    with variants.register(published):
        assert script.check("121", photographs[:2])
        assert md5 in capsys.readouterr().out
        head = reference.get_layer("predictions")
        head.set_weights([head.get_weights()[0] * 1.01, head.get_weights()[1]])
        assert not script.check("121", photographs[:2])
    assert "FAILED" in capsys.readouterr().out


@pytest.fixture
def hub(monkeypatch):
    """A Hub with a small network under the name of timm's DenseNet-121."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    path = Path(os.environ["HF_HOME"]).with_name("model.safetensors")
    safetensors.write(path, random_arrays(TINY), TINY, ModelMetadata(labels=labels.placeholders(10)))
    with Hub({"model.safetensors": path.read_bytes()}, repository="timm/densenet121.tv_in1k").serve() as content:
        monkeypatch.setenv("HF_ENDPOINT", content.endpoint)
        yield content


def test_engines_are_compared_without_timm(script, hub, photographs, monkeypatch, capsys):
    monkeypatch.setattr(script, "find_spec", lambda name: None)
    assert script.check_timm("densenet121.tv_in1k", photographs[:2])
    assert "timm is not installed" in capsys.readouterr().out


def test_difference_from_timm_fails(script, hub, photographs, monkeypatch, capsys):
    outputs = np.full((2, 10), 0.1, np.float32), np.arange(20, dtype=np.float32).reshape(2, 10)
    monkeypatch.setattr(script, "find_spec", lambda name: name)
    monkeypatch.setattr(script, "run_timm", lambda path, images: outputs)
    assert not script.check_timm("densenet121.tv_in1k", photographs[:2])
    assert "FAILED" in capsys.readouterr().out


def test_accuracies_are_measured(script, hub, photographs, tmp_path, monkeypatch, capsys):
    module = sys.modules["published_accuracies"]
    assert module.print_accuracies(None)
    assert "76.896" in capsys.readouterr().out
    for index in range(10):
        (tmp_path / "val" / labels.placeholders(10)[index].name).mkdir(parents=True)
        shutil.copy(photographs[0], tmp_path / "val" / labels.placeholders(10)[index].name)
    entries = [module._timm("densenet121.tv_in1k", 10.0, 50.0), module._torchvision("121", 10.0, 50.0)]
    monkeypatch.setattr(module, "PUBLISHED", entries)
    assert module.print_accuracies(tmp_path / "val")
    monkeypatch.setattr(module, "PUBLISHED", [module._timm("densenet121.tv_in1k", 20.0, 50.0)])
    assert not module.print_accuracies(tmp_path / "val")
    assert "10.000 50.000 FAILED" in capsys.readouterr().out
