"""Initial weights and averaged weights."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from densenet_cli.training import recipes
from densenet_cli.training.options import RunOptions, StepInfo
from tests.training.images import CONFIG, SETTINGS


def test_the_average_forgets_its_initial_weights(keras):
    from densenet_cli.training.network import AVERAGING_INTERVAL, WeightAverage

    average = WeightAverage([np.zeros(1, np.float32)], horizon=80)
    steps = (AVERAGING_INTERVAL - 1, AVERAGING_INTERVAL, 2 * AVERAGING_INTERVAL)
    assert [average.is_due(step) for step in steps] == [False, True, True]
    for _ in range(100):
        average.update([np.ones(1, np.float32)])
    assert average.weights[0][0] > 0.999
    before = float(average.weights[0][0])
    average.update([np.full(1, 2, np.float32)])
    expected = before + (2 - before) * (1 - math.exp(-AVERAGING_INTERVAL / 80))
    assert average.weights[0][0] == pytest.approx(expected, abs=1e-6)


def test_no_averaging(keras):
    from densenet_cli.training.network import AVERAGING_INTERVAL, WeightAverage

    assert not WeightAverage([np.zeros(1, np.float32)], horizon=0).is_due(AVERAGING_INTERVAL)


def changes_in_a_step(**values) -> dict[str, np.ndarray]:
    """Return by how much a step changes each trainable variable of a network with the same weights each time."""
    from densenet_cli.engines import keras_ops
    from densenet_cli.training import network
    from tests.support.networks import unscaled_arrays

    model = network.build(CONFIG, "float32")
    keras_ops.set_arrays(model, unscaled_arrays(CONFIG))
    network.compile_for_training(model, replace(SETTINGS, learning_rate=0.01, **values))
    before = {variable.path: variable.numpy() for variable in model.trainable_variables}
    generator = np.random.default_rng(0)
    pixels = generator.normal(size=(8, 16, 16, 3)).astype(np.float32)
    model.train_on_batch(pixels, np.eye(10, dtype=np.float32)[:8])
    return {variable.path: variable.numpy() - before[variable.path] for variable in model.trainable_variables}


def test_the_backbone_has_a_lower_learning_rate(keras):
    full = changes_in_a_step(weight_decay=0.0)
    lower = changes_in_a_step(weight_decay=0.0, backbone_rate=0.1)
    for path, change in lower.items():
        factor = 1 if path.startswith("predictions/") else 0.1
        np.testing.assert_allclose(change, factor * full[path], 1e-3, 1e-7, err_msg=path)


def test_weight_decay_with_a_lower_rate_for_the_backbone(keras):
    from tests.support.networks import unscaled_arrays

    arrays = unscaled_arrays(CONFIG)
    without = changes_in_a_step(weight_decay=0.0, backbone_rate=0.5)
    decayed = changes_in_a_step(weight_decay=0.2, backbone_rate=0.5)
    for path, change in decayed.items():
        layer, _, name = path.rpartition("/")
        rate = 0.01 if layer == "predictions" else 0.005
        # The first step of Nesterov's method is (1 + momentum) times that of gradient descent.
        expected = -rate * 1.9 * 0.2 * arrays[layer][name] if name == "kernel" else np.zeros_like(change)
        np.testing.assert_allclose(change - without[path], expected, 1e-3, 2e-6, err_msg=path)


@pytest.mark.parametrize("backbone_rate", [1.0, 0.999999])
def test_gradients_are_clipped_to_a_norm(keras, backbone_rate):
    changes = changes_in_a_step(weight_decay=0.0, clip_norm=0.125, backbone_rate=backbone_rate)
    norm = math.sqrt(sum(float((change**2).sum()) for change in changes.values()))
    assert norm == pytest.approx(0.01 * 1.9 * 0.125, rel=1e-3)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "all layers"),
        ({"freeze": "conv1", "start": "x"}, "the layers after conv1"),
        ({"freeze": "conv3", "start": "x", "unfreeze_after": 2}, "the layers after conv3"),
        ({"freeze": "all", "start": "x", "then_unfreeze": True}, "the head"),
    ],
)
def test_the_description_of_the_network(keras, values, text):
    from densenet_cli.training import network, summary

    settings = replace(SETTINGS, **values)
    model = network.build(CONFIG, "float32")
    network.freeze(model, "" if settings.is_head_only else settings.freeze)
    trained = model.get_layer("predictions") if settings.is_head_only else model
    count = sum(int(np.prod(variable.shape)) for variable in trained.trainable_variables)
    description = summary.describe_network(settings, 10)
    assert f" {model.count_params():,} parameters" in description and "16 px" in description
    assert f"{text} ({count:,} parameters)" in description
    assert ("2 epochs" in description) == bool(settings.unfreeze_after)
    assert ("then all layers" in description) == settings.then_unfreeze


def test_the_name_of_the_network():
    from densenet_cli.training import summary

    assert "DenseNet-169" in summary.describe_network(recipes.resolve({}, {"variant": "169"}), 3)
    assert "2, 2 layers" in summary.describe_network(SETTINGS, 3)


def test_the_time_per_epoch_leaves_out_the_first_step(keras):
    """It compiles the network."""
    from densenet_cli.training.loop import MEASURED_STEPS, TrainingRun
    from densenet_cli.training.run_files import RunState

    messages: list[str] = []
    infos: list[StepInfo] = []
    run = TrainingRun.__new__(TrainingRun)
    run.settings, run.state, run.batches = SETTINGS, RunState({}, [], "", images=1), range(50)
    run.options = RunOptions(on_message=messages.append, on_step=infos.append)
    run._steps, run._seconds_per_pixel = 0, 0.0
    for elapsed in (60.0, *[1.0, 3.0] * MEASURED_STEPS):
        run._report_step(elapsed)
    assert len(messages) == 1 and "1:3" in messages[0]  # 50 batches of about 2 seconds
    later = sum(50 * phase.epochs * (phase.size / 12) ** 2 for phase in SETTINGS.sizes) * 2
    assert infos[-1].seconds_left == pytest.approx(later, rel=0.1)
