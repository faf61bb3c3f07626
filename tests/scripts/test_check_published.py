"""``scripts/check_published.py``, with a file of random weights instead of the published one."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util

import numpy as np
import pytest

from densenet_cli import variants
from tests.conftest import ROOT
from tests.support.checkpoints import write_legacy_h5
from tests.support.networks import random_arrays


@pytest.fixture
def script(keras):
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
