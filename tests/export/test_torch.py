"""Exported safetensors in PyTorch (installed by ``make test-backends``): ``load_state_dict(strict=True)``."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors import safe_open

from densenet_cli import Classifier, variants
from densenet_cli.export import export
from densenet_cli.images.normalization import normalize
from densenet_cli.weights import safetensors
from tests.export.test_formats import documented_prepare
from tests.support.networks import TINY, probabilities_of, random_arrays


@pytest.mark.slow
@pytest.mark.parametrize("name", ["121", "161", "tiny"])
def test_torch_loads_it_strictly_with_the_same_probabilities(tmp_path, photographs, name):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: make test-backends")
    from safetensors.torch import load_file

    from tests.support.torch_densenet import DenseNet

    config = TINY if name == "tiny" else variants.get(name).config
    gray = normalize(np.full((1, config.input_size, config.input_size, 3), 90, np.uint8))
    safetensors.write(tmp_path / "mine.safetensors", random_arrays(config, image=gray), config)
    classifier = Classifier(weights=tmp_path / "mine.safetensors", exact=True)
    path = tmp_path / "torch.safetensors"
    export(classifier, path)
    stored = load_file(path)
    network = DenseNet(config)
    expected_state = network.state_dict()
    assert {key: (value.shape, value.dtype) for key, value in stored.items()} == {
        key: (value.shape, value.dtype) for key, value in expected_state.items()
    }
    network.load_state_dict(stored, strict=True)
    with safe_open(path, "numpy") as file:
        preprocessing = json.loads(file.metadata()["preprocessing"])
    batch = np.concatenate([documented_prepare()(image, preprocessing) for image in photographs])
    with torch.no_grad():
        probabilities = network.eval()(torch.from_numpy(batch.transpose(0, 3, 1, 2).copy())).softmax(1).numpy()
    expected = np.stack(probabilities_of(classifier, photographs))
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
