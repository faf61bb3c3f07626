"""Logits and gradients of heads, compared with the network and with finite differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densenet_cli import Classifier
from densenet_cli.explain.gradients import FUNCTIONS, evidence_maps, head_gradients
from densenet_cli.topology import ACTIVATIONS, DenseNetConfig, HeadLayer
from densenet_cli.weights import safetensors
from tests.conftest import SAMPLES
from tests.support.networks import onnx_outputs, random_arrays

BASE = DenseNetConfig((1, 2), growth_rate=4, stem_width=8, classes=5, input_size=64)


def head_of(arrays, config):
    return {name: arrays[name] for name in config.head_layers if name in arrays}


@pytest.mark.parametrize("name", ACTIVATIONS)
@given(x=st.floats(-8, 8))
@settings(max_examples=40, deadline=None)
def test_derivatives(name, x):
    function, derivative = FUNCTIONS[name]
    if min(abs(x), abs(x - 6)) < 1e-3:  # the corners of relu and relu6
        return
    step = 1e-5
    around = function(np.array([x - step, x + step]), 0.3)
    assert derivative(np.array([x]), 0.3)[0] == pytest.approx((around[1] - around[0]) / (2 * step), abs=1e-4)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("pooling", ["avg", "max", "flatten"])
def test_logits_and_gradients(name, pooling):
    head = (
        HeadLayer("batch_norm"),
        HeadLayer("dense", 6),
        HeadLayer(name, alpha=0.3),
        HeadLayer("dense", 5),
        HeadLayer("batch_norm"),
    )
    config = replace(BASE, pooling=pooling, head=head)
    batch = np.random.default_rng(0).normal(0, 1, (1, 64, 64, 3)).astype(np.float32)
    arrays = random_arrays(config, image=batch)
    features = onnx_outputs(arrays, config, batch, "features")[0].transpose(1, 2, 0)
    pooled = {"avg": features.mean((0, 1)), "max": features.max((0, 1)), "flatten": features.ravel()}[pooling]
    logits, gradients = head_gradients(config, head_of(arrays, config), pooled)
    expected = onnx_outputs(arrays, config, batch, "logits")[0]
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
    rng = np.random.default_rng(1)
    direction = rng.normal(0, 1, pooled.shape)
    step = 1e-6
    after = head_gradients(config, head_of(arrays, config), pooled + step * direction)[0]
    np.testing.assert_allclose(direction @ gradients, (after - logits) / step, rtol=2e-3, atol=1e-3)


def test_grad_cam_equals_its_definition():
    """The weights of the maps are the mean gradients of the logit, here from finite differences in the features."""
    head = (HeadLayer("dense", 6), HeadLayer("tanh"), HeadLayer("dense", 5))
    rng = np.random.default_rng(2)
    for pooling in ("avg", "max", "flatten"):
        config = replace(BASE, pooling=pooling, head=head)
        features = np.abs(rng.normal(0, 1, (8, 8, 14))).astype(np.float32)
        arrays = head_of(random_arrays(config), config)
        pool = {"avg": lambda f: f.mean((0, 1)), "max": lambda f: f.max((0, 1)), "flatten": np.ravel}[pooling]
        evidence = evidence_maps(config, arrays, features)
        for position in range(2):
            gradient = np.zeros(features.shape)
            for index in np.ndindex(features.shape):
                changed = features.astype(np.float64)
                changed[index] += 1e-6
                before = head_gradients(config, arrays, pool(features.astype(np.float64)))[0]
                gradient[index] = (head_gradients(config, arrays, pool(changed))[0] - before)[position] / 1e-6
            expected = np.maximum(features @ gradient.mean((0, 1)), 0)
            values, _ = evidence(position)
            np.testing.assert_allclose(values, expected, atol=2e-3 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize(
    ("changes", "method"),
    [({}, "cam"), ({"activation": "sigmoid"}, "cam"), ({"pooling": "max"}, "grad-cam")],
)
def test_explanation_names_its_method(tmp_path, changes, method):
    config = replace(BASE, **changes)
    safetensors.write(tmp_path / "m.safetensors", random_arrays(config), config)
    with Classifier(weights=tmp_path / "m.safetensors") as classifier:
        explanation = classifier.explain(SAMPLES / "cat.jpg")
        result = next(iter(classifier.stream([], ("logits",))), None)
    assert result is None
    assert explanation.method == method
    assert explanation.to_dict()["method"] == method
    values = explanation.maps[0].values
    assert np.ptp(values) > 0 and (method == "cam" or values.min() >= 0)
