"""What calibration stores in a checkpoint, and what it reads back from damaged files."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from densenet_cli.calibration.conformal import true_scores
from densenet_cli.calibration.record import MIN_IMAGES, Calibration, Scores
from densenet_cli.errors import CheckpointError, UsageError
from densenet_cli.weights import checkpoint, metadata, safetensors
from densenet_cli.weights.contents import ModelMetadata
from tests.support.networks import TINY, random_arrays


def fit(images=200, classes=10, seed=0):
    random = np.random.default_rng(seed)
    logits = (random.normal(size=(images, classes)) * 3).astype(np.float32)
    targets = np.where(random.random(images) < 0.6, logits.argmax(axis=1), random.integers(0, classes, images))
    return logits, targets, Calibration.fit(logits, targets, "softmax", {"mode": "crop"}, "2026-01-31")


def fit_multi_label(images=200, classes=3, seed=0):
    random = np.random.default_rng(seed)
    logits = (random.normal(size=(images, classes)) * 3).astype(np.float32)
    targets = (random.random(logits.shape) < 1 / (1 + np.exp(-logits / 2))).astype(np.int64)
    targets[random.random(logits.shape) < 0.2] = -1
    return logits, targets, Calibration.fit(logits, targets, "sigmoid", {"mode": "crop"}, "2026-01-31")


def restore(calibration):
    return Calibration.from_dict(json.loads(json.dumps(calibration.to_dict())), calibration.classes)


@pytest.mark.parametrize("classes", [2, 10, 300])
def test_scores_survive_storage(classes):
    logits, targets, calibration = fit(classes=classes)
    restored = restore(calibration)
    restored.check(is_multi_label=False)
    assert restored == calibration
    assert restored.accuracy == (logits.argmax(axis=1) == targets).mean()
    probabilities = calibration.probabilities(logits)
    for method in ("lac", "raps"):
        expected = np.sort(true_scores(probabilities, targets, method))
        stored = np.sort(restored.scores.of_method(method))
        np.testing.assert_allclose(stored, expected, rtol=2e-7)
        assert (stored >= expected).all()
    assert sorted(restored.scores.confidences) == sorted(probabilities.max(axis=1))
    pairs = sorted(zip(restored.scores.targets, restored.scores.predicted, strict=True))
    assert pairs == sorted(zip(targets, logits.argmax(axis=1), strict=True))


def test_scores_of_labels_survive_storage():
    logits, targets, calibration = fit_multi_label()
    restored = restore(calibration)
    restored.check(is_multi_label=True)
    assert restored == calibration
    assert restored.temperature == pytest.approx([2, 2, 2], rel=0.4)
    probabilities = calibration.probabilities(logits)
    for position, scores in enumerate(restored.label_scores):
        known = targets[:, position] >= 0
        expected = sorted(zip(probabilities[known, position], targets[known, position] == 1, strict=True))
        assert sorted(zip(*scores, strict=True)) == expected
        assert (np.diff(scores.probabilities) <= 0).all()


def test_storage_is_compact():
    assert len(json.dumps(fit(images=2000)[2].to_dict())) < 2000 * 19 + 500
    assert len(json.dumps(fit_multi_label(images=2000)[2].to_dict())) < 2000 * 3 * 5.6 + 500


def test_order_of_the_images_is_not_stored():
    logits, targets, calibration = fit()
    order = np.random.default_rng(1).permutation(len(logits))
    scores = Scores.of(calibration.probabilities(logits)[order], targets[order])
    assert scores.to_dict(10) == calibration.to_dict()["scores"]


def test_too_few_and_too_many_images():
    logits, targets, _ = fit(images=MIN_IMAGES)
    with pytest.raises(UsageError, match=str(MIN_IMAGES)):
        Calibration.fit(logits[1:], targets[1:], "softmax", {}, "2026-01-31")
    with pytest.raises(UsageError):
        Calibration.fit(np.zeros((300_000, 2), np.float32), np.zeros(300_000, int), "softmax", {}, "2026-01-31")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "calibrated.safetensors"
    safetensors.write(path, random_arrays(TINY), TINY, ModelMetadata(calibration=fit()[2].to_dict()))
    return path


def test_checkpoint_keeps_calibration_and_weights(file, tmp_path):
    plain = tmp_path / "plain.safetensors"
    safetensors.write(plain, random_arrays(TINY), TINY, ModelMetadata())
    assert checkpoint.read(plain).metadata.calibration is None
    stored = checkpoint.read(file).metadata.calibration
    assert Calibration.from_dict(stored, 10) == fit()[2]
    before, after = load_file(plain), load_file(file)
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 300), st.floats(), st.text(max_size=5), st.just([]), st.just({})
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_values_are_checkpoint_errors(data):
    """Any change gives an error, or a calibration whose numbers are in their ranges."""
    config, calibration = data.draw(
        st.sampled_from([(TINY, CALIBRATION), (replace(TINY, classes=3, activation="sigmoid"), MULTI_LABEL)])
    )
    values = json.loads(metadata.dump(config, ModelMetadata(calibration=calibration), 1e-5))
    target = values["calibration"]
    key = data.draw(st.sampled_from(sorted(target)))
    while isinstance(target[key], dict | list) and data.draw(st.booleans()) and target[key]:
        target = target[key]
        key = data.draw(st.sampled_from(sorted(target) if isinstance(target, dict) else range(len(target))))
    if isinstance(target[key], str) and data.draw(st.booleans()):
        text = target[key]
        start = data.draw(st.integers(0, len(text)))
        target[key] = text[:start] + data.draw(st.text("AZaz09+/=-", max_size=4)) + text[start + 1 :]
    elif data.draw(st.booleans()):
        target[key] = data.draw(VALUES)
    elif isinstance(target, dict):
        del target[key]
    try:
        parsed = metadata.parse(json.dumps(values))
    except CheckpointError:
        return
    if parsed["metadata"].calibration is not None:
        result = Calibration.from_dict(parsed["metadata"].calibration, config.classes)
        probabilities = result.probabilities(np.ones((1, config.classes), np.float32))
        assert np.isfinite(probabilities).all()


CALIBRATION, MULTI_LABEL = fit()[2].to_dict(), fit_multi_label()[2].to_dict()


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"temperature": 0},
        {"temperature": float("nan")},
        {"temperature": [1.0] * 10},
        {"images": 199},
        {"images": 10**12},
        {"accuracy": 1.5},
        {"scores": {**CALIBRATION["scores"], "confidences": "AAAA"}},
        {"scores": {**CALIBRATION["scores"], "confidences": CALIBRATION["scores"]["confidences"][:-8] + "AADAfw=="}},
        {"scores": {**CALIBRATION["scores"], "targets": "/" * 266 + "8="}},
    ],
)
def test_wrong_values_are_checkpoint_errors(change):
    values = json.loads(metadata.dump(TINY, ModelMetadata(calibration=CALIBRATION), 1e-5))
    metadata.parse(json.dumps(values))
    values["calibration"].update(change)
    with pytest.raises(CheckpointError):
        metadata.parse(json.dumps(values))
