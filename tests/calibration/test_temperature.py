import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax

from densenet_cli.calibration import temperature
from densenet_cli.errors import UsageError
from densenet_cli.evaluation.probability_fit import bin_index

seeds = st.integers(0, 2**32 - 1)


def draw_logits(seed, images=400, classes=6, scale=4.0):
    """Return logits that are ``scale`` times too large, and classes that follow their true probabilities."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(images, classes)) * 2
    probabilities = np.exp(log_softmax(logits, axis=1))
    targets = (random.random((images, 1)) > probabilities.cumsum(axis=1)).sum(axis=1).clip(max=classes - 1)
    return (logits * scale).astype(np.float32), targets


@settings(max_examples=30, deadline=None)
@given(seeds, st.floats(0.2, 8), st.integers(2, 20))
def test_temperature_minimizes_the_loss(seed, scale, classes):
    logits, targets = draw_logits(seed, classes=classes, scale=scale)
    result = temperature.fit_temperature(logits, targets)

    def loss(log_temperature):
        scores = log_softmax(logits.astype(np.float64) / np.exp(log_temperature), axis=1)
        return -scores[np.arange(len(targets)), targets].mean()

    best = minimize_scalar(loss, bounds=(np.log(0.01), np.log(100)), method="bounded", options={"xatol": 1e-9})
    assert result == pytest.approx(np.exp(best.x), rel=1e-4)
    assert temperature.softmax_loss(logits, targets, result) == pytest.approx(best.fun, abs=1e-9)


def test_temperature_recovers_the_scale_of_the_logits():
    logits, targets = draw_logits(0, images=20_000, scale=3.0)
    assert temperature.fit_temperature(logits, targets) == pytest.approx(3, rel=0.05)


def test_temperature_is_1_if_all_images_are_correct():
    logits, _ = draw_logits(1)
    assert temperature.fit_temperature(logits, logits.argmax(axis=1)) == 1


def test_labels_of_another_model_are_refused():
    logits, _ = draw_logits(2)
    with pytest.raises(UsageError, match="chance"):
        temperature.fit_temperature(logits, logits.argmin(axis=1))


@settings(deadline=None)
@given(seeds, st.floats(0.05, 20))
def test_probabilities_keep_the_order_and_sum_to_1(seed, value):
    logits, _ = draw_logits(seed, images=10)
    probabilities = temperature.to_probabilities(logits, "softmax", value)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert (np.take_along_axis(probabilities, logits.argsort(axis=1), 1)[:, 1:] >= 0).all()
    assert (np.diff(np.take_along_axis(probabilities, logits.argsort(axis=1), 1)) >= 0).all()
    np.testing.assert_allclose(
        probabilities, np.exp(log_softmax(logits.astype(np.float64) / value, axis=1)), rtol=1e-6, atol=1e-38
    )


def test_extreme_logits_give_finite_probabilities():
    logits = np.array([[-1e30, 0, 1e30]], np.float32)
    for activation in ("softmax", "sigmoid"):
        assert np.isfinite(temperature.to_probabilities(logits, activation, 0.01)).all()


def test_label_temperatures_minimize_the_cross_entropy_of_each_class():
    random = np.random.default_rng(3)
    logits = random.normal(size=(2000, 3)) * 2
    targets = (random.random(logits.shape) < expit(logits)).astype(np.int8)
    targets[:, 2] = 0  # no positive image
    targets[random.random(logits.shape) < 0.1] = -1
    scaled = (logits * [2, 0.5, 1]).astype(np.float32)
    result = temperature.fit_label_temperatures(scaled, targets)
    assert result == pytest.approx([2, 0.5, 1], rel=0.15)
    assert result[2] == 1
    for position in (0, 1):
        known = targets[:, position] >= 0
        signed = np.where(targets[known, position] == 1, -1, 1) * scaled[known, position].astype(np.float64)
        losses = [np.logaddexp(0, signed / (result[position] * factor)).mean() for factor in (0.99, 1, 1.01)]
        assert losses[1] == min(losses)


def test_a_label_that_the_logits_do_not_predict_does_not_stop_the_others():
    random = np.random.default_rng(5)
    logits = random.normal(size=(2000, 2)).astype(np.float32)
    targets = (random.random(logits.shape) < expit(logits)).astype(np.int8)
    targets[:, 1] = (random.random(2000) < expit(-logits[:, 1])).astype(np.int8)  # worse than chance
    result = temperature.fit_label_temperatures(logits * 2, targets)
    assert result[0] == pytest.approx(2, rel=0.15) and result[1] == 1
    with pytest.raises(UsageError, match="chance"):
        temperature.fit_label_temperatures(logits[:, 1:], targets[:, 1:])


def test_thresholds_have_the_highest_f1():
    random = np.random.default_rng(4)
    targets = (random.random((300, 2)) < [0.2, 0.02]).astype(np.int8)
    probabilities = (0.3 * targets[:, :1] * [1, 1] + random.random((300, 2)) * 0.6).astype(np.float32)
    thresholds = temperature.label_thresholds(probabilities, targets)
    assert thresholds[1] == 0.5

    def f1(threshold):
        predicted, positive = probabilities[:, 0] >= threshold, targets[:, 0] == 1
        return 2 * (predicted & positive).sum() / (predicted.sum() + positive.sum())

    assert f1(thresholds[0]) == max(map(f1, probabilities[:, 0]))


@settings(deadline=None)
@given(seeds)
def test_calibration_error_is_that_of_evaluate(seed):
    random = np.random.default_rng(seed)
    confidences = random.random(100).astype(np.float32).round(random.integers(1, 4))
    is_correct = random.random(100) < confidences
    bins = [[] for _ in range(15)]
    for confidence, correct in zip(confidences, is_correct, strict=True):
        bins[bin_index(float(confidence))].append(confidence - correct)
    expected = sum(abs(sum(gaps)) for gaps in bins) / 100
    assert temperature.expected_calibration_error(confidences, is_correct) == pytest.approx(expected, abs=1e-6)
